"""When ``solve`` stops, and what it says then: tolerances by type, stalls, warnings, certificates that are known."""

import warnings

import pytest
import torch
from makers import normal

import pursuitnet as pn
from pursuitnet.iterations import State
from pursuitnet.problems.lasso import Lasso


def problem(dtype, share=0.4, size=7):
    """Two images, a convolution, and a β that leaves some of the code."""
    D = pn.ConvDictionary((normal(6, 1, 3, 3) / 3).to(dtype), padding=1).requires_grad_(False)
    x = normal(2, 1, size, size, seed=1).to(dtype)
    return x, D, share * pn.beta_max(x, D)


SOLVERS = {"FISTA": pn.FISTA(), "ISTA": pn.ISTA(), "WorkingSet": pn.WorkingSet()}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (torch.float64, 1e-6)])
def test_the_default_tolerance_is_one_that_the_type_can_prove(solver, dtype, tol):
    found = pn.solve(*problem(dtype), SOLVERS[solver], max_steps=5000)  # a warning is an error here
    assert found.converged and found.reason == "converged" and (found.gap <= tol).all()
    assert (found.gap > 1e-3 * tol).any()  # and is not asked for more


def test_the_multi_layer_problem_has_the_same_default():
    x, D, _ = problem(torch.float32, size=3)
    found = pn.multilayer_basis_pursuit(x, [D], [1.5])
    assert 0 < (found.code != 0).sum() < found.code.numel()
    assert found.converged and found.reason == "converged" and (found.gap <= 1e-4).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_gap_that_rounding_hides_is_said_to_be_out_of_reach(solver):
    x, D, beta = problem(torch.float32, share=0.6)
    most = 20_000
    with pytest.warns(pn.ConvergenceWarning, match=r"no further in float32: give a larger tol, or compute in float64"):
        found = pn.solve(x, D, beta, SOLVERS[solver], tol=1e-9, max_steps=most)
    assert found.reason == "stalled" and not found.converged and found.steps < most
    assert (found.gap < 1e-4).all()  # what can be had was had
    exact = pn.solve(x.double(), D.double(), beta.double(), tol=1e-9, max_steps=most)
    assert exact.converged
    torch.testing.assert_close(found.code.double(), exact.code, rtol=0, atol=1e-3)


def test_a_working_set_does_not_go_on_where_nothing_is_to_be_gained():
    """Each of its steps solves a problem of its own: a few suffice to see it."""
    x, D, beta = problem(torch.float32)
    with pytest.warns(pn.ConvergenceWarning):
        found = pn.solve(x, D, beta, pn.WorkingSet(), tol=1e-9, max_steps=40)
    assert found.reason == "stalled" and found.steps <= 20


@pytest.mark.parametrize("solver", [pn.ISTA(), pn.FISTA()])
def test_slow_progress_is_no_stall(solver):
    """An ill-conditioned problem: a thousand steps, each a little better, or uphill for hundreds by a momentum."""
    weight = normal(40, 60) * torch.logspace(0, -1.2, 60, dtype=torch.float64)
    x = normal(3, 60, seed=1) * torch.logspace(0, -1.2, 60, dtype=torch.float64)
    with pytest.warns(pn.ConvergenceWarning, match="after 1200 steps the duality gap is .*give more max_steps"):
        found = pn.solve(x, pn.LinearDictionary(weight), 1e-3, solver, max_steps=1200, tol=1e-10, restart=False)
    assert found.reason == "max_steps" and found.steps == 1200 and not found.converged


@pytest.mark.parametrize(("solver", "steps"), [(pn.FISTA(), 400), (pn.WorkingSet(), 20)])
def test_with_tol_0_as_many_steps_are_taken_as_were_asked_for(solver, steps):
    """Also where nothing is to be gained for long, and without a warning."""
    found = pn.solve(*problem(torch.float32, size=4), solver, max_steps=steps, tol=0)
    assert (found.steps, found.reason) == (steps, "max_steps") and (found.gap < 1e-5).all()


def test_the_warning_is_that_of_the_caller_and_of_those_who_asked_for_a_solution():
    x, D, beta = problem(torch.float64)
    with pytest.warns(pn.ConvergenceWarning) as caught:
        found = pn.solve(x, D, beta, max_steps=3)
    assert caught[0].filename == __file__ and issubclass(pn.ConvergenceWarning, UserWarning)
    assert found.reason == "max_steps" and "reason='max_steps'" in repr(found)
    with pytest.warns(pn.ConvergenceWarning) as caught:
        pn.multilayer_basis_pursuit(x, [D], [0.1], max_steps=1)
    assert caught[0].filename == __file__
    with pytest.warns(pn.ConvergenceWarning, match="OMP has not met its criterion"):
        pn.solve(x, D, solver=pn.OMP(residual=1e-9), max_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pn.solve(x, D, beta, max_steps=3, tol=0).steps == 3  # so many steps were asked for
        assert pn.solve(x, D, beta, max_steps=0).reason == "max_steps"  # a certificate was
        assert pn.solve(x, D, solver=pn.OMP(3)).reason == "converged"


def test_a_certificate_that_the_solver_has_at_hand_is_looked_at_in_every_step():
    x, D, beta = problem(torch.float64, share=0.1, size=5)
    gaps = pn.solve(x, D, beta, pn.WorkingSet(least=0.0), tol=1e-4, trace=True).gaps.amax(1)
    seen = set()
    for tol in (0.1, 1e-2, 1e-4):
        found = pn.solve(x, D, beta, pn.WorkingSet(least=0.0), tol=tol)
        assert found.steps == int((gaps <= tol).nonzero()[0])
        seen.add(found.steps)
    assert seen - {0, 1, 2, 4, 7, 11, 16, 22}  # the steps at which others are looked at


def test_the_multi_layer_method_looks_at_every_step():
    """Its step solves a least-squares problem, beside which a certificate costs little."""
    x, D, _ = problem(torch.float64, size=3)
    E = pn.ConvDictionary(normal(4, 6, 2, 2, seed=2) / 4)
    gaps = pn.multilayer_basis_pursuit(x, [D, E], [0.2, 0.1], tol=0.1, trace=True).gaps.amax(1)
    for tol in (0.3, 0.1):
        found = pn.multilayer_basis_pursuit(x, [D, E], [0.2, 0.1], tol=tol)
        assert found.steps == int((gaps <= tol).nonzero()[0])


def test_a_certificate_is_not_made_twice(monkeypatch):
    x, D, beta = problem(torch.float64)
    made = []
    plain = Lasso.certificate

    def counted(self, code, residual=None):
        made.append(self.signal.shape)
        return plain(self, code, residual)

    monkeypatch.setattr(Lasso, "certificate", counted)
    found = pn.solve(x, D, beta, pn.WorkingSet())
    assert made.count(x.shape) == found.steps + 1


class Keeping:
    """A solver of one's own that changes the code and keeps all else of its state."""

    def init(self, code):
        return State(code)

    def step(self, update, state):
        return state._replace(code=update(state.code))


def test_a_certificate_is_never_that_of_an_earlier_code():
    x, D, beta = problem(torch.float64, size=12)
    found = pn.solve(x, D, beta, Keeping(), tol=1e-8, max_steps=5000)
    again = pn.solve(x, D, beta, start=found.code, max_steps=0)
    assert found.steps > 0 and found.converged
    torch.testing.assert_close(found.gap, again.gap, rtol=1e-6, atol=1e-14)
