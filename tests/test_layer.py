"""The one update, held against explicit matrices for every start, step, solver and dictionary."""

import itertools
import math

import pytest
import torch
from makers import dictionary_of, normal

import pursuitnet as pn

BATCH = 3


# name: (kind in the list, scale and shape of the filters, signal shape of one example, code shape of one example)
DICTIONARIES = {
    "matrix": ("wide matrix", 0.25, (7, 5), (5,), (7,)),
    "conv": ("2-D / 2, padded", 0.2, (3, 2, 4, 4), (2, 5, 6), (3, 2, 3)),
    "[I conv]": ("[I 2-D], dilated", 0.2, (3, 2, 3, 3), (2, 4, 5), (5, 4, 5)),
}


def made(name):
    kind, scale, filters, *_ = DICTIONARIES[name]
    return dictionary_of(kind, scale * normal(*filters))


STARTS = {"zero": (0, 0), "resnet": (1, 0), "res_csc_simplified": (0, 1), "res_csc": (1, 1)}
STEPS = {
    "bounded": pn.BoundedStep,
    "bounded, fixed": lambda: pn.BoundedStep(0.5, learned=False),
    "free": lambda: pn.FreeStep(0.4),
    "absorbed": lambda: pn.AbsorbedStep(-0.3),
    "absorbed, without c": pn.AbsorbedStep,
}


def layer_of(dictionary, start="zero", step="bounded", *, nonnegative=True, **arguments):
    """A layer in float64 with a different penalty in every row."""
    D = made(dictionary)
    threshold = pn.Threshold(D.code_channels, nonnegative=nonnegative)
    layer = pn.PursuitLayer(D, getattr(pn, start), step=STEPS[step](), threshold=threshold, **arguments).double()
    with torch.no_grad():
        for i, weight in enumerate((threshold.atom_weight, threshold.identity_weight)):
            if weight is not None:
                weight.copy_(2 * normal(len(weight), seed=50 + i).abs())
    return layer


def inputs(dictionary):
    *_, signal, code = DICTIONARIES[dictionary]
    return normal(BATCH, *signal, seed=1), normal(BATCH, *code, seed=2)


def literal(layer, step, x, previous, *, fista=False):
    """The pursuit on flat codes, from the explicit D and the numbers that the layer has learned."""
    M, places, shape = layer.dictionary.matrix(x.shape), STARTS[layer.start.name], previous.shape
    beta = layer.threshold.penalty
    if len(layer.dictionary.code_channels) == 2:
        beta = torch.cat([layer.threshold.identity_penalty, beta])
    beta = beta.repeat_interleave(previous[0, 0].numel())
    x, previous = x.flatten(1), previous.flatten(1)
    if step.startswith("absorbed"):  # Eq. 5, where D holds the step and the threshold already
        c = layer.step.c if step == "absorbed" else -1.0
        theta = beta

        def descent(probe):
            return (x + c * (probe @ M.T)) @ M
    else:  # Eqs. 1 and 4
        c = layer.step.c if step == "free" else share(layer.step) / layer.dictionary.lipschitz_bound()
        theta = beta * c

        def descent(probe):
            return -c * (probe @ M.T - x) @ M

    def shrink(z):
        if layer.threshold.nonnegative:
            return (z - theta).clamp(min=0)
        return torch.where(z.abs() > theta, z - theta * z.sign(), 0.0)

    code = before = shrink(places[0] * previous + descent(places[1] * previous))
    t = 1.0
    for _ in range(layer.unfolding):
        t, last = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        probe = code + (last - 1) / t * (code - before) if fista else code
        code, before = shrink(probe + descent(probe)), code
    return code.view(shape)


def share(step):
    return 1 / (1 + (-step.logit).exp()) if hasattr(step, "logit") else 0.5


