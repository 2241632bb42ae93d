"""``learn`` of several layers: planted ones, quadratics by finite differences, certificates by the product itself."""

import itertools

import pytest
import torch
from makers import normal, uniform, unit

import pursuitnet as pn
from pursuitnet.problems.learning.atoms import Unexplained
from pursuitnet.problems.learning.factors import LayeredFactors, LayerQuadratic
from pursuitnet.problems.learning.filters import completed, unpadded
from pursuitnet.problems.learning.statistics import Quadratic, SufficientStatistics

LAYERS = {
    "matrices": (lambda: [pn.LinearDictionary(unit(5, 7)), pn.LinearDictionary(unit(6, 5))], (7,)),
    "1-D, strided, dilated": (
        lambda: [
            pn.ConvDictionary(unit(3, 2, 3), 2, 3, 2),
            pn.ConvDictionary(unit(4, 3, 2), dilation=2),
            pn.ConvDictionary(unit(3, 4, 2)),
        ],
        (2, 27),
    ),
    "2-D": (
        lambda: [pn.ConvDictionary(unit(3, 1, 3, 2), padding=2), pn.ConvDictionary(unit(4, 3, 2, 2), stride=2)],
        (1, 8, 9),
    ),
    "circular": (
        lambda: [pn.CircularDictionary(unit(3, 1, 2, 3)), pn.CircularDictionary(unit(2, 3, 3, 2), dilation=(1, 2))],
        (1, 7, 8),
    ),
}
every_stack = pytest.mark.parametrize("name", LAYERS)


def sparsest(weight, nonzeros):
    """Filters with their largest entries only, of length 1."""
    flat = weight.flatten(1)
    kept = flat.abs().topk(nonzeros, dim=1).indices
    flat = flat * torch.zeros_like(flat).scatter(1, kept, 1.0)
    return torch.nn.functional.normalize(flat).view_as(weight)


def correlations(weight, true):
    """The largest |correlation| of each true atom with a learned one, over all shifts."""
    learned, true = (torch.nn.functional.normalize(w.detach().flatten(1)).view_as(w) for w in (weight, true))
    padding = [k - 1 for k in true.shape[2:]]
    return torch.nn.functional.conv2d(true, learned, padding=padding).flatten(2).abs().amax((1, 2))


def drawn(name, share=0.4):
    """Layers, signals, a code of them, and the sufficient statistics of both."""
    make, shape = LAYERS[name]
    composed = pn.ComposedDictionary(make()).requires_grad_(False)
    x = normal(2, *shape, seed=1)
    size = composed.analyze(x).shape
    code = normal(*size, seed=2) * (uniform(0, 1, *size, seed=3) < share)
    filters, sides = unpadded(composed.effective().requires_grad_(False))
    sums = SufficientStatistics.of(filters, code, completed(filters, sides, x, None, code))
    return composed, x, code, sums


@every_stack
def test_the_slope_in_the_filters_of_each_layer_is_that_of_finite_differences(name):
    composed, x, code, sums = drawn(name)
    weights = [D.weight.detach().clone() for D in composed.layers]

    def fit(i, weight):
        layers = LAYERS[name][0]()
        layers[i] = pn.LinearDictionary(weight) if composed.dims == 0 else layers[i].with_weight(weight)
        with torch.no_grad():
            return float(0.5 * (x - pn.ComposedDictionary(layers).synthesize(code, x.shape)).square().sum())

    for i, weight in enumerate(weights):
        quadratic = LayerQuadratic(Quadratic(sums), composed.layers, weights, i)
        slope = quadratic.times(weight) - quadratic.cross
        toward = normal(*weight.shape, seed=10 + i)
        by_hand = (fit(i, weight + 1e-4 * toward) - fit(i, weight - 1e-4 * toward)) / 2e-4
        assert float((slope * toward).sum()) == pytest.approx(by_hand, rel=1e-7, abs=1e-7)


@every_stack
def test_the_energies_of_the_layers_are_those_of_their_codes(name):
    composed, x, code, sums = drawn(name)
    factors = LayeredFactors(composed, [None] * len(composed.layers))
    codes, shapes = [code], composed.shapes(x.shape)
    for D, shape in zip(composed.layers[:0:-1], shapes[-2:0:-1], strict=True):
        codes.insert(0, D.synthesize(codes[0], shape))
    for i, layer_code in enumerate(codes):
        expected = layer_code.square().sum([axis for axis in range(layer_code.dim()) if axis != 1])
        torch.testing.assert_close(factors._energies(sums, Quadratic(sums), i), expected)


