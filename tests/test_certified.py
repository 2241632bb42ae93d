"""Reflected proximal operators and the radii that follow: 1-Lipschitz, refused where not, and never attacked inside."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.dictionaries.scaled import absolute_gram
from pursuitnet.networks.certified import Center, Downsample, PadChannels, Reflect, UnitNorm
from pursuitnet.networks.radii import lipschitz_constant
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.report import page, pictures
from pursuitnet.program.reproduce.ledger import identity
from pursuitnet.program.train.trainer import loss_of
from pursuitnet.program.whitebox.inspect_run import inspect_run


def bare(dictionary, penalty=0.05, **options):
    """A layer in float64 whose P is bare, with the largest step."""
    options.setdefault("step", pn.BoundedStep(1.0, learned=False))
    threshold = options.pop("threshold", None) or pn.Threshold(
        dictionary.code_channels, penalty, nonnegative=options.pop("nonnegative", True)
    )
    return pn.PursuitLayer(copy.deepcopy(dictionary), threshold=threshold, **options).double().eval()


def solved(dictionary, penalty=0.5, tol=1e-8, **options):
    threshold = pn.Threshold(dictionary.code_channels, penalty, nonnegative=options.pop("nonnegative", True))
    return pn.PursuitLayer(
        copy.deepcopy(dictionary), unfolding="solved", threshold=threshold, tol=tol, max_steps=20_000, **options
    ).double()


LINEAR = pn.LinearDictionary(torch.randn(7, 4, generator=torch.Generator().manual_seed(1)))
CONV = pn.ConvDictionary(torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(2)), padding=1)
DICTIONARIES = {
    "linear": (LINEAR, (4,)),
    "conv": (CONV, (2, 5, 4)),
    "strided": (pn.ConvDictionary(CONV.weight.detach(), stride=2, padding=1), (2, 6, 5)),
    "dense": (pn.WithIdentity(CONV), (2, 4, 4)),
    "scaled": (pn.ScaledDictionary(CONV), (2, 5, 4)),
}


def slope(f, x):
    """The largest singular value of the Jacobian at each of x."""
    J = torch.vmap(torch.func.jacrev(lambda one: f(one[None])[0].flatten()))(x).flatten(2)
    return torch.linalg.matrix_norm(J.detach(), 2)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_one_step_reflects_without_expanding(name, nonnegative):
    dictionary, shape = DICTIONARIES[name]
    layer = bare(dictionary, nonnegative=nonnegative)
    x = torch.randn(3, *shape, dtype=torch.float64)
    slopes = slope(layer.reflect, x)
    assert slopes.max() <= 1 + 1e-12
    assert slopes.max() > 0.9  # nearly attained, as by a reflection
    y = x + 0.3 * torch.randn_like(x)
    moved = (layer.reflect(x) - layer.reflect(y)).flatten(1).norm(dim=1)
    assert (moved <= (x - y).flatten(1).norm(dim=1) * (1 + 1e-12)).all()
    torch.testing.assert_close(layer.reflect(x), x - 2 * layer.reconstruct(layer(x), x.shape))


@pytest.mark.parametrize(("name", "nonnegative"), [("linear", True), ("conv", False), ("dense", True)])
def test_a_solved_layer_reflects_without_expanding(name, nonnegative):
    dictionary, shape = DICTIONARIES[name]
    layer = solved(dictionary, 1.0, nonnegative=nonnegative)
    x = torch.randn(2, *shape, dtype=torch.float64)
    y = x + 0.3 * torch.randn_like(x)
    both = torch.cat([x, y])
    there, here = layer.reflect(both).split(2)
    moved = (there - here).flatten(1).norm(dim=1)
    distance = (x - y).flatten(1).norm(dim=1)
    found = layer.solve(both)
    gaps = sum((2 * found.gap * found.objective).sqrt().split(2))
    assert (moved <= distance + 2 * gaps).all() and moved.max() > 0.5 * distance.max()


def test_an_absolute_gap_bounds_how_far_the_model_is_off():
    x = torch.randn(20, 4, dtype=torch.float64)
    dictionary = copy.deepcopy(LINEAR).double()
    best, rough = (pn.solve(x, dictionary, 0.5, tol=0.0, max_steps=n, nonnegative=True) for n in (500, 4))
    off = (dictionary.synthesize(best.code - rough.code)).norm(dim=1)
    bound = (2 * rough.gap * rough.objective).sqrt()
    assert (off <= bound + 1e-6).all() and (off > 0.01 * bound).any()


@pytest.mark.parametrize("unfolding", [1, 2, 4])
def test_a_few_steps_can_expand_and_are_refused(unfolding):
    """A search over dictionaries and signals finds slopes above 1, so that no radius may be claimed."""
    worst = 0.0
    for seed in range(4):
        draws = torch.Generator().manual_seed(seed)
        dictionary = pn.LinearDictionary(torch.randn(4, 2, generator=draws))
        layer = bare(dictionary, 0.5, unfolding=unfolding)
        x = 3 * torch.randn(40, 2, generator=draws).double()
        worst = max(worst, float(slope(lambda x, layer=layer: x - 2 * layer.reconstruct(layer(x), x.shape), x).max()))
        with pytest.raises(ValueError, match=f"not certified to be 1-Lipschitz: unfolding is {unfolding}; expected 0"):
            layer.reflect(x)
    assert worst > 1.001


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": None}, "P normalizes; expected threshold=Threshold"),
        ({"step": pn.FreeStep(0.1)}, "its step is a FreeStep"),
        ({"step": pn.AbsorbedStep()}, "its step is a AbsorbedStep"),
        ({"start": pn.resnet}, r"it starts at X₋₁ \(resnet\)"),
        ({"start": pn.res_csc_simplified}, r"it starts at X₋₁ \(res_csc_simplified\)"),
    ],
)
def test_layers_that_need_not_be_1_lipschitz_are_refused(options, says):
    given = {"threshold": pn.Threshold((7,)), **options}
    layer = pn.PursuitLayer(LINEAR, **given)
    with pytest.raises(ValueError, match=f"not certified to be 1-Lipschitz: {says}"):
        layer.reflect(torch.randn(3, 4))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_scale_of_atoms_takes_lambda_max_to_one_and_not_above(stride):
    """Where all correlations are positive Gershgorin's bound is attained on long signals, at the best q."""
    filters = pn.ConvDictionary(torch.rand(3, 2, 4, dtype=torch.float64), stride=stride, padding=2)
    scaled = pn.ScaledDictionary(filters)
    for _ in range(200):  # the power iteration to the best q
        with torch.no_grad():
            sums = absolute_gram(filters) @ scaled.log_q.exp()
            scaled.log_q.copy_((sums / sums.norm()).log())
    assert 0.99 < scaled.lipschitz((2, 200)) <= 1 <= float(scaled.lipschitz_bound()) < 1 + 1e-13
    torch.nn.init.normal_(scaled.log_q)
    assert 0.3 < scaled.lipschitz((2, 200)) <= 1
    one = pn.ScaledDictionary(pn.LinearDictionary(torch.randn(1, 5, dtype=torch.float64)))
    assert one.lipschitz() == pytest.approx(1, abs=1e-12)