@pytest.mark.parametrize(
    ("dictionary", "start", "step", "nonnegative"),
    [  # every pair of the first three with both signs
        (dictionary, start, step, bool((i + j + k) % 2))
        for i, dictionary in enumerate(DICTIONARIES)
        for j, start in enumerate(STARTS)
        for k, step in enumerate(STEPS)
    ],
)
def test_layer_is_the_literal_update(dictionary, start, step, nonnegative):
    x, previous = inputs(dictionary)
    for unfolding, solver in ((0, pn.FISTA()), (1, pn.ISTA()), (3, pn.ISTA()), (3, pn.FISTA())):
        choices = {"nonnegative": nonnegative, "unfolding": unfolding, "solver": solver}
        layer = layer_of(dictionary, start, step, **choices).eval()
        expected = literal(layer, step, x, previous, fista=solver == pn.FISTA())
        code = layer(x, previous if any(STARTS[start]) else None)
        torch.testing.assert_close(code, expected, rtol=1e-10, atol=1e-10 * float(expected.detach().abs().max()))
        assert 0 < int((code == 0).sum()) < code.numel()
        kept = x.clone(), previous.clone()
        with torch.no_grad():  # where the update is made in the memory of its residual
            again = layer(x, previous if any(STARTS[start]) else None)
        torch.testing.assert_close(again, code.detach(), rtol=1e-12, atol=1e-13)
        assert torch.equal(x, kept[0]) and torch.equal(previous, kept[1])


@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_training_and_evaluation_agree_and_a_forward_leaves_nothing_behind(dictionary):
    layer = layer_of(dictionary, unfolding=2)
    x, _ = inputs(dictionary)
    attributes = set(vars(layer))
    code = layer(x)
    layer(x[:1])
    assert set(vars(layer)) == attributes
    assert torch.equal(layer.eval()(x), code)


