"""The elastic net: scikit-learn's as the peer, dense matrices with the ridge written into them, its certificate."""

import numpy as np
import pytest
import torch
from makers import dictionary_of, normal, uniform, unit
from scipy.optimize import minimize
from sklearn.linear_model import ElasticNet, enet_path

import pursuitnet as pn

# name: (kind in the list, shape of the filters, shape of one signal)
KINDS = {
    "matrix": ("wide matrix", (20, 12), (12,)),
    "circular": ("2-D circular", (4, 1, 3, 3), (1, 7, 6)),
    "padded": ("2-D same", (5, 2, 3, 3), (2, 6, 5)),
    "[I matrix]": ("[I matrix]", (14, 8), (8,)),
}
SOLVERS = {
    "FISTA": pn.FISTA(),
    "ADMM": pn.ADMM(),
    "WorkingSet": pn.WorkingSet(least=0.0),
    "auto": "auto",
}
OPTIONS = {"tol": 1e-13, "max_steps": 20_000}


def drawn(name, nonnegative=False, share=0.4):
    kind, filters, shape = KINDS[name]
    D, x = dictionary_of(kind, unit(*filters)).requires_grad_(False), normal(2, *shape, seed=1)
    return x, D, share * pn.beta_max(x, D, nonnegative)


@pytest.mark.parametrize(
    ("name", "solver", "ridge", "nonnegative"),
    [
        (name, solver, *((0.1, False), (1.5, True))[(i + j) % 2])
        for i, name in enumerate(KINDS)
        for j, solver in enumerate(SOLVERS)
    ],
)
def test_codes_are_scikit_learns(name, solver, ridge, nonnegative):
    x, D, beta = drawn(name, nonnegative)
    solution = pn.solve(x, D, beta, SOLVERS[solver], nonnegative, ridge=ridge, **OPTIONS)
    assert solution.converged
    matrix = D.matrix(x.shape).numpy()
    for one, weight, code, value in zip(x.flatten(1), beta.flatten(), solution.code, solution.objective, strict=True):
        alpha, share = (float(weight) + ridge) / len(one), float(weight) / (float(weight) + ridge)
        peer = ElasticNet(alpha, l1_ratio=share, fit_intercept=False, positive=nonnegative, tol=1e-14, max_iter=100_000)
        expected = torch.as_tensor(peer.fit(matrix, one.numpy()).coef_)
        torch.testing.assert_close(code.flatten(), expected, rtol=0, atol=1e-5)  # the gap is quadratic in it
        off = one - D.matrix(x.shape) @ expected
        objective = 0.5 * off @ off + weight * expected.abs().sum() + 0.5 * ridge * expected @ expected
        torch.testing.assert_close(value, objective, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("name", "ridge", "nonnegative"),
    [(name, ridge, bool((i + j) % 2)) for i, name in enumerate(KINDS) for j, ridge in enumerate((1e-6, 0.1, 10.0))],
)
def test_every_gap_on_the_way_is_an_upper_bound(name, ridge, nonnegative):
    x, D, beta = drawn(name, nonnegative, share=0.4)
    best = pn.solve(x, D, beta, nonnegative=nonnegative, ridge=ridge, tol=1e-13, max_steps=30_000).objective
    for solver in (pn.FISTA(), pn.WorkingSet(), pn.ADMM()):
        run = pn.solve(x, D, beta, solver, nonnegative, ridge=ridge, tol=0.0, max_steps=10, trace=True)
        assert (run.objectives >= best * (1 - 1e-12)).all()
        assert (run.objectives * (1 - run.gaps) <= best * (1 + 1e-12)).all()
        assert (run.gaps[-1] < 0.5).all()