def network(**choices):
    return pn.create_model("certified_6", 3, 1, width=2, **choices).eval()


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_a_certified_network_does_not_expand(unit_norm, size):
    model = network(unit_norm=unit_norm).double()
    x = torch.rand(6, 1, *size, dtype=torch.float64)
    x = UnitNorm()(x) if unit_norm else x
    y = x + 0.01 * torch.randn_like(x)
    off = (model.pooled(model.forward_features(x)) - model.pooled(model.forward_features(y))).norm(dim=1)
    assert (off <= (x - y).flatten(1).norm(dim=1) * (1.02 if unit_norm else 1 + 1e-12)).all()
    assert model(x).shape == (6, 3) and 1 <= lipschitz_constant(model) < 1 + 1e-10
    torch.testing.assert_close(model.head.unit_weight().norm(dim=1), torch.ones(3).double())


@pytest.mark.parametrize(("downsamples", "pixels"), [(1, 16), (2, 4), (3, 1)])
def test_with_more_downsampling_less_of_the_maps_is_lost_in_their_mean(downsamples, pixels):
    model = pn.create_model("certified_3", 3, 1, width=2, downsamples=downsamples).eval()
    x = torch.rand(5, 1, 28, 28)
    maps = model.forward_features(x)
    assert maps.shape[2] * maps.shape[3] == pixels and maps.shape[1] == model.head.in_features
    y = x + 0.01 * torch.randn_like(x)
    off = (model.pooled(maps) - model.pooled(model.forward_features(y))).norm(dim=1)
    distance = (x - y).flatten(1).norm(dim=1)
    assert (off <= distance * (1 + 1e-5)).all() and bool((off > 0.5 * distance).all()) == (pixels == 1)
    assert Recipe(model="certified_3", downsamples=downsamples).choices() == {"downsamples": downsamples}


