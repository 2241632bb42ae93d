"""Layers that are solved to the optimum: more steps change nothing, gradients are those of the limit."""

import copy

import pytest
import torch
from makers import normal

import pursuitnet as pn
from pursuitnet.multilayer import with_unfolding
from pursuitnet.program.trace import trace_layers


def layer(dictionary, penalty=0.3, **options):
    threshold = pn.Threshold(dictionary.code_channels, penalty, nonnegative=options.pop("nonnegative", True))
    return pn.PursuitLayer(copy.deepcopy(dictionary), threshold=threshold, **options).double()


TALL = pn.LinearDictionary(normal(5, 8, seed=3).float())
CONV = pn.ConvDictionary((normal(3, 2, 3, 3) / 3).float(), padding=1)
CASES = [(TALL, (8,)), (CONV, (2, 5, 4)), (pn.WithIdentity(CONV), (2, 5, 4))]


@pytest.mark.parametrize(
    ("dictionary", "shape", "nonnegative"),
    [(*case, i != 1) for i, case in enumerate(CASES)],
    ids=["linear", "conv", "dense"],
)
def test_the_code_is_the_optimum_with_its_certificate(dictionary, shape, nonnegative):
    x = torch.randn(2, *shape, dtype=torch.float64)
    solved = layer(dictionary, 0.6, nonnegative=nonnegative, unfolding="solved", tol=1e-9)
    found = solved.solve(x)
    assert (found.gap <= 1e-9).all() and torch.equal(solved(x), found.code)
    D, code = solved.dictionary, found.code
    correlation = D.analyze(x - D.synthesize(code, x.shape))  # at the optimum β·sign(Γ) where Γ ≠ 0, and below β
    most = correlation if nonnegative else correlation.abs()
    assert (most <= 0.6 + 2e-4).all() and (code != 0).any() and (code == 0).any()
    assert ((correlation - 0.6 * code.sign())[code != 0].abs() <= 2e-4).all()
    assert torch.equal(solved.eval()(x), found.code)


def test_gradients_are_those_of_steps_without_end():
    x = torch.randn(4, 8, dtype=torch.float64)
    solved = layer(TALL, unfolding="solved", tol=1e-13)
    unrolled = layer(TALL, unfolding=450, step=pn.BoundedStep(1.0, learned=False))
    found = []
    for pursuit in (solved, unrolled):
        probe = x.clone().requires_grad_()
        code = pursuit(probe)
        (code.sin() * torch.arange(1, 6)).sum().backward()
        found.append((code.detach(), probe.grad, pursuit.dictionary.weight.grad, pursuit.threshold.atom_weight.grad))
    for here, there in zip(*found, strict=True):
        assert here.abs().max() > 0.1
        torch.testing.assert_close(here, there, atol=1e-6, rtol=1e-6)


def kept(pursuit, x):
    """How many numbers the forward pass keeps for the backward pass."""
    count = 0

    def pack(tensor):
        nonlocal count
        count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        pursuit(x)
    return count


def test_memory_does_not_grow_with_the_steps():
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    few, many = (layer(CONV, unfolding="solved", tol=tol) for tol in (1e-1, 1e-6))
    assert many.solve(x).steps > 3 * few.solve(x).steps
    assert kept(many, x) == kept(few, x)
    assert kept(layer(CONV, unfolding=40), x) > 5 * kept(layer(CONV, unfolding=2), x)


def test_the_solver_may_be_chosen_and_too_few_steps_are_told():
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64)
    codes = [
        layer(pn.WithIdentity(CONV), 0.6, unfolding="solved", tol=1e-10, solver=solver)(x)
        for solver in (None, pn.ReducedSolver(), pn.WorkingSet())
    ]
    for code in codes[1:]:
        torch.testing.assert_close(code, codes[0], atol=1e-4, rtol=0)
    with pytest.warns(pn.ConvergenceWarning, match="after 3 steps"):
        layer(CONV, unfolding="solved", tol=1e-10, max_steps=3)(x)


def test_a_solved_layer_of_its_own_is_bare_and_has_no_step_to_learn():
    pursuit = pn.PursuitLayer(TALL, unfolding="solved")
    assert pursuit.threshold.norm is None and isinstance(pursuit.solver, pn.FISTA)
    pursuit(torch.randn(4, 8)).sum().backward()
    assert all(p.grad is not None for p in pursuit.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": pn.resnet}, r"it starts at X₋₁ \(resnet\)"),
        ({"threshold": pn.Threshold((5,), norm=pn.BatchNorm())}, "P normalizes"),
        ({"threshold": pn.Threshold((5,), free=True)}, "β may be negative"),
        ({"step": pn.BoundedStep()}, "has no step to learn"),
        ({"tol": -1.0}, "tol is -1.0; expected a number ≥ 0"),
        ({"unfolding": "solve"}, "expected an integer ≥ 0, the number of steps after the first, or 'solved'"),
    ],
)
def test_what_cannot_be_solved_is_refused(options, says):
    with pytest.raises(ValueError, match=says):
        pn.PursuitLayer(TALL, **{"unfolding": "solved", **options})


def test_solvers_of_other_problems_are_refused():
    with pytest.raises(TypeError, match=r"which solves \(P0\); expected FISTA"):
        pn.PursuitLayer(TALL, unfolding="solved", solver=pn.OMP(2))
    with pytest.raises(TypeError, match="needs the whole problem"):
        pn.PursuitLayer(TALL, solver=pn.WorkingSet())


def test_a_layer_of_a_few_steps_can_be_solved_too():
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(TALL).solve(x).code, layer(TALL, unfolding="solved").solve(x).code)
    with pytest.raises(ValueError, match="the layer cannot be solved: P normalizes"):
        pn.PursuitLayer(TALL).solve(x)


def test_more_steps_change_nothing_in_a_solved_network():
    model = pn.create_model("msd_csc_3", 4, 1, width=2, unfolding="solved", norm=None)
    x = torch.rand(2, 1, 6, 6)
    logits = model(x)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad(), with_unfolding(model, 100):
        torch.testing.assert_close(model(x), logits, atol=2e-3, rtol=0)
    with torch.no_grad(), with_unfolding(model, 0):
        assert (model(x) - logits).abs().max() > 1e-2
    traces = trace_layers(model.eval(), x)
    assert [len(at.codes) for at in traces] == [1, 1, 1]


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({}, "P normalizes"),
        ({"norm": None, "sweep": "multilayer"}, "solved.*layer by layer"),
        ({"norm": None, "unfolding": "exact"}, "unfolding is 'exact'; expected an integer ≥ 0, or 'solved'"),
    ],
)
def test_networks_that_cannot_be_solved_are_refused(choices, says):
    with pytest.raises(ValueError, match=says):
        pn.create_model("msd_csc_3", **{"unfolding": "solved", **choices})


def test_other_families_cannot_be_solved():
    for name in ("ml_csc", "res_csc_8"):
        with pytest.raises(ValueError, match="unfolding"):
            pn.create_model(name, unfolding="solved")