@every_stack
def test_a_step_lowers_the_fit_and_meets_the_constraints(name):
    composed, _, _, sums = drawn(name)
    factors = LayeredFactors(composed, [None, *[3] * (len(composed.layers) - 1)])
    quadratic = Quadratic(sums)

    def value():
        W = factors.dictionary.weight.detach().view_as(sums.cross)
        return float((W * (0.5 * quadratic.times(W) - sums.cross)).sum())

    values = [value()]
    for _ in range(4):
        factors.assign(factors.improved(sums, 10))
        values.append(value())
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))
    assert values[-1] < values[0] - 1e-3 * abs(values[0])
    for D in factors.layers:
        assert D.weight.flatten(1).norm(dim=1).max() <= 1 + 1e-12
    assert all((D.weight != 0).flatten(1).sum(1).max() <= 3 for D in factors.layers[1:])
    torch.testing.assert_close(factors.dictionary.weight, factors.result.effective_weight())


def planted():
    """Two layers, signals of sparse codes of them with noise, and layers that are near."""
    w1, w2 = unit(4, 1, 5, 5).float(), sparsest(unit(6, 4, 3, 3, seed=1).float(), 3)
    true = pn.ComposedDictionary([pn.ConvDictionary(w1, padding=6), pn.ConvDictionary(w2)]).requires_grad_(False)
    shape = (8, 1, 16, 16)
    size = true.analyze(torch.zeros(shape)).shape
    code = 2 * normal(*size, seed=2) * (uniform(0, 1, *size, seed=3) < 0.01)
    x = true.synthesize(code.float(), shape) + 0.02 * normal(*shape, seed=4).float()
    noise = [unit(*w.shape, seed=5).float() for w in (w1, w2)]
    near = [
        torch.nn.functional.normalize((w + 0.6 * n).flatten(1)).view_as(w) for w, n in zip((w1, w2), noise, strict=True)
    ]
    return true, x, [pn.ConvDictionary(near[0], padding=6), pn.ConvDictionary(near[1])]


def test_planted_layers_are_recovered_from_near_ones_and_their_objective_is_reached():
    true, x, near = planted()
    begun = correlations(pn.ComposedDictionary(near).effective_weight(), true.effective_weight())
    learned = pn.learn(x, near, 0.4, atom_nonzeros=3, max_iterations=20)
    first, last = learned.dictionary.layers
    assert begun.min() < 0.8
    assert correlations(learned.dictionary.effective_weight(), true.effective_weight()).min() >= 0.95
    assert correlations(first.weight, true.layers[0].weight).min() >= 0.94
    assert ((last.weight != 0).flatten(1).sum(1) == 3).all()
    planted_objective = pn.solve(x, true, 0.4, max_steps=3000).objective.sum()
    assert learned.history[-1].objective <= float(planted_objective)
    supports = [w != 0 for w in (last.weight, true.layers[1].weight)]
    assert (supports[0] & supports[1]).sum() >= 16  # of 18


def test_every_objective_of_the_history_has_a_certificate_that_the_product_confirms():
    _, x, near = planted()
    seen = []
    learned = pn.learn(
        x[:2], near, 0.4, atom_nonzeros=3, max_iterations=4, callback=lambda report, D: seen.append((report, repr(D)))
    )
    assert all(report.gap <= 1e-4 for report in learned.history) and learned.history[-1].iteration == 4
    assert all("ComposedDictionary" in text for _, text in seen)
    with torch.no_grad():
        own = pn.solve(x[:2], learned.dictionary, 0.4, max_steps=9000)
    assert own.converged
    assert learned.history[-1].objective == pytest.approx(float(own.objective.sum()), rel=2e-4)
    objectives = [report.objective for report, _ in seen]
    assert objectives[-1] < objectives[0]


def test_the_product_is_solved_as_the_effective_dictionary_is():
    layers = [pn.ConvDictionary(unit(3, 1, 3, 3), padding=3), pn.ConvDictionary(unit(4, 3, 3, 3, seed=1))]
    D, x = pn.ComposedDictionary(layers).requires_grad_(False), normal(2, 1, 6, 5, seed=2)
    options = {"beta": 0.5 * pn.beta_max(x, D), "tol": 1e-10, "max_steps": 9000}
    one = pn.solve(x, D.effective().requires_grad_(False), **options)
    assert one.code.any()
    for solver in (pn.FISTA(), pn.WorkingSet(), "auto"):
        torch.testing.assert_close(pn.solve(x, D, solver=solver, **options).code, one.code, rtol=0, atol=1e-6)


def test_a_stream_missing_pixels_and_matrices_are_learned_too():
    true, x, near = planted()
    online = pn.learn((x[i : i + 1] for i in range(4)), near, 0.4, atom_nonzeros=3, gap=1e-2)
    assert online.reason == "end of stream" and isinstance(online.dictionary, pn.ComposedDictionary)
    before, after = (
        float(pn.solve(x[:4], D, 0.4, max_steps=3000, tol=1e-2).objective.sum().detach())
        for D in (pn.ComposedDictionary(near).requires_grad_(False), online.dictionary.requires_grad_(False))
    )
    assert after < 0.9 * before
    mask = uniform(0, 1, *x.shape, seed=6) < 0.8
    masked = pn.learn(
        torch.where(mask, x, torch.nan), near, 0.4, atom_nonzeros=3, mask="nan", max_iterations=4, gap=1e-3
    )
    assert correlations(masked.dictionary.effective_weight(), true.effective_weight()).min() > 0.9
    signals = normal(12, 7, seed=1)
    matrices = pn.learn(signals, LAYERS["matrices"][0](), 0.1, atom_nonzeros=[2], max_iterations=3)
    assert (matrices.dictionary.layers[1].weight != 0).sum(1).max() <= 2
    start = pn.ComposedDictionary([D.requires_grad_(False) for D in LAYERS["matrices"][0]()])
    assert matrices.history[-1].objective < float(pn.solve(signals, start, 0.1).objective.sum())