@pytest.mark.parametrize("value", [-1, 11, 1.5])
def test_downsamples_that_cannot_be_are_refused(value):
    with pytest.raises(ValueError, match="downsamples"):
        pn.create_model("certified_3", downsamples=value)
    with pytest.raises(ValueError, match="downsamples"):
        Recipe(model="certified_3", downsamples=value)


@pytest.mark.parametrize("part", [PadChannels(3), Downsample(), Center(2)])
def test_the_maps_between_the_layers_are_isometries(part):
    x, y = torch.randn(2, 3, 2, 5, 6, dtype=torch.float64)
    part = part.double().eval()
    torch.testing.assert_close((part(x) - part(y)).norm(), (x - y).norm())


def test_centering_is_that_of_the_batch_and_then_the_running_mean():
    part, x = Center(2, momentum=0.5), torch.randn(4, 2, 3, 3) + 5
    torch.testing.assert_close(part(x).mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(part.mean, 0.5 * x.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(part.eval()(x), x - part.mean.view(-1, 1, 1))


def attacked(model, x, labels, radii, steps=12):
    """Projected gradient descent in the ball of each image to each class; returns how many labels have changed."""
    targets = torch.arange(model.num_classes).repeat_interleave(len(x))
    x, labels, radii = (each.repeat(model.num_classes, *[1] * (each.dim() - 1)) for each in (x, labels, radii))
    changed, delta = torch.zeros(len(x), dtype=torch.bool), torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_(True)
        logits = model(x + delta)
        ahead = logits.gather(1, labels[:, None])[:, 0] - logits.gather(1, targets[:, None])[:, 0]
        slopes = torch.autograd.grad(ahead.sum(), delta)[0]
        with torch.no_grad():
            delta = delta - slopes / slopes.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1) * (
                radii.view(-1, 1, 1, 1) / 4
            )
            size = delta.flatten(1).norm(dim=1).clamp(min=1e-12)
            delta = delta * (radii / size).clamp(max=1).view(-1, 1, 1, 1)
            changed |= model(x + delta).argmax(dim=1) != labels
    return int(changed.view(model.num_classes, -1).any(dim=0).sum())


@pytest.mark.parametrize("unit_norm", [False, True])
def test_no_attack_succeeds_inside_a_radius_and_larger_ones_do(unit_norm):
    model = pn.create_model("certified_3", 3, 1, width=2, unit_norm=unit_norm).eval().double()
    x = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    labels, radii = pn.certify(model, x)
    assert torch.equal(labels, model(x).argmax(dim=1)) and radii.min() > 0
    assert attacked(model, x, labels, radii * 0.9999) == 0
    assert attacked(model, x, labels, radii * 20) > 0


def test_training_leaves_every_layer_a_code(tmp_path):
    recipe = Recipe(model="certified_3", width=1, unit_norm=True, epochs=3, optimizer="adam", lr=0.01, margin=0.15)
    pn.train(replace(recipe, temperature=0.03, train_images=320, test_images=40, batch_size=16, warmup=0.0), tmp_path)
    trained = pn.trained(tmp_path)
    codes = []
    for module in trained.network.modules():
        if isinstance(module, pn.PursuitLayer):
            module.register_forward_hook(lambda layer, inputs, code: codes.append(code))
    trained.network(trained.prepare(pn.data.load("digits", split="test")[0][:40]))
    assert len(codes) == 3 and all(0.2 < float((code > 0).float().mean()) < 0.8 for code in codes)


@torch.no_grad()
def test_the_radius_is_the_margin_over_the_distance_of_the_rows():
    model, x = network(), torch.rand(9, 1, 8, 8)
    labels, radii = pn.certify(model, x, size=4)
    exact = model.double()
    logits, weight = exact(x.double()), exact.head.unit_weight()
    for i, y in enumerate(labels.tolist()):
        margins = [float((logits[i, y] - logits[i, j]) / (weight[y] - weight[j]).norm()) for j in range(3) if j != y]
        assert min(margins) - 1e-6 < float(radii[i]) < min(margins)


def test_a_radius_of_unit_norm_is_told_in_units_of_the_image():
    model, x = network(unit_norm=True), torch.rand(5, 1, 8, 8)
    unit = UnitNorm()(x)
    norms = (x - x.mean(dim=(1, 2, 3), keepdim=True)).flatten(1).norm(dim=1)
    there, here = pn.certify(model, unit).radii, pn.certify(model, x).radii
    torch.testing.assert_close(here, there * norms, rtol=1e-5, atol=0.0)
    flat = pn.certify(model, torch.full((1, 1, 8, 8), 0.5))
    assert float(flat.radii) == 0  # its direction is that of its rounding


def test_a_solved_network_pays_for_its_gap():
    loose, tight = (
        nn.Sequential(
            PadChannels(1), Reflect(solved(pn.ConvDictionary(0.3 * CONV.weight.detach(), padding=1), tol=tol))
        )
        for tol in (1e-3, 1e-12)
    )
    x = torch.rand(8, 1, 5, 4, dtype=torch.float64)
    radii = []
    for features in (loose, tight):
        torch.manual_seed(0)
        model = pn.networks.certified.CertifiedNetwork(features, 2, 3).double().eval()
        radii.append(pn.certify(model, x).radii)
    assert (radii[0] < radii[1]).any() and (radii[0] <= radii[1] + 1e-6).all() and radii[1].max() > 0


REFUSED = {
    "resnet_8": "the layers of a Network have no Lipschitz constant",
    "msd_csc_3": "the layers of a Network have no Lipschitz constant",
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_networks_are_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=f"no radius can be certified: {REFUSED[name]}.*create_model\\('certified_6'"):
        pn.certify(pn.create_model(name, width=2), torch.rand(1, 3, 8, 8))


def test_a_certified_network_that_was_changed_is_refused():
    x = torch.rand(1, 1, 8, 8)
    model = network()
    model.features[0] = nn.BatchNorm2d(32)
    with pytest.raises(ValueError, match=r"features\.0 is a BatchNorm2d, whose Lipschitz constant is not known"):
        pn.certify(model, x)
    with pytest.raises(ValueError, match="not certified to be 1-Lipschitz: P normalizes"):
        Reflect(pn.PursuitLayer(CONV))
    model = network()
    model.features[2].layer.threshold.norm = pn.BatchNorm()
    with pytest.raises(ValueError, match=r"features\.2 need not be 1-Lipschitz, P normalizes"):
        pn.certify(model, x)
    with pytest.raises(ValueError, match="no head of two classes"):
        pn.certify(pn.create_model("certified_3", 0, 1, width=2), x)
    with pn.multilayer.with_unfolding(model := network(), 2), pytest.raises(ValueError, match="unfolding is 2"):
        pn.certify(model, x)
    with pytest.raises(ValueError, match="NaN or infinite"):
        pn.certify(network(), x * math.nan)
    with pytest.raises(TypeError, match=r"the images are torch\.uint8; expected a tensor of floats"):
        pn.certify(network(), x.byte())
    with pytest.raises(TypeError, match="model is 'certified_6'"):
        pn.certify("certified_6", x)


def test_certify_leaves_the_network_as_it_was():
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pn.certify(model, torch.rand(2, 1, 8, 8))
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_margin_loss_is_the_cross_entropy_of_what_is_ahead():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    found = loss_of(logits, labels, Recipe(margin=0.5, temperature=0.25))
    shifted = logits.clone()
    for i, y in enumerate(labels.tolist()):
        shifted[i, y] -= 0.5
    expected = -0.25 * torch.stack([(shifted[i] / 0.25).log_softmax(0)[y] for i, y in enumerate(labels)]).mean()
    torch.testing.assert_close(found, expected)
    assert torch.equal(loss_of(logits, labels, Recipe()), F.cross_entropy(logits, labels))


def test_recipes_without_a_margin_keep_their_place_in_the_ledger():
    assert identity(Recipe(lr=0.1)) == {"lr": 0.1}
    assert identity(Recipe(margin=0.5, unit_norm=True)) == {"margin": 0.5, "unit_norm": True}


@pytest.mark.parametrize(("field", "value"), [("margin", -0.1), ("temperature", 0.0), ("margin", math.inf)])
def test_margins_and_temperatures_that_cannot_be_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value}; expected a number"):
        Recipe(**{field: value})


