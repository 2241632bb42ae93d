"""P against brute force, literal formulas for its penalties and norms, and what training may do to them."""

import numpy as np
import pytest
import torch
from makers import normal

import pursuitnet as pn
from pursuitnet.prox.norms import BatchNorm, _ByRootMeanSquare
from pursuitnet.prox.threshold import IdentityPenalty


def shrunk(z, theta, nonnegative=True):
    """P_θ by cases."""
    if nonnegative:
        return torch.where(z > theta, z - theta, 0.0)
    return torch.where(z > theta, z - theta, torch.where(z < -theta, z + theta, 0.0))


def normalized(z, eps=1e-5):
    """Batch normalization over all axes but the second."""
    axes = [a for a in range(z.dim()) if a != 1]
    return (z - z.mean(axes, keepdim=True)) / (z.var(axes, keepdim=True, correction=0) + eps).sqrt()


def column(beta, z):
    return beta.view(-1, *[1] * (z.dim() - 2))


def with_penalties(threshold):
    """The same threshold with a different β in every row."""
    threshold = threshold.double()
    with torch.no_grad():
        for i, (name, weight) in enumerate(threshold.named_parameters()):
            if "weight" in name and not name.startswith("norms"):
                weight.copy_(normal(len(weight), seed=90 + i).abs() / 2)
    return threshold


@pytest.mark.parametrize(
    ("operator", "low"), [(pn.soft_threshold, -8.0), (pn.nonnegative_threshold, 0.0)], ids=["soft", "nonnegative"]
)
def test_threshold_minimizes_its_proximal_objective(operator, low):
    z, theta = 2 * normal(200).clamp(-4, 4), normal(200, seed=1).abs()
    grid = torch.linspace(low, 8, 8001, dtype=torch.float64)[:, None]

    def objective(u):
        return (u - z) ** 2 / 2 + theta * u.abs()

    result, best = operator(z, theta), objective(grid).min(dim=0)
    assert (objective(result) <= best.values + 1e-15).all()
    assert (result - grid[best.indices, 0]).abs().max() <= 2e-3
    assert 20 < int((result == 0).sum()) < 180
    assert torch.equal(operator(z, 0.0), z if low < 0 else z.clamp(min=0))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of jvp itself
@pytest.mark.parametrize("least", [0.0, 0.1, -0.1])
def test_soft_threshold_and_its_derivatives_are_those_by_cases(least):
    """For any sign of θ, as a free step may have; beside it a batch, forward derivatives and a number for θ."""
    z, theta = 2 * normal(3, 4, 5, 6), (least + normal(4, 1, 1, seed=1).abs()) * (1 if least >= 0 else -1)
    given = [t.clone().requires_grad_() for t in (z, theta)]
    for inputs in (given, [given[0], theta], [z, given[1]]):
        wanted = [t for t in inputs if t.requires_grad]
        found, expected = pn.soft_threshold(*inputs), z.sign() * (inputs[0] * z.sign() - inputs[1]).clamp(min=0)
        torch.testing.assert_close(found, expected)
        first, other = (torch.autograd.grad((r**3).sum(), wanted, create_graph=True) for r in (found, expected))
        torch.testing.assert_close(first, other)
        second, other = (torch.autograd.grad(sum(t.square().sum() for t in r), wanted) for r in (first, other))
        torch.testing.assert_close(second, other)
    assert torch.equal(pn.soft_threshold(z, theta), found.detach())
    batch = torch.func.vmap(pn.soft_threshold)(z, theta.expand(3, 4, 1, 1))
    assert torch.equal(batch, found.detach())
    _, forward = torch.func.jvp(lambda t: pn.soft_threshold(t, theta), (z,), (z.cos(),))
    torch.testing.assert_close(forward, torch.where(found != 0, z.cos(), 0))
    assert torch.equal(pn.soft_threshold(z, 0.5), pn.soft_threshold(z, torch.tensor(0.5, dtype=z.dtype)))