@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_reconstruct_is_the_dictionary_times_the_code(dictionary):
    layer, (x, code) = layer_of(dictionary), inputs(dictionary)
    expected = (code.flatten(1) @ layer.dictionary.matrix(x.shape).T).view(x.shape)
    torch.testing.assert_close(layer.reconstruct(code, x.shape), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_parameters_are_the_same_for_every_unfolding(dictionary):
    def shapes(unfolding):
        return {name: p.shape for name, p in layer_of(dictionary, unfolding=unfolding).named_parameters()}

    assert shapes(0) == shapes(5)


@pytest.mark.parametrize("norm", [None, pn.BatchNorm(affine=True, identity="batch")], ids=["plain", "norm"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_gradients_reach_every_parameter_the_signal_and_previous(dictionary, step, norm):
    layer = layer_of(dictionary, "res_csc", step, unfolding=1)
    if norm:
        layer.threshold = pn.Threshold(layer.dictionary.code_channels, norm=norm, steps=2).double()
    x, previous = (t.requires_grad_() for t in inputs(dictionary))
    (layer(x, previous) * normal(*previous.shape, seed=3)).sum().backward()
    for name, tensor in (*layer.named_parameters(), ("x", x), ("previous", previous)):
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.any(), name


@pytest.mark.parametrize("step", ["bounded", "absorbed"])
def test_gradients_are_those_of_the_pursuit(step):
    layer = layer_of("[I conv]", "res_csc", step, unfolding=2, solver=pn.FISTA()).eval()
    x, previous = (t[:1, :, :2, :2].contiguous().requires_grad_() for t in inputs("[I conv]"))
    variables = (x, previous, *layer.parameters())
    assert torch.autograd.gradcheck(lambda x, previous, *_: layer(x, previous), variables, fast_mode=True)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("norm", [None, pn.BatchNorm()], ids=["plain", "norm"])
def test_two_forwards_in_training_before_one_backward(step, norm):
    layer = layer_of("conv", "res_csc", step, unfolding=1)
    if norm:
        layer.threshold = pn.Threshold(layer.dictionary.code_channels, norm=norm, steps=2).double()
    x, previous = inputs("conv")
    pairs = [(x, previous), (x.flip(-1), 2 * previous)]
    losses = [layer(*pair).square().sum() for pair in pairs]
    together = torch.autograd.grad(sum(losses), list(layer.parameters()))
    apart = [torch.autograd.grad(layer(*pair).square().sum(), list(layer.parameters())) for pair in pairs]
    for both, first, second in zip(together, *apart, strict=True):
        torch.testing.assert_close(both, first + second, rtol=1e-10, atol=1e-12)


def test_every_step_uses_its_own_norm():
    threshold = pn.Threshold((3,), norm=pn.BatchNorm(), steps=3)
    dictionary = pn.ConvDictionary(normal(3, 2, 3, 3), padding=1)
    layer = pn.PursuitLayer(dictionary, unfolding=2, threshold=threshold).double()
    layer(normal(4, 2, 5, 5))
    assert [int(norm[0].num_batches_tracked) for norm in threshold.norms] == [1, 1, 1]
    means = [norm[0].running_mean for norm in threshold.norms]
    assert not any(torch.allclose(a, b) for a, b in itertools.pairwise(means))


def test_a_step_that_is_a_plain_number_is_applied_to_the_signal():
    class Half(torch.nn.Module):
        def forward(self):
            return 0.5, 1.0

    layer = layer_of("matrix", unfolding=1)
    x, _ = inputs("matrix")
    free = pn.FreeStep(0.5).double()
    codes = []
    for step in (Half(), free):
        layer.step = step
        codes.append(layer(x))
    torch.testing.assert_close(*codes)


@pytest.mark.parametrize("unfolding", [-1, 1.5, "2"])
def test_unfolding_is_refused_unless_it_is_a_number_of_steps(unfolding):
    with pytest.raises(ValueError, match=f"unfolding is {unfolding!r}; expected an integer ≥ 0"):
        layer_of("matrix", unfolding=unfolding)


def test_a_threshold_for_other_channels_is_refused():
    dictionary = made("[I conv]")
    with pytest.raises(ValueError, match=r"code_channels \(5,\).*of the dictionary, \(2, 3\)"):
        pn.PursuitLayer(dictionary, threshold=pn.Threshold((5,)))


def test_a_missing_previous_is_refused():
    x, _ = inputs("conv")
    with pytest.raises(ValueError, match="previous is None"):
        layer_of("conv", "resnet")(x)


@pytest.mark.parametrize("start", ["resnet", "res_csc_simplified", "res_csc"])
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_a_previous_of_another_shape_is_refused_even_where_it_would_broadcast(dictionary, start):
    layer, (x, previous) = layer_of(dictionary, start), inputs(dictionary)
    others = [previous[:1], previous[:, :1], previous[0], previous[:, :-1], torch.cat([previous, previous], dim=-1)]
    others += [previous[..., :1]] if previous.dim() > 2 else []
    expected = ", ".join(map(str, previous.shape[1:])) + ")"
    for other in others:
        with pytest.raises(ValueError, match="shape") as caught:
            layer(x, other)
        assert str(tuple(other.shape)) in str(caught.value)
        assert expected in str(caught.value)


@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_a_signal_of_another_shape_is_refused(dictionary):
    layer, (x, _) = layer_of(dictionary), inputs(dictionary)
    for other in (x[:, :1], x[0]):
        with pytest.raises(ValueError, match="the signal has shape"):
            layer(other)


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(("unfolding", "sweep"), [(0, "layer"), (2, "layer"), (2, "multilayer")])
def test_autocast_keeps_the_whole_code_in_one_number_format(norm, unfolding, sweep):
    torch.manual_seed(0)
    layer = pn.create_model("msd_csc_3", width=4, norm=norm, unfolding=unfolding, sweep=sweep).features[0]
    x, seen = torch.rand(4, 3, 8, 8), []
    plain = layer(x)
    for module in layer.modules():
        if isinstance(module, pn.Threshold):
            module.register_forward_hook(lambda *at: seen.extend(part.dtype for part in at[2]))
    with torch.autocast("cpu", torch.bfloat16):
        code = layer(x)
    assert {code.dtype, *seen} == {torch.bfloat16}
    assert (code.float() - plain).norm() < 0.02 * plain.norm()
    code.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of jvp itself
@pytest.mark.parametrize("solver", [pn.ISTA(), pn.FISTA()], ids=["ista", "fista"])
@pytest.mark.parametrize("dictionary", DICTIONARIES)
def test_batching_and_forward_differentiation_work_with_gradients_and_without(dictionary, solver):
    layer = layer_of(dictionary, "res_csc", unfolding=3, solver=solver).eval()
    x, previous = inputs(dictionary)
    plain = layer(x, previous)
    _, along = torch.func.jvp(layer, (x, previous), (x.cos(), previous.sin()))
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            batched = torch.vmap(lambda x, previous: layer(x[None], previous[None])[0])(x, previous)
            torch.testing.assert_close(batched, plain, rtol=1e-12, atol=1e-13)
            value, tangent = torch.func.jvp(layer, (x, previous), (x.cos(), previous.sin()))
            torch.testing.assert_close(value, plain, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(tangent, along, rtol=1e-12, atol=1e-13)