def test_a_checkpoint_continues_to_the_same_layers(tmp_path):
    _, x, near = planted()
    path, options = tmp_path / "layers.safetensors", {"atom_nonzeros": 3, "gap": 1e-3}
    whole = pn.learn(x[:2], near, 0.4, max_iterations=4, **options)
    pn.learn(x[:2], near, 0.4, max_iterations=2, checkpoint=path, **options)
    resumed = pn.learn(x[:2], near, 0.4, max_iterations=4, checkpoint=path, **options)
    assert resumed.history[-1].iteration == 4
    assert resumed.history[-1].objective == pytest.approx(whole.history[-1].objective, rel=3e-2)
    with pytest.raises(ValueError, match="was started with atom_nonzeros = 3, and now atom_nonzeros is 4"):
        pn.learn(x[:2], near, 0.4, checkpoint=path, atom_nonzeros=4)


def test_a_dead_atom_of_the_last_layer_becomes_what_a_patch_looks_like_to_the_layers_before():
    true, _, near = planted()
    factors = LayeredFactors(pn.ComposedDictionary(near), [None, 3])
    patch = true.effective_weight().detach()[2:3]
    worst = Unexplained(1, energies=torch.ones(1), patches=patch)
    weight, replaced = factors.reseeded(torch.tensor([False, False, False, False, True, True]), worst)
    assert replaced.tolist() == [4]
    factors.assign(weight)
    effective = factors.dictionary.weight
    assert float((torch.nn.functional.normalize(effective[4].flatten(), dim=0) * patch.flatten()).sum()) > 0.5
    assert (factors.layers[1].weight[4] != 0).sum() == 3 and factors.layers[1].weight[4].norm() == pytest.approx(1)


def test_learned_layers_initialize_a_network():
    torch.manual_seed(0)
    own = [layer.dictionary.weight.shape for layer in pn.create_model("ml_csc", in_chans=1, width=4).pursuits()][:2]
    layers = [pn.ConvDictionary(unit(*own[0]).float(), padding=4), pn.ConvDictionary(unit(*own[1], seed=1).float())]
    learned = pn.learn(normal(2, 1, 12, 12).float(), layers, 0.5, atom_nonzeros=4, max_iterations=1, gap=1e-2)
    model = pn.create_model("ml_csc", in_chans=1, width=4, dictionaries=learned.dictionary.layers)
    for layer, D in zip(model.pursuits(), learned.dictionary.layers, strict=False):
        ratio = (layer.dictionary.weight / D.weight)[D.weight != 0]
        torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))


W1, W2, X = unit(3, 1, 3, 3), unit(4, 3, 3, 3), normal(2, 1, 9, 9)
BAD = {
    "no dictionaries": ([], {}, ValueError, "there are no dictionaries"),
    "a tensor among them": ([pn.ConvDictionary(W1), W2], {}, TypeError, "dictionary 2 is a tensor"),
    "a padded second layer": (
        [pn.ConvDictionary(W1), pn.ConvDictionary(W2, padding=1)],
        {},
        ValueError,
        r"layer 2 has padding \(1, 1\); expected groups=1, and padding in the first layer only",
    ),
    "several kinds": (
        [pn.ConvDictionary(W1), pn.CircularDictionary(W2)],
        {},
        ValueError,
        "the layers are of the kinds CircularDictionary, ConvDictionary; expected one kind",
    ),
    "channels that differ": (
        [pn.ConvDictionary(W1), pn.ConvDictionary(W1)],
        {},
        ValueError,
        "dictionary 1 has codes of 3 channels",
    ),
    "no non-zeros": (
        [pn.ConvDictionary(W1), pn.ConvDictionary(W2)],
        {"atom_nonzeros": 0},
        ValueError,
        "atom_nonzeros is 0; expected an integer ≥ 1, or one for each of the 1 layers",
    ),
    "numbers for other layers": (
        [pn.ConvDictionary(W1), pn.ConvDictionary(W2)],
        {"atom_nonzeros": [3, 3]},
        ValueError,
        r"atom_nonzeros is \[3, 3\]",
    ),
    "non-zeros of one layer": (pn.ConvDictionary(W1), {"atom_nonzeros": 3}, ValueError, "for the layers after the"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case):
    dictionary, options, error, words = BAD[case]
    with pytest.raises(error, match=words) as caught:
        pn.learn(X, dictionary, 0.1, **options)
    assert "\n" not in str(caught.value)