@pytest.mark.parametrize("c", [0.1, -0.1])
def test_evaluation_in_place_has_the_values_of_training_for_a_free_step_of_any_sign(c):
    D = pn.ConvDictionary(normal(6, 2, 3, 3), padding=1)
    P = with_penalties(pn.Threshold((6,), nonnegative=False))
    layer = pn.PursuitLayer(D, unfolding=2, step=pn.FreeStep(c), threshold=P).double()
    x = normal(2, 2, 7, 7, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(x.clone().requires_grad_()).detach(), rtol=1e-12, atol=1e-14)
        assert torch.equal(layer(x), torch.stack([layer(x[i : i + 1])[0] for i in range(2)]))
    with torch.enable_grad():
        graph = layer(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), graph, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("size", [(), (5,), (3, 4), (2, 3, 2)])
def test_every_row_has_its_own_penalty_scaled_by_the_step_of_this_call(size, nonnegative):
    P = with_penalties(pn.Threshold((3,), nonnegative=nonnegative))
    assert P.penalty.unique().numel() == 3
    anchor, update = normal(4, 3, *size), normal(4, 3, *size, seed=1)
    for c in (0.5, torch.tensor(2.0, dtype=torch.float64), 0.5):
        (code,) = P((anchor,), (c * update,), c)
        z = anchor + c * update
        torch.testing.assert_close(code, shrunk(z, column(P.penalty, z) * c, nonnegative), rtol=0, atol=1e-15)
    torch.testing.assert_close(P(None, (update,))[0], shrunk(update, column(P.penalty, update), nonnegative))


