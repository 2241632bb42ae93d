"""``learn``: its quadratic by finite differences, its optimum beside scikit-learn's and sporco's, planted atoms."""

import itertools
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from programs import LoadedPython, finished

import pursuitnet as pn
from pursuitnet.problems.learning import saved
from pursuitnet.problems.learning.atoms import improved
from pursuitnet.problems.learning.filters import completed, unpadded
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.statistics import Quadratic, SufficientStatistics, _CloseNonZeros, by_fourier


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(weight):
    return weight / weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))


def sparse(*shape, share=0.1, seed=0):
    return normal(*shape, seed=seed) * (uniform(*shape, seed=seed + 1) < share)


DICTIONARIES = {
    "matrix": (lambda: pn.LinearDictionary(unit(normal(5, 7))), (7,)),
    "1-D": (lambda: pn.ConvDictionary(unit(normal(3, 2, 5))), (2, 17)),
    "1-D stride": (lambda: pn.ConvDictionary(unit(normal(3, 1, 4)), stride=2, padding=3), (1, 14)),
    "2-D": (lambda: pn.ConvDictionary(unit(normal(3, 2, 3, 4)), padding=(1, 2)), (2, 9, 8)),
    "2-D dilation": (
        lambda: pn.ConvDictionary(unit(normal(3, 2, 3, 4)), stride=2, padding=2, dilation=(1, 3)),
        (2, 11, 13),
    ),
    "3-D": (lambda: pn.ConvDictionary(unit(normal(3, 1, 3, 2, 2)), stride=(1, 2, 1), padding=(1, 0, 1)), (1, 6, 5, 4)),
    "circular": (lambda: pn.CircularDictionary(unit(normal(3, 2, 3, 4))), (2, 5, 6)),
    "circular dilation": (lambda: pn.CircularDictionary(unit(normal(3, 1, 3, 3)), dilation=2), (1, 8, 7)),
    "[I matrix]": (lambda: pn.WithIdentity(pn.LinearDictionary(unit(normal(5, 7)))), (7,)),
    "[I 2-D]": (lambda: pn.WithIdentity(pn.ConvDictionary(unit(normal(3, 1, 3, 3)), padding=1)), (1, 8, 8)),
}
every_convolution = pytest.mark.parametrize("name", [n for n in DICTIONARIES if "matrix" not in n and "[I" not in n])
with_filters = pytest.mark.parametrize("name", [n for n in DICTIONARIES if not n.startswith("[I")])


def scored(D, x, beta, nonnegative=False, tol=1e-6):
    """Σ ½‖x − DΓ‖² + β‖Γ‖₁ at its minimum over the codes, to a certificate of its own."""
    with torch.no_grad():
        return float(pn.solve(x, D, beta, nonnegative=nonnegative, tol=tol, max_steps=20000).objective.sum())


def matched(found, true):
    """The largest |correlation| of each true atom with any found one, over all shifts for filters."""
    found, true = unit(found), unit(true)
    if found.dim() == 2:
        return (true @ found.T).abs().amax(1)
    pad = [k - 1 for k in true.shape[2:]]
    convolve = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[len(pad)]
    return convolve(true, found, padding=pad).flatten(2).abs().amax((1, 2))


# ---------------------------------------------------------------- the quadratic


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@with_filters
def test_the_slope_in_the_filters_is_that_of_finite_differences(name, masked):
    maker, shape = DICTIONARIES[name]
    D = maker().requires_grad_(False)
    x, code = normal(2, *shape, seed=1), sparse(*D.analyze(normal(2, *shape)).shape, share=0.4, seed=2)
    mask = uniform(*x.shape, seed=3) < 0.7 if masked else torch.ones_like(x, dtype=torch.bool)

    def fit(weight):
        other = maker().requires_grad_(False)
        other.weight.copy_(weight)
        return float(0.5 * (mask * (x - other.synthesize(code, x.shape))).square().sum())

    filters, sides = unpadded(D)
    sums = SufficientStatistics.of(filters, code, completed(filters, sides, x, mask if masked else None, code))
    slope = Quadratic(sums).gradient(D.weight.detach().view_as(sums.cross)).view_as(D.weight)
    for seed in range(3):
        toward = normal(*D.weight.shape, seed=10 + seed)
        by_hand = (fit(D.weight + 1e-4 * toward) - fit(D.weight - 1e-4 * toward)) / 2e-4
        assert float((slope * toward).sum()) == pytest.approx(by_hand, rel=1e-7, abs=1e-7)