def test_evaluate_certifies_a_run_and_its_page_shows_the_curve(tmp_path, monkeypatch):
    from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run

    recipe = Recipe(
        model="certified_3", width=2, unit_norm=True, epochs=1, train_images=100, test_images=30,
        lr=2.0, margin=0.3, temperature=0.1, weight_decay=0.0, warmup=0.0,
    )  # fmt: skip
    pn.train(recipe, tmp_path / "run")
    found = evaluate_run(tmp_path / "run", Settings(certify=True))
    sure = found.certification
    assert dict(sure.accuracy)[0.0] == found.evaluation.top1 and len(sure.radii) == 30
    shares = [share for _, share in sure.accuracy]
    assert shares == sorted(shares, reverse=True) and 0 < sure.at(1e-4) <= shares[0]
    assert list(sure.fragile) == sorted(sure.fragile, key=lambda i: sure.radii[i])
    assert "certified accuracy by ℓ₂ radius, of images of zero mean and unit norm" in "\n".join(found.lines())
    paths = found.save(tmp_path / "out", plot=True)
    assert [path.name for path in paths] == ["evaluation.json", "evaluation.png", "certification.png"]
    written = json.loads(paths[0].read_text())
    monkeypatch.setattr(pictures, "curves", lambda records: "")  # of the training
    text = page.write(tmp_path / "run").read_text(encoding="utf-8")
    assert "a map that never increases the distance of two images" in text
    curve = f"falling over the ℓ₂ radius: {100 * shares[0]:.1f} % at 0, {100 * shares[1]:.1f} % at 0.064"
    assert curve in text and text.index('id="certified"') < text.index(curve)
    for index in sure.fragile:
        assert f'alt="test image {index}, ' in text
    assert text.count(", radius ") == len(sure.fragile) > 0
    assert len(inspect_run(tmp_path / "run", images=4, unfolding=1, test_images=20).layers) == 3
    assert written["certification"]["radii"] == list(sure.radii) and "fragile_images" not in written