@pytest.mark.parametrize("initial", [0.2, 0.0])
@pytest.mark.parametrize("identity", [IdentityPenalty.OWN, IdentityPenalty.SAME])
def test_a_penalty_that_training_pushes_below_zero_stays_nonnegative_and_comes_back(initial, identity):
    P = pn.Threshold((2, 3), initial, identity).double()
    update = tuple(normal(20, rows, seed=rows).abs() + 1 for rows in P.code_channels)
    optimizer = torch.optim.SGD(P.parameters(), lr=0.03)

    def push(sign, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (sign * sum(part.mean() for part in P(None, update))).backward()
            optimizer.step()
            assert (P.penalty >= 0).all()
            assert (P.identity_penalty >= 0).all()

    push(-1, 40)  # a larger code, so smaller penalties
    assert P.penalty.max() < 0.1
    assert P.identity_penalty.max() < 0.1
    push(+1, 40)
    assert P.penalty.min() > 0.2
    assert P.identity_penalty.min() > 0.2


def test_a_free_penalty_may_become_negative_and_then_lifts_the_code():
    P = pn.Threshold((3,), 0.0, free=True).double()
    update = normal(20, 3)
    (-P(None, (update,))[0].mean()).backward()
    torch.optim.SGD(P.parameters(), lr=1.0).step()
    assert (P.penalty < 0).all()
    torch.testing.assert_close(P(None, (update / 2,), 0.5)[0], (update - P.penalty).clamp(min=0) / 2)


def test_a_negative_penalty_is_refused_unless_it_is_free():
    with pytest.raises(ValueError, match=r"penalty is -0\.1; expected ≥ 0, or free=True"):
        pn.Threshold((3,), -0.1)
    assert (pn.Threshold((3,), -0.1, free=True).penalty < 0).all()


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize(
    ("identity", "parameters"),
    [(IdentityPenalty.OWN, 5), (IdentityPenalty.SAME, 1), (IdentityPenalty.NONE, 3), (IdentityPenalty.SIGNED, 3)],
)
def test_the_penalty_on_the_identity_part(identity, parameters, nonnegative):
    P = with_penalties(pn.Threshold((2, 3), identity=identity, nonnegative=nonnegative))
    assert sum(p.numel() for p in P.parameters()) == parameters
    anchor, update = ((normal(4, 2, 5, seed=s), normal(4, 3, 5, seed=s + 1)) for s in (0, 2))
    (z_identity, z_atoms), c = (a + 0.7 * u for a, u in zip(anchor, update, strict=True)), 0.7
    got_identity, got_atoms = P(anchor, tuple(c * u for u in update), c)
    torch.testing.assert_close(got_atoms, shrunk(z_atoms, c * column(P.penalty, z_atoms), nonnegative))
    expected = {
        IdentityPenalty.OWN: lambda: shrunk(z_identity, c * column(P.identity_weight.abs(), z_identity), nonnegative),
        IdentityPenalty.SAME: lambda: shrunk(z_identity, c * P.atom_weight.abs(), nonnegative),
        IdentityPenalty.NONE: lambda: z_identity.clamp(min=0) if nonnegative else z_identity,
        IdentityPenalty.SIGNED: lambda: z_identity,
    }[identity]()
    torch.testing.assert_close(got_identity, expected)
    values = {IdentityPenalty.OWN: P.identity_weight, IdentityPenalty.SAME: P.penalty}
    torch.testing.assert_close(P.identity_penalty, values.get(identity, torch.zeros(1)), check_dtype=False)


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("on", ["sum", "update"])
@pytest.mark.parametrize("identity", ["none", "scale", "batch"])
@pytest.mark.parametrize("affine", [True, False])
def test_norm_normalizes_the_sum_or_the_update_and_leaves_the_penalty_unscaled(on, identity, affine, anchored):
    P = with_penalties(pn.Threshold((2, 3), norm=BatchNorm(on, affine=affine, identity=identity)))
    scale, shift = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    if affine:
        scale, shift = normal(3, seed=7), normal(3, seed=8)
        P.norms[0][-1].load_state_dict({"weight": scale, "bias": shift}, strict=False)
    update = normal(6, 2, 4), 3 + 2 * normal(6, 3, 4, seed=1)
    anchor = (normal(6, 2, 4, seed=2), normal(6, 3, 4, seed=3)) if anchored else None
    a_identity, a_atoms = anchor or (0.0, 0.0)

    def normed(anchor, z, scale, shift, normalized=normalized):
        if on == "update":
            return anchor + normalized(z) * column(scale, z) + column(shift, z)
        return normalized(anchor + z) * column(scale, z) + column(shift, z)

    def rescaled(z):
        return z / (z.square().mean(dim=(0, 2), keepdim=True) + 1e-5).sqrt()

    update = tuple(0.3 * part for part in update)
    got_identity, got_atoms = P(anchor, update, 0.3)
    z = normed(a_atoms, update[1], scale, shift)
    torch.testing.assert_close(got_atoms, shrunk(z, column(P.penalty, z)))
    one, none = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    plain = a_identity + update[0]
    kind = {"batch": normalized, "scale": rescaled}.get(identity)
    z = plain if kind is None else normed(a_identity, update[0], one, none, kind)
    theta = column(P.identity_penalty, z) * (0.3 if kind is None else 1.0)
    torch.testing.assert_close(got_identity, shrunk(z, theta))


def test_a_norm_without_penalty_is_followed_by_relu():
    """In evaluation an affine norm is an affine map of the pre-threshold: its shift is the threshold."""
    P = pn.Threshold((3,), None, norm=BatchNorm("update", affine=True)).double()
    assert {name for name, _ in P.named_parameters()} == {"norms.0.0.weight", "norms.0.0.bias"}
    anchor, update = normal(6, 3, 4), normal(6, 3, 4, seed=1)
    torch.testing.assert_close(P((anchor,), (update,))[0], (anchor + normalized(update)).clamp(min=0))
    assert not P.penalty.any()


def buffers(module):
    return {name: value.clone() for name, value in module.named_buffers()}


def test_every_step_has_its_own_statistics_and_the_last_serve_all_later_steps():
    P = pn.Threshold((3,), norm=BatchNorm(), steps=2).double()
    first, second = P.norms
    P(None, (normal(8, 3) + 5,), step=0)
    kept = buffers(first)
    P(None, (normal(8, 3, seed=1) - 2,), step=1)
    P(None, (normal(8, 3, seed=1) - 2,), step=4)
    assert all(torch.equal(value, kept[name]) for name, value in first.named_buffers())
    assert first[0].running_mean.min() > 0 > second[0].running_mean.max()
    assert int(first[0].num_batches_tracked) == 1
    assert int(second[0].num_batches_tracked) == 2


@pytest.mark.parametrize("identity", ["scale", "batch"])
@pytest.mark.parametrize("on", ["sum", "update"])
def test_in_evaluation_the_code_of_an_image_does_not_depend_on_its_batch_nor_change_the_statistics(on, identity):
    P = pn.Threshold((2, 3), norm=BatchNorm(on, identity=identity), steps=2).double()
    update = normal(6, 2, 4), 3 + 2 * normal(6, 3, 4, seed=1)
    for step in (0, 1):
        P(None, update, step=step)
    P.eval()
    kept = buffers(P)
    for step in (0, 1):
        together = P(None, update, step=step)
        alone = P(None, tuple(part[:1] for part in update), step=step)
        for part, one in zip(together, alone, strict=True):
            torch.testing.assert_close(part[:1], one)
    assert all(torch.equal(value, kept[name]) for name, value in P.named_buffers())


def test_all_norms_are_in_the_state_and_reached_by_eval():
    P = pn.Threshold((2, 3), norm=BatchNorm(identity="batch"), steps=3)
    norms = [m for m in P.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 3 * 2
    means = [name for name in P.state_dict() if name.endswith("running_mean")]
    assert len(means) == len(norms)
    P.eval()
    assert not any(m.training for m in norms)
    P.double()
    assert {m.running_mean.dtype for m in norms} == {torch.float64}
    assert not len(pn.Threshold((2, 3), steps=3).norms)


@pytest.mark.parametrize("size", [(), (5,), (3, 4), (2, 3, 2)])
def test_division_by_the_root_mean_square_has_the_gradients_of_the_plain_formula(size):
    z, weight = 3 * normal(6, 2, *size), normal(6, 2, *size, seed=1)
    z[:, 1] *= 1e-3  # where eps counts

    def found(function):
        at = z.clone().requires_grad_()
        value = function(at)
        (first,) = torch.autograd.grad((value * weight).sum(), at, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), at)
        return value, first, second

    for mine, plain in zip(
        found(lambda z: _ByRootMeanSquare.apply(z, 1e-5)[0]),
        found(lambda z: z / (z.square().mean(dim=[0, *range(2, z.dim())], keepdim=True) + 1e-5).sqrt()),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-10, atol=1e-10)


def test_division_by_the_root_mean_square_in_half_precision_and_under_vmap():
    z = 3 * normal(16, 2, 8).float()
    half, m = _ByRootMeanSquare.apply(z.bfloat16().requires_grad_(), 1e-5)
    half.float().square().sum().backward()
    assert half.dtype is torch.bfloat16 and not m.requires_grad
    assert (half.float() - _ByRootMeanSquare.apply(z, 1e-5)[0]).abs().max() < 0.03
    each = torch.func.vmap(lambda z: _ByRootMeanSquare.apply(z, 1e-5)[0])(torch.stack([z, 2 * z]))
    torch.testing.assert_close(each[1], _ByRootMeanSquare.apply(2 * z, 1e-5)[0])


@pytest.mark.parametrize("threshold", [pn.soft_threshold, pn.nonnegative_threshold])
def test_arrays_and_lists_are_thresholded_as_tensors(threshold):
    z = [-3.0, 0.5, 2.0]
    expected = threshold(torch.tensor(z, dtype=torch.float64), 1.0)
    torch.testing.assert_close(threshold(np.array(z), 1.0), expected)
    torch.testing.assert_close(threshold(z, 1.0), expected.float())
