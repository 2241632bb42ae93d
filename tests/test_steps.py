"""The step c: its values, and that it never leaves (0, 1/L] whatever is done to the layer around it."""

import copy

import pytest
import torch
from makers import normal
from torch import nn

import pursuitnet as pn


def layer_of(seed=0, unfolding=2, **arguments):
    """MSD-CSC's layer: [I D] with 3×3 filters."""
    weight = normal(4, 2, 3, 3, seed=seed)
    dictionary = pn.WithIdentity(pn.ConvDictionary(weight, padding=1))
    bare = {"threshold": pn.Threshold(dictionary.code_channels)}
    return pn.PursuitLayer(dictionary, unfolding=unfolding, **bare | arguments).double()


def train(layer, steps=3, lr=0.5, size=(6, 5), model=None):
    """SGD on a loss that lets the filters grow."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        code = (model or layer)(normal(3, 2, *size, seed=100 + step))
        (-(1e-3 + code.square().mean()).log()).backward()
        optimizer.step()


def step_of(layer):
    return float(layer.step()[0].detach())


def assert_inside(c, layer, size):
    assert 0 < c <= 1 / layer.dictionary.lipschitz((2, *size))


@pytest.mark.parametrize("ratio", [0.25, 0.9])
@pytest.mark.parametrize("learned", [True, False])
def test_bounded_step_is_its_share_of_one_over_the_bound(ratio, learned):
    step = pn.BoundedStep(ratio, learned=learned).double()
    layer = pn.PursuitLayer(pn.ConvDictionary(normal(3, 2, 3, 3)), step=step)
    c, weight = step()
    assert weight == 1.0
    expected = ratio / float(layer.dictionary.lipschitz_bound().detach())
    assert float(c.detach()) == pytest.approx(expected, rel=1e-6)  # the ratio was given in float32
    assert len(list(step.parameters())) == learned
    assert "lipschitz" in step.state_dict()


def test_bounded_step_may_be_exactly_one_over_the_bound_where_it_is_not_learned():
    layer = layer_of(step=pn.BoundedStep(1, learned=False)).eval()
    assert step_of(layer) == 1 / float(layer.dictionary.lipschitz_bound().detach())


@pytest.mark.parametrize(("ratio", "learned"), [(0, True), (1, True), (-0.5, False), (1.5, False)])
def test_bounded_step_refuses_a_ratio_outside(ratio, learned):
    with pytest.raises(ValueError, match=f"ratio is {ratio}; expected 0 < ratio < 1, or 1 with learned=False"):
        pn.BoundedStep(ratio, learned=learned)


def test_free_step_is_its_parameter_and_absorbed_step_leaves_the_signal_unscaled():
    free = pn.FreeStep(0.3)
    c, weight = free()
    assert weight == 1.0
    assert float(c.detach()) == pytest.approx(0.3)
    assert len(list(free.parameters())) == 1
    absorbed = pn.AbsorbedStep(-0.25)  # the paper's c = −L
    c, weight = absorbed()
    assert c == 1.0
    assert float(weight.detach()) == 0.25
    assert len(list(absorbed.parameters())) == 1
    assert pn.AbsorbedStep()() == (1.0, 1.0)
    assert not list(pn.AbsorbedStep().parameters())


@pytest.mark.parametrize("size", [(1, 1), (5, 4), (11, 11)])
def test_bounded_step_stays_inside_before_every_forward_and_after_eval(size):
    layer, seen = layer_of(), []
    with torch.no_grad():
        layer.step.logit.fill_(12.0)  # the ratio has all but reached 1
    layer.register_forward_pre_hook(
        lambda layer, inputs: seen.append((step_of(layer), layer.dictionary.lipschitz(inputs[0].shape)))
    )
    train(layer, steps=30, lr=25.0, size=size)
    assert len(seen) == 30
    assert all(0 < c <= 1 / L for c, L in seen)
    largest, smallest = max(L for _, L in seen), min(L for _, L in seen)
    assert largest > 4 * smallest  # the filters did change
    layer.eval()
    for other in (size, (7, 9), (20, 20)):
        assert_inside(step_of(layer), layer, other)


@pytest.mark.parametrize("size", [(1, 1), (4, 4)])
def test_bounded_step_is_within_rounding_where_the_bound_is_tight(size):
    """Filters of one tap and one channel: the bound is λmax itself, and the step may be all of 1/L."""
    dictionary = pn.WithIdentity(pn.ConvDictionary(normal(4, 1, 1, 1)))
    layer = pn.PursuitLayer(dictionary, step=pn.BoundedStep(1, learned=False)).double().eval()
    assert step_of(layer) * dictionary.lipschitz((1, *size)) == pytest.approx(1, rel=1e-12)


def test_lipschitz_survives_saving_and_loading_and_the_threshold_follows_the_loaded_step():
    trained, fresh = layer_of(0, unfolding=0), layer_of(1, unfolding=0).eval()
    train(trained)
    trained.eval()
    x, stale = normal(2, 2, 6, 5), step_of(fresh)
    fresh.load_state_dict(trained.state_dict())
    assert step_of(fresh) == step_of(trained) != stale
    assert_inside(step_of(fresh), fresh, (6, 5))
    assert torch.equal(fresh(x), trained(x))
    beta = torch.cat([fresh.threshold.identity_penalty, fresh.threshold.penalty])
    literal = step_of(trained) * (fresh.dictionary.analyze(x) - beta.view(-1, 1, 1))
    torch.testing.assert_close(fresh(x), literal.clamp(min=0), rtol=1e-12, atol=1e-14)


def test_lipschitz_survives_deepcopy_and_each_copy_then_follows_its_own_filters():
    layer = layer_of()
    train(layer)
    kept = step_of(layer.eval())
    twin = copy.deepcopy(layer)
    assert step_of(twin) == kept
    train(twin.train())
    twin.eval()
    assert step_of(twin) != kept == step_of(layer)
    for one in (twin, layer):
        assert_inside(step_of(one), one, (6, 5))


def test_lipschitz_moves_with_the_layer_to_another_dtype():
    layer = layer_of().eval()
    exact = step_of(layer)
    for move in (nn.Module.float, nn.Module.double, lambda m: m.to(torch.float32)):
        move(layer)
        dtype = next(layer.dictionary.parameters()).dtype
        assert layer.step.lipschitz.dtype == layer.step()[0].dtype == dtype
        assert layer(normal(1, 2, 4, 4).to(dtype)).dtype == dtype
        assert step_of(layer) == pytest.approx(exact, rel=1e-6)
    layer.to("meta")
    assert layer.step.lipschitz.is_meta


def test_compiled_layer_gives_the_same_codes_and_keeps_its_step_inside():
    plain, compiled = layer_of(unfolding=1), layer_of(unfolding=1)
    compiled.compile(backend="eager")
    for layer in (plain, compiled):
        train(layer)
    x = normal(2, 2, 6, 5)
    for _ in ("training", "evaluation"):
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-10, atol=1e-12)
        assert step_of(compiled) == pytest.approx(step_of(plain), rel=1e-12)
        assert_inside(step_of(compiled), compiled, (6, 5))
        plain.eval()
        compiled.eval()


def trained_in_parallel():
    """Its wrapper is gone on return, before the process group is."""
    layer = layer_of()
    train(layer, model=nn.parallel.DistributedDataParallel(layer))
    return layer


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
def test_distributed_training_gives_the_same_layer_and_keeps_its_step_inside(tmp_path):
    alone = layer_of()
    train(alone)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        layer = trained_in_parallel()
    finally:
        torch.distributed.destroy_process_group()
    for one in (alone, layer):
        one.eval()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, rtol=1e-10, atol=1e-12)
    assert_inside(step_of(layer), layer, (6, 5))


@pytest.mark.parametrize("make", [pn.BoundedStep, lambda: pn.FreeStep(0.01), lambda: pn.AbsorbedStep(-0.01)])
def test_a_forward_in_evaluation_changes_nothing(make):
    threshold = pn.Threshold((2, 4), norm=pn.BatchNorm(), steps=3)
    layer = layer_of(step=make(), threshold=threshold)
    layer(normal(3, 2, 6, 5))
    layer.eval()
    with torch.no_grad():
        layer.dictionary.dictionary.weight.mul_(2)
    kept = copy.deepcopy(layer.state_dict())
    for size in ((6, 5), (9, 2)):
        layer(normal(1, 2, *size))
    assert kept.keys() == layer.state_dict().keys()
    assert all(torch.equal(value, kept[name]) for name, value in layer.state_dict().items())