@every_convolution
def test_pairs_of_non_zeros_and_fourier_give_the_same_correlations_and_they_are_those_of_shifted_codes(name):
    maker, shape = DICTIONARIES[name]
    D, _ = unpadded(maker().requires_grad_(False))
    code = sparse(*maker().analyze(normal(2, *shape)).shape, share=0.5)
    pairs = _CloseNonZeros(D, code).gram()
    torch.testing.assert_close(pairs, by_fourier(D, code))
    middle = (slice(None), slice(None), *(n // 2 for n in pairs.shape[2:]))
    torch.testing.assert_close(pairs[middle], torch.einsum("bj...,bk...->jk", code, code))


def test_many_pairs_are_taken_in_pieces(monkeypatch):
    D, code = pn.ConvDictionary(normal(3, 1, 3, 3)), sparse(2, 3, 8, 8, share=0.5)
    monkeypatch.setattr("pursuitnet.problems.learning.statistics.MOST_PAIRS", 50)
    torch.testing.assert_close(_CloseNonZeros(D, code).gram(), by_fourier(D, code))


def test_filters_for_fixed_codes_are_those_that_meet_the_conditions_of_optimality():
    """At the minimum over the balls the slope is −λⱼdⱼ with λⱼ ≥ 0, and λⱼ = 0 inside of the ball."""
    D, code = pn.ConvDictionary(unit(normal(3, 1, 3, 3))).requires_grad_(False), sparse(4, 3, 8, 8, seed=1)
    drawn = torch.tensor([3.0, 2.0, 0.1]).double().view(3, 1, 1, 1) * unit(normal(3, 1, 3, 3, seed=3))
    x = pn.ConvDictionary(drawn).requires_grad_(False).synthesize(code, (4, 1, 10, 10))
    sums = SufficientStatistics.of(D, code, x + 0.01 * normal(4, 1, 10, 10, seed=4))
    W = improved(D.weight, sums, 5000, tol=1e-12)
    slope, norms = Quadratic(sums).gradient(W).flatten(1), W.flatten(1).norm(dim=1)
    assert norms.max() <= 1 + 1e-9
    multiplier = -(slope * W.flatten(1)).sum(1) / norms.square()
    assert norms[2] < 0.9 and norms[:2].min() > 0.999 and (multiplier >= -1e-6).all()
    torch.testing.assert_close(slope, -multiplier[:, None] * W.flatten(1), atol=1e-5, rtol=1e-5)


def test_an_atom_that_no_code_uses_stays_where_it_is():
    D, code = pn.ConvDictionary(unit(normal(3, 1, 3, 3))).requires_grad_(False), sparse(2, 3, 8, 8, seed=1)
    code[:, 1] = 0
    W = improved(D.weight, SufficientStatistics.of(D, code, normal(2, 1, 10, 10)), 20)
    torch.testing.assert_close(W[1], D.weight[1])
    assert (W[0] - D.weight[0]).norm() > 0.1
    same = improved(D.weight, SufficientStatistics.none(D), 20)
    assert torch.equal(same, D.weight) and same.data_ptr() != D.weight.data_ptr()


# ---------------------------------------------------------------- the whole, for every kind


@pytest.mark.parametrize(("name", "nonnegative"), [(n, bool(i % 2)) for i, n in enumerate(DICTIONARIES)])
def test_every_kind_is_learned_to_a_lower_objective_that_a_solve_of_its_own_confirms(name, nonnegative):
    maker, shape = DICTIONARIES[name]
    D, x = maker(), normal(6 if len(shape) == 1 else 2, *shape, seed=5)
    before = [p.detach().clone() for p in D.parameters()]
    learned = pn.learn(x, D, 0.8, nonnegative=nonnegative, max_iterations=2, codes=True)
    first, last = learned.history[0], learned.history[-1]
    assert type(learned.dictionary) is type(D) and last.gap <= 1e-4
    assert all(report.gap <= 1e-4 for report in learned.history)
    assert last.objective < (1 - 1e-3) * scored(D, x, 0.8, nonnegative)
    assert last.objective <= first.objective
    assert last.objective == pytest.approx(scored(learned.dictionary, x, 0.8, nonnegative), rel=1.1e-4)
    weight = getattr(learned.dictionary, "dictionary", learned.dictionary).weight
    assert weight.requires_grad and weight.flatten(1).norm(dim=1).max() <= 1 + 1e-9
    for now, then in zip(D.parameters(), before, strict=True):
        assert torch.equal(now, then)  # what came in is as it was
    own = x - learned.dictionary.synthesize(learned.codes, x.shape)
    spelled = 0.5 * own.square().sum() + 0.8 * learned.codes.abs().sum()
    assert last.objective == pytest.approx(float(spelled.detach()), rel=1e-9)
    assert last.nonzeros == int((learned.codes != 0).sum())
    assert float(learned.usage.sum()) == pytest.approx(1)


def test_filters_that_a_round_takes_without_momentum_are_never_worse(monkeypatch):
    """The minimum for new filters, at least objective·(1 − gap), is at most the objective that the old ones had."""
    told = []
    monkeypatch.setattr(
        "pursuitnet.problems.learning.alternating.AlternatingLearner.momentum", property(lambda _: 1.0, lambda *_: None)
    )
    x, D = normal(2, 1, 9, 9), pn.ConvDictionary(unit(normal(3, 1, 3, 3)), padding=2)
    pn.learn(x, D, 0.8, max_iterations=6, tol=0, callback=lambda report, _: told.append(report))
    assert len(told) == 7
    assert all(b.objective * (1 - b.gap) <= a.objective for a, b in itertools.pairwise(told))


def test_momentum_saves_rounds_and_ends_no_higher(monkeypatch):
    x, D = normal(40, 9), pn.LinearDictionary(unit(normal(6, 9)))
    own = pn.learn(x, D, 0.3, max_iterations=20, tol=0, gap=1e-6).history[-1].objective
    monkeypatch.setattr(
        "pursuitnet.problems.learning.alternating.AlternatingLearner.momentum", property(lambda _: 1.0, lambda *_: None)
    )
    assert own < pn.learn(x, D, 0.3, max_iterations=20, tol=0, gap=1e-6).history[-1].objective


def test_batches_of_several_sizes_are_learned_from_together():
    D = pn.ConvDictionary(unit(normal(3, 1, 3, 3)))
    images = [normal(2, 1, 9, 12), normal(3, 1, 14, 8, seed=1)]
    learned = pn.learn(images, D, 0.8, max_iterations=2, codes=True)
    assert [tuple(code.shape) for code in learned.codes] == [(2, 3, 7, 10), (3, 3, 12, 6)]
    both = sum(scored(learned.dictionary, x, 0.8) for x in images)
    assert learned.history[-1].objective == pytest.approx(both, rel=1.1e-4)
    assert learned.history[-1].images == 5


def test_how_many_images_are_coded_together_makes_no_difference():
    D, x = pn.CircularDictionary(unit(normal(3, 1, 3, 3))), normal(5, 1, 6, 6)
    one, whole = (pn.learn(x, D, 1.0, max_iterations=40, batch_size=n).history[-1].objective for n in (2, 5))
    assert one == pytest.approx(whole, rel=1e-3)


def test_equal_seeds_give_equal_dictionaries():
    D, x = pn.ConvDictionary(unit(normal(2, 1, 3, 3)).float()), normal(4, 1, 6, 6).float()
    found = [
        pn.learn(x, D, 0.8, online=True, batch_size=1, seed=seed, gap=1e-3).dictionary.weight for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# ---------------------------------------------------------------- missing pixels


def test_missing_pixels_do_not_count():
    x, mask = normal(2, 1, 8, 8), uniform(2, 1, 8, 8, seed=1) < 0.7
    D = pn.ConvDictionary(unit(normal(3, 1, 3, 3)), padding=2)
    learned = pn.learn(x, D, 0.6, mask=mask, max_iterations=2, codes=True)
    left = mask * (x - learned.dictionary.synthesize(learned.codes, x.shape))
    spelled = 0.5 * left.square().sum() + 0.6 * learned.codes.abs().sum()
    assert learned.history[-1].objective == pytest.approx(float(spelled.detach()), rel=1e-9)
    spoilt = torch.where(mask, x, 1e3)
    other = pn.learn(spoilt, D, 0.6, mask=mask, max_iterations=2)
    torch.testing.assert_close(other.dictionary.weight, learned.dictionary.weight)
    missing = pn.learn(torch.where(mask, x, math.nan), D, 0.6, mask="nan", max_iterations=2)
    torch.testing.assert_close(missing.dictionary.weight, learned.dictionary.weight)


@pytest.mark.parametrize("name", ["matrix", "circular", "[I 2-D]"])
def test_a_mask_of_ones_changes_nothing(name):
    maker, shape = DICTIONARIES[name]
    x = normal(6 if len(shape) == 1 else 2, *shape)
    one, other = (
        pn.learn(x, maker(), 0.6, gap=1e-7, tol=0, max_iterations=2, mask=mask).history[-1].objective
        for mask in (None, torch.ones(shape))
    )
    assert one == pytest.approx(other, rel=1e-6)


# ---------------------------------------------------------------- other routes to the same


def test_scikit_learns_dictionary_is_no_better_and_ours_ends_where_it_is():
    from sklearn.decomposition import DictionaryLearning

    true, codes = unit(normal(5, 8)), sparse(60, 5, share=0.25, seed=2)
    x = codes @ true + 0.02 * normal(60, 8, seed=3)
    begin = unit(normal(5, 8, seed=4))
    theirs = DictionaryLearning(
        5, alpha=0.2, max_iter=500, tol=1e-8, fit_algorithm="cd", dict_init=begin.numpy(), random_state=0,
        transform_max_iter=10000,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.numpy())
    components = torch.tensor(theirs.components_)
    assert components.norm(dim=1).max() <= 1 + 1e-6
    best = scored(pn.LinearDictionary(components), x, 0.2)
    from_theirs = pn.learn(x, pn.LinearDictionary(components), 0.2, max_iterations=50, tol=1e-7, gap=1e-6)
    assert from_theirs.history[-1].objective == pytest.approx(best, rel=2e-3)
    ours = pn.learn(x, pn.LinearDictionary(begin), 0.2, max_iterations=300, tol=1e-7, gap=1e-6)
    assert scored(ours.dictionary, x, 0.2) <= best * 1.002


def test_a_planted_matrix_is_found():
    """Non-zeros in 10 % of all entries."""
    true = unit(normal(12, 10))
    x = sparse(600, 12, share=0.1, seed=2) @ true + 0.01 * normal(600, 10, seed=3)
    begin = pn.LinearDictionary(x[100:112])
    learned = pn.learn(x, begin, 0.1, max_iterations=20, gap=1e-3)
    assert (matched(learned.dictionary.weight.detach(), true) >= 0.95).double().mean() >= 0.9


def test_planted_filters_are_found():
    """Non-zeros at 0.8 % of all places; the filters learned are larger, so that it does not matter where they begin."""
    true = unit(normal(4, 1, 5, 5))
    code = sparse(6, 4, 22, 22, share=0.008, seed=2)
    x = pn.ConvDictionary(true).synthesize(code, (6, 1, 26, 26)).detach()
    x = (x + 0.01 * normal(*x.shape, seed=3)).float()
    begin = pn.ConvDictionary(unit(normal(4, 1, 7, 7)).float())
    learned = pn.learn(x, begin, 0.1, max_iterations=12, gap=1e-2)
    assert (matched(learned.dictionary.weight.detach().double(), true) >= 0.95).double().mean() >= 0.9


def test_online_ends_where_rounds_over_all_images_do():
    x = sparse(200, 6, share=0.2, seed=2) @ unit(normal(6, 9)) + 0.02 * normal(200, 9, seed=3)
    begin = pn.LinearDictionary(unit(normal(6, 9, seed=4)))
    whole = pn.learn(x, begin, 0.1, max_iterations=100, tol=1e-6, gap=1e-5)
    best, away = scored(whole.dictionary, x, 0.1), unit(whole.dictionary.weight.detach() + 0.1 * normal(6, 9, seed=5))
    online = pn.learn(x, pn.LinearDictionary(away), 0.1, online=True, batch_size=40, max_iterations=8)
    assert scored(pn.LinearDictionary(away), x, 0.1) > 1.1 * best
    assert scored(online.dictionary, x, 0.1) == pytest.approx(best, rel=1e-3)


def test_sporcos_dictionary_and_ours_are_scored_alike_and_ours_is_no_worse():
    from sporco.admm.cbpdn import ConvBPDN
    from sporco.dictlrn import cbpdndl

    true = unit(normal(4, 1, 4, 4))
    x = pn.CircularDictionary(true).synthesize(sparse(2, 4, 8, 8, share=0.03, seed=2), (2, 1, 8, 8)).detach()
    begin = unit(normal(4, 1, 4, 4, seed=5))
    options = cbpdndl.ConvBPDNDictLearn.Options({"Verbose": False, "MaxMainIter": 40})
    theirs = cbpdndl.ConvBPDNDictLearn(
        begin[:, 0].permute(1, 2, 0).numpy(), x[:, 0].permute(1, 2, 0).numpy(), 0.2, options
    )
    theirs.solve()
    atoms = torch.tensor(np.ascontiguousarray(theirs.getdict().squeeze().transpose(2, 0, 1)))[:, None]
    ours = pn.learn(x, pn.CircularDictionary(begin), 0.2, max_iterations=15)
    best, own = (scored(pn.CircularDictionary(w), x, 0.2, tol=1e-4) for w in (atoms, ours.dictionary.weight.detach()))
    assert own <= 1.005 * best
    assert own == pytest.approx(ours.history[-1].objective, rel=3e-4)
    # and scored by sporco
    adaptive = {"Enabled": True, "Period": 10, "AutoScaling": True}
    codes = ConvBPDN.Options({"Verbose": False, "MaxMainIter": 2000, "RelStopTol": 1e-6, "AutoRho": adaptive})
    images = x[:, 0].permute(1, 2, 0).numpy()
    for weight, objective in ((atoms, best), (ours.dictionary.weight.detach(), own)):
        scorer = ConvBPDN(weight[:, 0].permute(1, 2, 0).numpy(), images, 0.2, codes, dimK=1)
        scorer.solve()
        assert scorer.getitstat().ObjFun[-1] == pytest.approx(objective, rel=1e-3)


# ---------------------------------------------------------------- atoms that nobody uses


def test_dead_atoms_are_replaced_by_the_patches_that_are_explained_worst():
    x = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    first, second = unit(normal(2, 1, 3, 3))
    x[0, :, 1:4, 1:4], x[0, :, 7:10, 7:10] = 5 * first, 3 * second
    useless = torch.full((1, 1, 3, 3), 1e-3, dtype=torch.float64)
    D = pn.ConvDictionary(torch.cat([first[None], useless]))
    learned = pn.learn(x, D, 0.2, max_iterations=5)
    assert learned.history[-1].reseeded == 1
    assert matched(learned.dictionary.weight.detach(), torch.stack([first, second])).min() > 0.999
    columns_first = x.mT.contiguous().mT  # as MATLAB stores images
    assert pn.learn(columns_first, D, 0.2, max_iterations=5).history[-1].reseeded == 1
    wide = pn.learn([x] * 15, D, 0.2, online=True, batch_size=1)
    assert wide.history[-1].reseeded == 1
    assert wide.usage.min() > 0.1  # neither is dead now


# ---------------------------------------------------------------- streams, and going on


def test_a_stream_is_taken_batch_by_batch_and_labels_are_left_out():
    taken, told = [], []

    def batches():
        for i in range(5):
            taken.append(i)
            yield normal(2, 1, 8, 8, seed=i), torch.zeros(2)

    learned = pn.learn(
        batches(), pn.ConvDictionary(unit(normal(2, 1, 3, 3))), 0.5,
        callback=lambda report, dictionary: told.append((report.iteration, len(taken))),
    )  # fmt: skip
    assert [count for at, count in told[:-1]] == [at for at, _ in told[:-1]] == [1, 2, 3, 4, 5]
    assert learned.reason == "end of stream" and learned.history[-1].iteration == 5
    assert learned.history[-1].gap <= 1e-4


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("online", [False, True], ids=["rounds", "online"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(online, tmp_path):
    x, D = normal(14, 1, 5, 5), pn.ConvDictionary(unit(normal(2, 1, 3, 3)))
    options = {
        "online": online,
        "max_iterations": 1 if online else 4,
        "tol": 0.0,
        "batch_size": 1 if online else 14,
        "gap": 1e-3,
    }
    whole = pn.learn(x, D, 0.8, **options)

    def stop(report, dictionary):
        if report.iteration == (12 if online else 2):
            raise StoppedError

    path = tmp_path / "learned.safetensors"
    with pytest.raises(StoppedError):
        pn.learn(x, D, 0.8, **options, checkpoint=path, callback=stop)
    (tmp_path / "learned.safetensors.new").write_bytes(b"half")  # what a kill may leave
    told = []
    again = pn.learn(x, D, 0.8, **options, checkpoint=path, callback=lambda report, _: told.append(report.iteration))
    assert told[0] == (11 if online else 2)
    torch.testing.assert_close(again.dictionary.weight, whole.dictionary.weight, atol=1e-9, rtol=0)
    assert [r.iteration for r in again.history] == [r.iteration for r in whole.history]


def test_a_checkpoint_that_is_damaged_or_of_another_problem_is_refused(tmp_path):
    x, D, path = normal(4, 1, 7, 7), pn.ConvDictionary(unit(normal(3, 1, 3, 3))), tmp_path / "c.safetensors"
    pn.learn(x, D, 0.3, max_iterations=2, checkpoint=path)
    with pytest.raises(ValueError, match=r"started with beta = \[0\.3\], and now beta is \[0\.4\]"):
        pn.learn(x, D, 0.4, max_iterations=2, checkpoint=path)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged"):
        pn.learn(x, D, 0.3, max_iterations=2, checkpoint=path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    saved.write(path, {"a": torch.ones(2)}, {}, {"n": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        saved.write(path, {"a": torch.zeros(2)}, {}, {"n": 2})
    assert saved.read(path, {})[1] == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


# ---------------------------------------------------------------- bad input, before time is spent

X, W = normal(3, 1, 9, 9), unit(normal(2, 1, 3, 3))
BAD = {
    "no dictionary": (lambda: pn.learn(X, W, 0.1), TypeError, "the dictionary is a tensor of shape"),
    "a kind without filters": (
        lambda: pn.learn(X, pn.WithIdentity(pn.WithIdentity(pn.ConvDictionary(W, padding=1))), 0.1),
        TypeError,
        "cannot be learned",
    ),
    "images of several sizes": (
        lambda: pn.learn([X[0], normal(1, 9, 8), "x"], pn.ConvDictionary(W), 0.1),
        TypeError,
        r"images\[2\] is 'x'",
    ),
    "wrong channels": (
        lambda: pn.learn(normal(3, 2, 9, 9), pn.ConvDictionary(W), 0.1),
        ValueError,
        r"shape \(3, 2, 9, 9\); expected \(N, 1, and 2 sizes\)",
    ),
    "bytes": (
        lambda: pn.learn((255 * uniform(2, 1, 9, 9)).byte(), pn.ConvDictionary(W), 0.1),
        ValueError,
        "holds torch.uint8",
    ),
    "constant": (
        lambda: pn.learn(torch.ones_like(X), pn.ConvDictionary(W), 0.1),
        ValueError,
        "all images are constant",
    ),
    "NaN": (
        lambda: pn.learn(torch.where(X > 1, math.nan, X), pn.ConvDictionary(W), 0.1),
        ValueError,
        'hold NaN or infinite values; .*mask="nan"',
    ),
    "NaN in a stream": (
        lambda: pn.learn(iter([X, X * math.nan]), pn.ConvDictionary(W), 0.1),
        ValueError,
        "batch 1 of the stream: 3 of 3 images hold NaN",
    ),
    "an empty stream": (lambda: pn.learn(iter([]), pn.ConvDictionary(W), 0.1), ValueError, "the stream has no images"),
    "too many atoms": (
        lambda: pn.learn(normal(2, 1, 4, 4), pn.ConvDictionary(normal(9, 1, 3, 3)), 0.1),
        ValueError,
        "9 atoms and the images have 8 positions",
    ),
    "a filter larger than the image": (
        lambda: pn.learn(normal(2, 1, 4, 4), pn.ConvDictionary(normal(2, 1, 5, 5)), 0.1),
        ValueError,
        "too small for filters that reach over",
    ),
    "β above all": (
        lambda: pn.learn(X, pn.ConvDictionary(W), 1e3),
        ValueError,
        "beta is 1000, and the correlation of an atom of norm 1 .* every code is zero; expected a smaller beta",
    ),
    "β below 0": (lambda: pn.learn(X, pn.ConvDictionary(W), -1.0), ValueError, "beta is -1"),
    "β of another number of rows": (
        lambda: pn.learn(X, pn.ConvDictionary(W), torch.ones(3)),
        ValueError,
        r"beta has shape \(3,\); expected a number ≥ 0, or \(2,\)",
    ),
    "β of no kind": (lambda: pn.learn(X, pn.ConvDictionary(W), "0.1"), TypeError, "beta is '0.1'"),
    "a mask that does not fit": (
        lambda: pn.learn(X, pn.ConvDictionary(W), 0.1, mask=torch.ones(8, 9)),
        ValueError,
        r"mask has shape \(8, 9\)",
    ),
    "a mask of no kind": (lambda: pn.learn(X, pn.ConvDictionary(W), 0.1, mask="zero"), ValueError, "mask is 'zero'"),
    "a stream in rounds": (
        lambda: pn.learn(iter([X]), pn.ConvDictionary(W), 0.1, online=False),
        ValueError,
        "images is a stream and online is False",
    ),
    "no images": (lambda: pn.learn(None, pn.ConvDictionary(W), 0.1), TypeError, "images is None"),
    "an empty list": (lambda: pn.learn([], pn.ConvDictionary(W), 0.1), ValueError, "images"),
    "rounds": (
        lambda: pn.learn(X, pn.ConvDictionary(W), 0.1, max_iterations=1.5),
        ValueError,
        "max_iterations is 1.5",
    ),
    "OMP": (lambda: pn.learn(X, pn.ConvDictionary(W), 0.1, solver=pn.OMP(2)), ValueError, "no certificate"),
    "codes online": (
        lambda: pn.learn(X, pn.ConvDictionary(W), 0.1, online=True, codes=True),
        ValueError,
        "codes is True",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case):
    call, error, said = BAD[case]
    with pytest.raises(error, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_few_constant_images_are_told_of():
    x = X.clone()
    x[1] = 1
    with pytest.warns(UserWarning, match="1 of 3 images are constant"):
        pn.learn(x, pn.ConvDictionary(W), 0.5, max_iterations=1)


def test_codes_that_stop_before_the_gap_are_warned_of_and_not_reported():
    with pytest.warns(pn.ConvergenceWarning, match="the last codes have a duality gap of"):
        learned = pn.learn(X, pn.ConvDictionary(W), 0.1, max_iterations=2, solver=pn.ISTA(), max_steps=2)
    assert learned.history == ()


def test_a_batch_is_split_with_its_mask():
    filters = pn.ConvDictionary(W)
    whole = Batch.of(X, filters, uniform(3, 1, 9, 9) < 0.5)
    parts = whole.split(2)
    assert torch.equal(torch.cat([part.mask for part in parts]), whole.mask)
    assert [len(part.mask) for part in Batch.of(X, filters, torch.ones(9, 9)).split(2)] == [1, 1]


# ---------------------------------------------------------------- a network that begins with what was learned


@pytest.mark.parametrize("name", ["msd_csc_6", "ml_csc", "res_csc_20"])
def test_a_network_begins_with_learned_filters(name):
    own = pn.create_model(name, in_chans=1, width=4).pursuits()[0].dictionary
    own = getattr(own, "dictionary", own)
    D = pn.ConvDictionary(unit(torch.randn(own.weight.shape)), padding=1)
    torch.manual_seed(0)
    plain = pn.create_model(name, in_chans=1, width=4)
    torch.manual_seed(0)
    begun = pn.create_model(name, in_chans=1, width=4, dictionaries=[D])
    first, before = (model.pursuits()[0].dictionary for model in (begun, plain))
    first, before = getattr(first, "dictionary", first), getattr(before, "dictionary", before)
    ratio = first.weight / D.weight
    torch.testing.assert_close(ratio, ratio.flatten()[0].expand_as(ratio))
    torch.testing.assert_close(first.lipschitz_bound(), before.lipschitz_bound())
    for one, other in zip(list(begun.parameters())[4:], list(plain.parameters())[4:], strict=True):
        assert torch.equal(one, other)
    begun(torch.rand(2, 1, 16, 16)).sum().backward()
    assert first.weight.grad is not None


def test_learned_filters_that_do_not_fit_a_layer_are_refused():
    D = pn.ConvDictionary(torch.randn(4, 1, 11, 11))
    with pytest.raises(ValueError, match=r"filters of shape \(4, 1, 11, 11\); expected \(4, 1, 3, 3\)"):
        pn.create_model("msd_csc_6", in_chans=1, width=4, dictionaries=[D])
    with pytest.raises(TypeError, match=r"dictionaries\[0\] is a tensor of shape"):
        pn.create_model("msd_csc_6", dictionaries=[D.weight])
    with pytest.raises(ValueError, match="7 dictionaries for 6 layers"):
        pn.create_model("msd_csc_6", dictionaries=[None] * 7)


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(sys.platform == "win32", reason="has no resource")
def test_the_memory_of_a_stream_does_not_grow_with_the_number_of_images():
    """An image and its codes are small beside the limit; all images together would be twice as large."""
    script = """
import resource, torch, pursuitnet as pn
weight = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
stream = (torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(i)) for i in range(60))
peaks = {}
def record(report, dictionary):
    peaks[report.iteration] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peaks["nonzeros"] = report.nonzeros
pn.learn(stream, pn.ConvDictionary(weight, padding=2), 4.0, gap=1e-2, callback=record)
print(peaks[20], peaks[60], peaks["nonzeros"])
"""
    run = finished("-c", script, kind=LoadedPython)
    assert run.returncode == 0, run.stderr
    size = 1 if sys.platform == "darwin" else 1024
    early, late, nonzeros = map(int, run.stdout.split())
    all_images = 40 * 256 * 256 * 4  # between the two
    assert nonzeros > 0
    assert size * (late - early) < 0.5 * all_images
