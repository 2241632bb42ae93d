"""ISTA and FISTA against literal loops, against scikit-learn, and beside a solver of one's own."""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from makers import normal
from sklearn.linear_model import Lasso

import pursuitnet as pn
from pursuitnet.iterations import State

BETA = 0.125


def lasso(features=12, atoms=20):
    """A dictionary with atoms of length one and two signals."""
    weight = normal(atoms, features)
    return weight / weight.norm(dim=1, keepdim=True), normal(2, features, seed=1)


def layer_of(weight, solver, unfolding, nonnegative=True):
    """A layer whose step is exactly 1/L and whose every penalty is BETA."""
    threshold = pn.Threshold((len(weight),), BETA, nonnegative=nonnegative)
    step = pn.BoundedStep(1.0, learned=False)
    dictionary = pn.LinearDictionary(weight.clone())
    layer = pn.PursuitLayer(dictionary, solver=solver, unfolding=unfolding, step=step, threshold=threshold)
    return layer.double().eval().requires_grad_(False)


def gradient_step(weight, x, at, c, anchor=None):
    """P_θ( anchor − c·Dᵀ(D·at − x) ), non-negative; the anchor is `at` where none is given."""
    anchor = at if anchor is None else anchor
    return (anchor - c * (at @ weight - x) @ weight.T - BETA * c).clamp(min=0)


def step_size(weight):
    return 1 / float(torch.linalg.eigvalsh(weight @ weight.T)[-1])


def objective(weight, x, code):
    return (x - code @ weight).square().sum(1) / 2 + BETA * code.abs().sum(1)


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize(
    ("solver", "shape", "unfolding"),
    [(pn.ISTA(), (20, 8), 1500), (pn.FISTA(), (20, 8), 600), (pn.FISTA(), (12, 20), 2500)],
    ids=["ISTA", "FISTA", "FISTA overcomplete"],
)
def test_many_steps_solve_the_lasso_as_scikit_learn_does(solver, shape, unfolding, nonnegative):
    weight, x = lasso(*shape)
    code = layer_of(weight, solver, unfolding, nonnegative)(x)
    peer = Lasso(BETA / shape[0], fit_intercept=False, positive=nonnegative, tol=1e-13, max_iter=200_000)
    expected = torch.stack([torch.as_tensor(peer.fit(weight.T.numpy(), one.numpy()).coef_) for one in x])
    torch.testing.assert_close(code, expected, rtol=0, atol=1e-7)
    assert (code.abs() > 1e-3).any(dim=1).all()
    assert nonnegative == bool((code >= 0).all())
    # optimality, which neither solver has a part in: Dᵀ(x − DΓ) = β·sign(Γ) where Γ ≠ 0, and within ±β elsewhere
    correlation = (x - code @ weight) @ weight.T
    excess = correlation.clamp(min=-BETA) if nonnegative else correlation
    assert (torch.where(code == 0, excess.abs() - BETA, (correlation - BETA * code.sign()).abs()) < 1e-8).all()


def test_fista_takes_its_gradient_at_the_extrapolated_point():
    """The mistake to exclude, a gradient at the code, shows only from the third step."""
    weight, x = lasso()
    c = step_size(weight)
    right = wrong = right_before = wrong_before = gradient_step(weight, x, torch.zeros(2, 20, dtype=torch.float64), c)
    t = 1.0
    for unfolding in range(6):
        code = layer_of(weight, pn.FISTA(), unfolding)(x)
        torch.testing.assert_close(code, right, rtol=1e-12, atol=1e-13)
        assert torch.allclose(code, wrong, rtol=1e-12, atol=1e-13) == (unfolding < 2)
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        probe = right + (t - 1) / t_next * (right - right_before)
        right, right_before = gradient_step(weight, x, probe, c), right
        probe = wrong + (t - 1) / t_next * (wrong - wrong_before)
        wrong, wrong_before = gradient_step(weight, x, wrong, c, anchor=probe), wrong
        t = t_next


def test_ista_is_its_literal_loop():
    weight, x = lasso()
    code = torch.zeros(2, 20, dtype=torch.float64)
    for unfolding in range(6):
        code = gradient_step(weight, x, code, step_size(weight))
        torch.testing.assert_close(layer_of(weight, pn.ISTA(), unfolding)(x), code, rtol=1e-12, atol=1e-13)


def test_fista_equals_ista_at_unfolding_0_and_1_and_departs_at_2():
    weight, x = lasso()
    for unfolding in range(4):
        ista, fista = (layer_of(weight, solver, unfolding)(x) for solver in (pn.ISTA(), pn.FISTA()))
        assert torch.equal(ista, fista) == (unfolding < 2)


def test_ista_never_raises_the_objective_and_fista_is_ahead_after_many_steps():
    weight, x = lasso()
    ista = [objective(weight, x, layer_of(weight, pn.ISTA(), n)(x)) for n in range(40)]
    assert all((after <= before).all() for before, after in itertools.pairwise(ista))
    assert (objective(weight, x, layer_of(weight, pn.FISTA(), 39)(x)) < ista[-1]).all()


@dataclass(frozen=True)
class ConstantMomentum:
    weight: float = 0.5

    def init(self, code):
        return State(code, code)

    def step(self, update, state):
        probe = tuple(a + self.weight * (a - b) for a, b in zip(state.code, state.previous, strict=True))
        return State(update(probe), state.code)


def test_a_solver_of_ones_own_works_in_a_layer():
    weight, x = lasso()
    update = partial(gradient_step, weight, x, c=step_size(weight))
    code = before = update(torch.zeros(2, 20, dtype=torch.float64))
    for _ in range(5):
        code, before = update(code + 0.5 * (code - before)), code
    torch.testing.assert_close(layer_of(weight, ConstantMomentum(), 5)(x), code, rtol=1e-12, atol=1e-13)
    assert not torch.allclose(code, layer_of(weight, pn.FISTA(), 5)(x), atol=1e-3)


def test_solvers_are_values_without_state():
    assert pn.ISTA() == pn.ISTA()
    assert pn.FISTA() == pn.FISTA()
    assert pn.ISTA() != pn.FISTA()
    weight, x = lasso()
    layer = layer_of(weight, pn.FISTA(), 4)
    assert torch.equal(layer(x), layer(x))
