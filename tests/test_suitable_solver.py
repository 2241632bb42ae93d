"""``solver="auto"``: what it chooses, that the solution says so, and that the answer is that of the solver named."""

import pytest
import torch
from makers import normal, unit

import pursuitnet as pn
from pursuitnet.problems.lasso import lasso
from pursuitnet.problems.solve import suitable_solver

CIRCULAR = pn.CircularDictionary(unit(4, 1, 3, 3)).requires_grad_(False)
MANY = pn.CircularDictionary(unit(32, 1, 3, 3)).requires_grad_(False)
LARGE = pn.CircularDictionary(unit(32, 1, 15, 15)).requires_grad_(False)
PADDED = pn.ConvDictionary(unit(4, 1, 3, 3), padding=1).requires_grad_(False)
STRIDED = pn.ConvDictionary(unit(4, 1, 3, 3), stride=2).requires_grad_(False)


@pytest.mark.parametrize(
    ("D", "shape", "share", "chosen"),
    [
        (CIRCULAR, (1, 32, 33), 0.6, pn.WorkingSet()),
        (CIRCULAR, (1, 32, 33), 0.3, pn.ADMM()),  # as many correlations are above β as in the next but one
        (MANY, (1, 32, 33), 0.4, pn.WorkingSet()),
        (LARGE, (1, 32, 33), 0.3, pn.WorkingSet(initial_solver=pn.ADMM())),
        (CIRCULAR, (1, 32, 33), 0.01, pn.ADMM()),
        (CIRCULAR, (1, 9, 9), 0.6, pn.FISTA()),
        (PADDED, (1, 32, 33), 0.6, pn.WorkingSet()),
        (PADDED, (1, 32, 33), 0.1, pn.WorkingSet(initial_solver=pn.ADMM())),
        (STRIDED, (1, 64, 65), 0.1, pn.FISTA()),
        (pn.LinearDictionary(unit(20, 12)).requires_grad_(False), (12,), 0.3, pn.FISTA()),
        (pn.WithIdentity(CIRCULAR), (1, 9, 9), 0.3, pn.ReducedSolver()),
    ],
)
def test_it_chooses_by_kind_size_and_density_and_says_what(D, shape, share, chosen):
    x = normal(1, *shape)
    beta = share * pn.beta_max(x, D)
    solution = pn.solve(x, D, beta, "auto", tol=1e-2, max_steps=2000)
    assert solution.solver == chosen and solution.converged
    assert torch.equal(solution.code, pn.solve(x, D, beta, chosen, tol=1e-2, max_steps=2000).code)


def test_the_density_of_the_whole_batch_decides():
    x = normal(2, 1, 32, 32)
    beta = torch.tensor([0.6, 0.01], dtype=x.dtype).view(2, 1, 1, 1) * pn.beta_max(x, CIRCULAR)
    assert pn.solve(x, CIRCULAR, beta, "auto", tol=0.1).solver == pn.ADMM()
    assert pn.solve(x[:1], CIRCULAR, beta[:1], "auto", tol=0.1).solver == pn.WorkingSet()


@pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning")
def test_every_solution_says_what_has_solved_it():
    x = normal(1, 1, 8, 8)
    for solver in (pn.ISTA(), pn.FISTA(), pn.ADMM(rho=2.0), pn.WorkingSet(least=3.0), pn.OMP(2)):
        assert pn.solve(x, CIRCULAR, 0.5, solver, max_steps=3).solver == solver


def test_what_has_no_unrolled_gradients_is_not_chosen_for_them():
    x = normal(1, 1, 8, 8).requires_grad_()
    solution = pn.solve(x, CIRCULAR, 0.05, "auto", gradient="unrolled", max_steps=5, tol=0.0)
    assert solution.solver == pn.FISTA() and solution.code.requires_grad


def test_other_strings_are_refused_with_an_object():
    with pytest.raises(TypeError, match=r"solver is 'fista'; expected an object, as in solver=pn.FISTA\(\)"):
        pn.solve(normal(1, 1, 8, 8), CIRCULAR, 0.5, "fista")


def test_the_smaller_the_gap_the_denser_the_codes_that_end_in_a_working_set():
    x, D = normal(1, 1, 64, 64), pn.CircularDictionary(unit(32, 1, 8, 8)).requires_grad_(False)
    after_admm = pn.WorkingSet(initial_solver=pn.ADMM())
    for share, zone, expected in (
        (0.5, (0.0, 0.022), {0.1: pn.WorkingSet(), 1e-2: pn.WorkingSet(), 1e-3: pn.WorkingSet()}),
        (0.25, (0.0283, 0.04), {0.1: pn.ADMM(), 1e-2: after_admm, 1e-3: after_admm}),
        (0.17, (0.04, 0.0565), {0.1: pn.ADMM(), 1e-2: pn.ADMM(), 1e-3: after_admm}),
    ):
        beta = share * pn.beta_max(x, D)
        density = float((D.analyze(x).abs() > beta).double().mean()) * 8**0.3 / 32**0.8
        assert zone[0] < density < zone[1]
        chosen = {tol: suitable_solver(lasso(x, D, beta), tol=tol) for tol in expected}
        assert chosen == expected
        assert pn.solve(x, D, beta, tol=1e-2).solver == expected[1e-2]  # "auto" is the default


def test_without_a_step_the_code_is_the_one_given():
    x, D = normal(1, 1, 9, 9), pn.WithIdentity(CIRCULAR)
    code = normal(1, 5, 9, 9, seed=3)
    found = pn.solve(x, D, 0.3, start=code, max_steps=0)
    assert torch.equal(found.code, code) and found.gap > 0
