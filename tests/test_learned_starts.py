"""Starts inside the square of the four, and those that recall X₋₂."""

import itertools

import pytest
import torch

import pursuitnet as pn
from pursuitnet.networks.residual import MomentumBlocks, fista_weights
from pursuitnet.program.recipe import Recipe

CORNERS = {"plain": (0.0, 0.0), "resnet": (1.0, 0.0), "res_csc_simplified": (0.0, 1.0), "res_csc": (1.0, 1.0)}


def filled(model, weights):
    """A network with the weights of another one, as far as it has them; what it lacks must be its own start."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("start" in name or name.endswith(("step.c", "learned.0")) for name in missing)
    return model


@pytest.mark.parametrize("corner", CORNERS)
def test_at_the_corners_of_the_square_it_is_the_four_networks_to_the_last_bit(corner):
    torch.manual_seed(0)
    choices = {"width": 4, **({} if corner in ("plain", "resnet") else {"c": -0.3})}
    known = pn.create_model(f"{corner}_14", **choices)
    model = filled(pn.create_model("learned_14", width=4, c=-0.3), known.state_dict())
    starts = [module for module in model.modules() if isinstance(module, pn.LearnedStart)]
    assert len(starts) == 6
    for start in starts:
        torch.nn.init.constant_(start.a, CORNERS[corner][0])
        torch.nn.init.constant_(start.p, CORNERS[corner][1])
    x = torch.randn(4, 3, 16, 16)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x), known.train(mode)(x))


@pytest.mark.parametrize("corner", ["zero", "resnet", "res_csc_simplified", "res_csc"])
def test_training_begins_at_a_corner(corner):
    known = getattr(pn, corner)
    model = pn.create_model("learned_8", width=2, corner=corner)
    places = {tuple(w.item() for w in m.place()) for m in model.modules() if isinstance(m, pn.LearnedStart)}
    assert places == {(float(known.anchored), float(known.probed))}
    assert Recipe(model="learned_8", corner=corner).choices()["corner"] == corner
    with pytest.raises(ValueError, match="res_csc_8 has no choice 'corner'"):
        pn.create_model("res_csc_8", corner=corner)


def test_a_start_of_its_own_for_every_block_costs_next_to_nothing():
    def count(name):
        return sum(p.numel() for p in pn.create_model(name).parameters())

    for name in ("learned_20", "multistep_20", "momentum_20"):
        assert count("res_csc_20") - 9 <= count(name) <= 1.001 * count("res_csc_20")


def test_a_layer_starts_between_the_corners_and_learns_where():
    start = pn.LearnedStart(anchor=0.25, probe=0.5)
    layer = pn.PursuitLayer(
        pn.LinearDictionary(torch.randn(4, 3)), start, step=pn.FreeStep(0.1), threshold=pn.Threshold((4,), 0.0)
    )
    x, previous = torch.randn(5, 3), torch.randn(5, 4)
    W = layer.dictionary.weight
    expected = (0.25 * previous + 0.1 * (x - 0.5 * previous @ W) @ W.T).relu()
    torch.testing.assert_close(layer(x, previous), expected)
    layer(x, previous).square().sum().backward()
    assert start.a.grad.abs() > 1e-3 and start.p.grad.abs() > 1e-3
    with pytest.raises(ValueError, match=r"'learned'.*previous is None"):
        layer(x)


def test_beyond_the_square_the_nearest_point_is_taken_and_the_way_back_stays_open():
    start = pn.LearnedStart(1.0, 0.0)
    with torch.no_grad():
        start.a.add_(0.5)
        start.p.sub_(2.0)
    assert [w.item() for w in start.place()] == [1.0, 0.0]
    anchor, probe = start(torch.ones(2, 3))
    (anchor - probe).sum().backward()
    assert float(start.a.grad) == 6 and float(start.p.grad) == -6
    with pytest.raises(ValueError, match=r"probe is 1.5; expected a number from 0 to 1"):
        pn.LearnedStart(0.0, 1.5)


def test_multistep_begins_as_resnet_and_recalls_two_blocks():
    torch.manual_seed(0)
    known = pn.create_model("resnet_14", width=4)
    model = pn.create_model("multistep_14", width=4)
    weights = {name.replace("features.", "", 1): value for name, value in known.state_dict().items()}
    own = model.state_dict()
    named = {}
    for name, value in weights.items():
        stage, _, rest = name.partition(".")
        if name.startswith("head"):
            named[name] = value
        elif stage == "0":
            named[f"features.0.{rest}"] = value
        else:
            named[f"features.1.blocks.{int(stage) - 1}.{rest}"] = value
    assert set(own) - set(named) == {f"features.1.learned.{i}" for i in range(6)}
    model.load_state_dict(named, strict=False)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(model.eval()(x), known.eval()(x))
    stack = model.features[1]
    assert isinstance(stack, MomentumBlocks)
    for k in stack.learned:
        torch.nn.init.constant_(k, 0.25)
    here, codes = model.features[0](x), []
    before = here
    for i, block in enumerate(stack.blocks):  # the definition written out
        down = [block._shortcut(code) for code in (here, before)]
        start = 0.75 * down[0] + 0.25 * down[1]
        codes.append(block.second(block.first(here), previous=start))
        before, here = down[0], codes[i]
    torch.testing.assert_close(stack(model.features[0](x)), codes[-1])
    model.train()(x).square().sum().backward()
    grads = [float(k.grad.abs()) for k in stack.learned]
    assert grads[0] == 0 and min(grads[1:]) > 0


def test_momentum_has_the_weights_of_fista():
    model = pn.create_model("momentum_20", width=4)
    solver, seen = pn.FISTA(), []

    def update(probe):  # codes 1, 2, 3, …: the probe is ahead of the code by the weight itself
        seen.append(float(probe[0]))
        return (torch.tensor([float(len(seen))]),)

    state = solver.init((torch.zeros(1),))
    for _ in range(9):
        state = solver.step(update, state)
    expected = [seen[n] - n for n in range(9)]
    torch.testing.assert_close(-model.features[1].fixed, torch.tensor(expected))
    assert fista_weights(3)[0] == 0 and not list(model.features[1].learned)
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_dropout_of_a_code_is_an_elastic_net():
    """E½‖x − D·m·Γ/p‖² = ½‖x − DΓ‖² + (1−p)/(2p)·Σ‖dⱼ‖²γⱼ², over all masks m of a share p."""
    torch.manual_seed(0)
    D, code, x, p = torch.randn(3, 5).double(), torch.randn(5).double(), torch.randn(3).double(), 0.7
    mean = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=5):
        m = torch.tensor(mask, dtype=torch.float64)
        chance = p ** m.sum() * (1 - p) ** (5 - m.sum())
        mean += chance * 0.5 * (x - D @ (m * code / p)).square().sum()
    ridge = (1 - p) / (2 * p) * (D.square().sum(dim=0) * code.square()).sum()
    torch.testing.assert_close(mean, 0.5 * (x - D @ code).square().sum() + ridge)
