"""``path``: scikit-learn's lasso_path as the peer, what warm starts save, bad input."""

import numpy as np
import pytest
import torch
from makers import normal, unit
from sklearn.linear_model import lasso_path

import pursuitnet as pn

MATRIX = pn.LinearDictionary(unit(20, 12)).requires_grad_(False)
CIRCULAR = pn.CircularDictionary(unit(4, 1, 3, 3)).requires_grad_(False)


@pytest.mark.parametrize(
    ("solver", "nonnegative"), [(pn.FISTA(), False), (pn.ADMM(), True), (pn.WorkingSet(), False), ("auto", True)]
)
def test_codes_and_betas_are_those_of_lasso_path(solver, nonnegative):
    x = normal(2, 12, seed=1)
    result = pn.path(x, MATRIX, eps=0.05, n_betas=4, solver=solver, nonnegative=nonnegative, tol=1e-11, max_steps=9000)
    assert result.betas.shape == (4, 2, 1) and result.codes.shape == (4, 2, 20) and len(result) == 4
    assert (result.gaps <= 1e-11).all() and (result.nonzeros[0] == 0).all() and (result.nonzeros[-1] > 3).all()
    matrix = MATRIX.matrix().numpy()
    for i, one in enumerate(x.numpy()):
        largest = (one @ matrix if nonnegative else np.abs(one @ matrix)).max()
        np.testing.assert_allclose(result.betas[:, i, 0], np.geomspace(largest, 0.05 * largest, 4), rtol=1e-10)
        alphas = result.betas[:, i, 0].numpy() / len(one)
        _, codes, _ = lasso_path(matrix, one, alphas=alphas, positive=nonnegative, tol=1e-14, max_iter=100_000)
        np.testing.assert_allclose(result.codes[:, i], codes.T, atol=1e-7)


def test_given_betas_are_solved_from_the_largest_on():
    x = normal(2, 1, 5, 5, seed=1)
    result = pn.path(x, CIRCULAR, [0.7, 2.0, 1.0], tol=1e-10, max_steps=9000)
    assert result.betas[:, 0].flatten().tolist() == [2.0, 1.0, 0.7]
    for solution, beta in zip(result, (2.0, 1.0, 0.7), strict=True):
        alone = pn.solve(x, CIRCULAR, beta, tol=1e-10, max_steps=9000)
        torch.testing.assert_close(solution.code, alone.code, rtol=0, atol=1e-6)
    each = torch.tensor([[0.5, 0.2], [1.0, 3.0]], dtype=x.dtype).view(2, 2, 1, 1, 1)
    assert pn.path(x, CIRCULAR, each).betas.flatten().tolist() == [1.0, 3.0, 0.5, 0.2]


def test_warm_starts_save_steps():
    x = normal(1, 1, 6, 6, seed=1)
    result = pn.path(x, CIRCULAR, eps=0.1, n_betas=5, tol=1e-5, max_steps=9000)
    cold = [pn.solve(x, CIRCULAR, beta, tol=1e-5, max_steps=9000).steps for beta in result.betas]
    assert sum(solution.steps for solution in result) < sum(cold)


def test_gradients_flow_as_in_solve():
    x = normal(1, 12, seed=1).requires_grad_()
    result = pn.path(x, MATRIX, [0.5, 0.2], tol=1e-10, max_steps=9000)
    assert all(torch.autograd.grad(s.code.sum(), x, retain_graph=True)[0].norm() > 0 for s in result)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"eps": 0}, ValueError, "eps is 0; expected a number between 0 and 1"),
        ({"eps": True}, ValueError, "eps is True"),
        ({"n_betas": 0}, ValueError, "n_betas is 0; expected an integer ≥ 1"),
        ({"betas": []}, ValueError, r"betas has shape \(0,\)"),
        ({"betas": [1.0, -1.0]}, ValueError, "expected finite numbers ≥ 0"),
        ({"betas": torch.ones(3, 2)}, ValueError, r"betas has shape \(3, 2\); expected"),
        ({"betas": "all"}, TypeError, "betas is 'all'"),
        ({"start": 0}, TypeError, "start was given; a path begins at zero"),
        ({"solver": pn.OMP(2)}, ValueError, "OMP takes no path"),
        ({"solver": pn.IHT(2)}, ValueError, "IHT takes no path"),
    ],
)
def test_bad_input_is_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        pn.path(normal(1, 12), MATRIX, **options)


def test_the_picture_shows_the_coefficients_against_falling_betas():
    x = normal(2, 12, seed=1)
    result = pn.path(x, MATRIX, [1.0, 0.3, 0.1, 0.0], max_steps=9000)
    axes = result.plot(example=1, most=5)
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 3]
    assert len(drawn) == 5 and axes.get_xscale() == "log" and axes.xaxis_inverted()
    largest = result.codes[:, 1].abs().amax(0).argmax()
    np.testing.assert_allclose(drawn[0].get_xdata(), [1.0, 0.3, 0.1])
    np.testing.assert_allclose(drawn[0].get_ydata(), result.codes[:3, 1, largest])
    (count,) = [other for other in axes.figure.axes if other is not axes]
    np.testing.assert_allclose(count.lines[0].get_ydata(), result.nonzeros[:3, 1])
    assert result.plot(axes) is axes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"example": 2}, "example is 2; expected an index from 0 to 1"),
        ({"example": True}, "example is True"),
        ({"most": 0}, "most is 0; expected an integer ≥ 1"),
    ],
)
def test_a_picture_of_what_is_not_there_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pn.path(normal(2, 12), MATRIX, n_betas=3).plot(**options)


def test_a_picture_of_one_beta_is_refused():
    with pytest.raises(ValueError, match="the path has 1 β > 0; expected two or more to draw"):
        pn.path(normal(1, 12), MATRIX, [1.0, 0.0]).plot()
