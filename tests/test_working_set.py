"""``WorkingSet(initial_solver=…)``: another solver finds the first working set."""

import pytest
import torch
from makers import normal, unit

import pursuitnet as pn

CIRCULAR = pn.CircularDictionary(unit(4, 1, 3, 3)).requires_grad_(False)
PADDED = pn.ConvDictionary(unit(4, 1, 3, 3), padding=1).requires_grad_(False)
STRIDED = pn.ConvDictionary(unit(4, 1, 3, 3), stride=2).requires_grad_(False)
ADMM_FIRST = pn.WorkingSet(initial_solver=pn.ADMM())


def draw(D, share=0.2):
    x = normal(2, 1, 8, 9)
    return x, share * pn.beta_max(x, D)


@pytest.mark.parametrize(
    ("D", "solver"),
    [
        (CIRCULAR, ADMM_FIRST),
        (PADDED, ADMM_FIRST),
        (pn.LinearDictionary(unit(20, 12)).requires_grad_(False), ADMM_FIRST),
        (STRIDED, pn.WorkingSet(initial_solver=pn.FISTA())),
    ],
)
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_it_ends_at_the_same_optimum(D, solver, nonnegative, ridge):
    x = normal(2, 12) if isinstance(D, pn.LinearDictionary) else normal(2, 1, 8, 9)
    beta = 0.2 * pn.beta_max(x, D, nonnegative)
    options = {"nonnegative": nonnegative, "ridge": ridge, "tol": 1e-9}
    found = pn.solve(x, D, beta, solver, **options)
    assert found.converged and found.solver == solver
    other = pn.solve(x, D, beta, pn.WorkingSet(), **options)
    torch.testing.assert_close(found.objective, other.objective, rtol=2e-9, atol=0)
    torch.testing.assert_close(found.code, other.code, rtol=0, atol=1e-3)


def test_it_begins_with_the_code_of_the_initial_solver():
    x, beta = draw(CIRCULAR)
    first = pn.solve(x, CIRCULAR, beta, pn.ADMM(), tol=0.05, trace=True)
    after = pn.solve(x, CIRCULAR, beta, pn.WorkingSet(), start=first.code, tol=1e-8)
    found = pn.solve(x, CIRCULAR, beta, ADMM_FIRST, tol=1e-8, trace=True)
    assert torch.equal(found.code, after.code) and found.steps == first.steps + after.steps
    assert len(found.gaps) == len(found.objectives) == found.steps + 1
    assert (found.gaps[first.steps].max() <= 0.05) and (found.gaps[first.steps - 1].max() > 0.05)


def test_a_gap_that_the_initial_solver_reaches_is_the_end():
    x, beta = draw(CIRCULAR)
    found = pn.solve(x, CIRCULAR, beta, ADMM_FIRST, tol=0.1)
    alone = pn.solve(x, CIRCULAR, beta, pn.ADMM(), tol=0.1)
    assert torch.equal(found.code, alone.code) and found.steps == alone.steps > 0 and found.converged
    later = pn.WorkingSet(initial_solver=pn.ADMM(), initial_tol=1e-4)
    assert pn.solve(x, CIRCULAR, beta, later, tol=1e-4).steps == pn.solve(x, CIRCULAR, beta, pn.ADMM(), tol=1e-4).steps


def test_the_steps_of_both_are_limited_together():
    x, beta = draw(CIRCULAR)
    for steps in (0, 3):
        with pytest.warns(pn.ConvergenceWarning) if steps else pytest.MonkeyPatch.context():
            found = pn.solve(x, CIRCULAR, beta, ADMM_FIRST, max_steps=steps, tol=1e-8)
        assert found.steps == steps and found.reason == "max_steps" and not found.converged


def test_its_gradient_is_the_implicit_one():
    x, beta = draw(CIRCULAR)
    gradients = []
    for solver in (ADMM_FIRST, pn.FISTA()):
        signal = x.clone().requires_grad_()
        code = pn.solve(signal, CIRCULAR, beta, solver, tol=1e-12, max_steps=20_000).code
        gradients.append(torch.autograd.grad(code.square().sum(), signal)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_codes_of_learn_begin_so_too():
    images, D = normal(2, 1, 8, 9), pn.CircularDictionary(unit(4, 1, 3, 3))
    results = [pn.learn(images, D, 0.3, max_iterations=0, gap=1e-8, solver=s) for s in (ADMM_FIRST, pn.WorkingSet())]
    (first,), (other,) = (result.history for result in results)
    assert first.gap <= 1e-8 and first.objective == pytest.approx(other.objective, rel=1e-8)


def test_what_cannot_run_first_is_refused():
    for solver in (pn.OMP(3), pn.WorkingSet(), pn.ReducedSolver(), "ADMM", pn.ADMM):
        with pytest.raises(TypeError, match=r"initial_solver is .*; expected ADMM\(\), FISTA\(\), ISTA\(\) or None"):
            pn.WorkingSet(initial_solver=solver)
    for tol in (0.0, 1.0, float("nan"), "0.1", True):
        with pytest.raises(ValueError, match=r"initial_tol is .*; expected a number between 0 and 1"):
            pn.WorkingSet(initial_tol=tol)
    x = normal(1, 1, 8, 9)
    with pytest.raises(ValueError, match="ADMM has no fast way"):
        pn.solve(x, pn.WithIdentity(PADDED), 0.1, ADMM_FIRST)