@pytest.mark.parametrize("solver", ["FISTA", "ADMM", "WorkingSet"])
def test_a_weight_for_each_entry_is_the_weighted_norm(solver):
    """By L-BFGS on the two signs of the code apart."""
    x, D, beta = drawn("matrix")
    weights = beta * uniform(0.5, 2, 2, 20, seed=3)
    weights[0, :3] = 0  # entries without a penalty
    solution = pn.solve(x, D, weights, SOLVERS[solver], ridge=0.3, **OPTIONS)
    matrix = D.matrix().numpy()
    for one, weight, code in zip(x.numpy(), weights.numpy(), solution.code.numpy(), strict=True):

        def value(signs, one=one, weight=weight):
            g = signs[:20] - signs[20:]
            off = matrix @ g - one
            slope = matrix.T @ off + 0.3 * g
            objective = 0.5 * off @ off + weight @ (signs[:20] + signs[20:]) + 0.15 * g @ g
            return objective, np.r_[slope + weight, weight - slope]

        peer = minimize(value, np.zeros(40), jac=True, bounds=[(0, None)] * 40, options={"ftol": 1e-15, "gtol": 1e-10})
        np.testing.assert_allclose(code, peer.x[:20] - peer.x[20:], atol=1e-5)


@pytest.mark.parametrize("solver", ["FISTA", "ADMM", "WorkingSet"])
def test_without_a_penalty_it_is_ridge_regression_with_a_gap_that_means_something(solver):
    x, D, _ = drawn("circular")
    solution = pn.solve(x, D, 0.0, SOLVERS[solver], ridge=0.5, **OPTIONS)
    matrix = D.matrix(x.shape)
    dense = matrix.T @ matrix + 0.5 * torch.eye(matrix.shape[1], dtype=x.dtype)
    expected = torch.linalg.solve(dense, matrix.T @ x.flatten(1).T).T
    assert solution.converged
    torch.testing.assert_close(solution.code.flatten(1), expected, rtol=0, atol=1e-5)


def test_a_path_with_a_ridge_is_scikit_learns():
    x, D, _ = drawn("matrix")
    one = x[:1]
    alphas = float(pn.beta_max(one, D)) / 12 / 0.5 * 0.1 ** np.linspace(0, 1, 5)
    _, codes, _ = enet_path(D.matrix().numpy(), one[0].numpy(), l1_ratio=0.5, alphas=alphas, tol=1e-12, max_iter=9999)
    for alpha, code in zip(alphas, codes.T, strict=True):
        weight = float(alpha) * 0.5 * 12
        solution = pn.path(one, D, [weight], ridge=weight, **OPTIONS).solutions[0]
        np.testing.assert_allclose(solution.code[0], code, atol=1e-5)


@pytest.mark.parametrize("solver", ["FISTA", "ADMM", "WorkingSet"])
def test_implicit_gradients_are_those_through_every_step(solver):
    gradients = []
    for chosen, mode in ((pn.FISTA(), "unrolled"), (SOLVERS[solver], "implicit")):
        x, D, beta = drawn("circular")
        inputs = [x.requires_grad_(), D.requires_grad_().weight, beta.detach().requires_grad_()]
        code = pn.solve(x, D, inputs[2], chosen, ridge=0.2, gradient=mode, **OPTIONS).code
        gradients.append(torch.autograd.grad((code * normal(*code.shape, seed=7)).sum(), inputs))
    for unrolled, implicit in zip(*gradients, strict=True):
        assert unrolled.norm() > 1e-3 and (implicit - unrolled).norm() <= 1e-4 * unrolled.norm()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ridge": -1}, "ridge is -1; expected a finite number ≥ 0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"ridge": True}, "ridge is True"),
        ({"ridge": "l2"}, "ridge is 'l2'"),
        ({"ridge": 0.1, "solver": pn.OMP(2)}, "ridge is 0.1, which OMP does not take"),
        ({"ridge": 0.1, "solver": pn.ReducedSolver()}, "ridge is 0.1, which ReducedSolver does not take"),
    ],
)
def test_bad_input_is_refused(options, words):
    x, D, beta = drawn("[I matrix]")
    with pytest.raises(ValueError, match=words):
        pn.solve(x, D, beta, **options)
    assert pn.solve(x, D, beta, "auto", ridge=0.1).solver == pn.FISTA()
