"""``solve`` on (P0) by IHT: the literal iteration, every support tried, planted codes, fixed points."""

import itertools

import numpy as np
import pytest
import torch
from makers import DICTIONARIES, generator, normal, unit

import pursuitnet as pn

MATRIX = pn.LinearDictionary(unit(8, 6)).requires_grad_(False)
KINDS = ["wide matrix", "1-D / 2, dilated", "2-D circular", "[I 2-D]", "composed 1-D"]


def draw(name, batch=3):
    spec, shapes = DICTIONARIES[name]
    D = spec.make().requires_grad_(False)
    return normal(batch, *shapes[min(1, len(shapes) - 1)], seed=1), D


def literally(matrix, signal, steps, c, keep):
    """The iteration as it is defined, on the explicit matrix."""
    code = np.zeros(matrix.shape[1])
    for _ in range(steps):
        code = keep(code + c * matrix.T @ (signal - matrix @ code))
    return code


def by_all_supports(matrix, signal, beta, most):
    """The minimum of ½‖x − DΓ‖² + β‖Γ‖₀ over all supports of at most so many atoms."""
    best = 0.5 * signal @ signal
    for n in range(1, most + 1):
        for chosen in map(list, itertools.combinations(range(matrix.shape[1]), n)):
            rest = signal - matrix[:, chosen] @ np.linalg.lstsq(matrix[:, chosen], signal)[0]
            best = min(best, 0.5 * rest @ rest + beta * n)
    return best


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("nonzeros", [None, 4])
def test_steps_are_those_of_the_definition(name, nonzeros):
    x, D = draw(name)
    beta, c = 0.2, 1 / float(D.lipschitz_bound())
    solution = pn.solve(x, D, beta, pn.IHT(nonzeros, debias=False), max_steps=7, tol=0)

    def keep(z):
        if nonzeros is None:
            return np.where(z**2 > 2 * beta * c, z, 0)
        return np.where(np.abs(z) >= np.sort(np.abs(z))[-nonzeros], z, 0)

    for signal, code in zip(x.flatten(1).numpy(), solution.code.flatten(1).numpy(), strict=True):
        expected = literally(D.matrix(x.shape).numpy(), signal, 7, c, keep)
        np.testing.assert_allclose(code, expected, atol=1e-12)


def test_beta_may_be_one_for_each_channel_or_example():
    x, D = draw("2-D circular")
    same = pn.solve(x, D, 0.2, pn.IHT()).code
    assert torch.equal(pn.solve(x, D, torch.full((sum(D.code_channels),), 0.2), pn.IHT()).code, same)
    assert torch.equal(pn.solve(x, D, torch.full((len(x), 1, 1, 1), 0.2), pn.IHT()).code, same)


@pytest.mark.parametrize(
    ("name", "debias", "nonnegative"),
    [
        *(("wide matrix", False, nonnegative) for nonnegative in (True, False)),
        *((name, True, bool(i % 2)) for i, name in enumerate(KINDS)),
    ],
)
def test_the_objective_never_rises_and_it_ends_at_a_fixed_point(name, nonnegative, debias):
    x, D = draw(name)
    start = pn.solve(x, D, 0.3 * pn.beta_max(x, D), nonnegative=nonnegative, max_steps=50, tol=0).code
    options = {"nonnegative": nonnegative, "max_steps": 5000, "tol": 1e-6 if debias else 1e-9}
    solution = pn.solve(x, D, 0.1, pn.IHT(debias=debias), start=start, trace=True, **options)
    assert solution.converged and solution.gap.isnan().all() and solution.gaps is None
    assert (solution.objectives[1:] <= solution.objectives[:-1] * (1 + 1e-12)).all()
    assert (solution.code != 0).any() and not (nonnegative and (solution.code < 0).any())
    again = pn.solve(x, D, 0.1, pn.IHT(debias=False), start=solution.code, nonnegative=nonnegative, max_steps=1, tol=0)
    torch.testing.assert_close(again.code, solution.code, rtol=1e-6, atol=1e-7)
    rest = x - D.synthesize(solution.code, x.shape)
    counted = 0.5 * rest.flatten(1).square().sum(1) + 0.1 * (solution.code != 0).flatten(1).sum(1)
    torch.testing.assert_close(solution.objective, counted)
    correlation = D.analyze(rest)[solution.code != 0]
    assert correlation.abs().max() < 1e-5  # least squares on the support


def test_planted_codes_are_recovered_at_low_density():
    D = pn.LinearDictionary(unit(60, 40, seed=3)).requires_grad_(False)
    support = torch.rand(20, 60, generator=generator(4), dtype=torch.float64).topk(2, dim=1).indices
    code = torch.zeros(20, 60, dtype=torch.float64).scatter(1, support, 1 + normal(20, 2, seed=5).abs())
    x = D.synthesize(code)
    solution = pn.solve(x, D, solver=pn.IHT(2), max_steps=5000)
    recovered = ((solution.code - code).norm(dim=1) < 1e-6 * code.norm(dim=1)).double().mean()
    assert recovered >= 0.9
    assert ((solution.code != 0).sum(1) == 2).all()


def test_it_is_never_below_the_best_of_all_supports_and_mostly_equal_to_it():
    """(P0) is not convex: for some signals the fixed point is not the minimum, which is why there is no certificate."""
    x = MATRIX.synthesize(normal(12, 8, seed=2) * (torch.rand(12, 8, generator=generator(3)) < 0.25))
    x = x + 0.02 * normal(12, 6, seed=4)
    matrix, start = MATRIX.matrix().numpy(), pn.solve(x, MATRIX, 0.05, tol=1e-9).code
    solution = pn.solve(x, MATRIX, 0.05, pn.IHT(), start=start, max_steps=20_000)
    best = torch.tensor([by_all_supports(matrix, signal, 0.05, 6) for signal in x.numpy()])
    assert (solution.objective >= best - 1e-9).all()
    assert (solution.objective <= best + 1e-6).double().mean() >= 0.5


def test_gradients_are_those_of_the_least_squares_on_the_support():
    x = normal(2, 6, seed=1).requires_grad_()
    solution = pn.solve(x, MATRIX, 0.05, pn.IHT(), max_steps=20_000, tol=1e-12)
    assert (solution.code != 0).any()
    (gradient,) = torch.autograd.grad(solution.code.square().sum(), x)
    for row, code, one in zip(gradient, solution.code.detach(), x.detach(), strict=True):
        chosen = MATRIX.matrix()[:, code != 0]
        pseudo = torch.linalg.pinv(chosen)
        torch.testing.assert_close(row, 2 * pseudo.T @ (pseudo @ one), rtol=1e-5, atol=1e-8)


def test_too_few_steps_are_warned_of():
    with pytest.warns(pn.ConvergenceWarning, match="after 2 steps IHT has not met its criterion; give more max_steps"):
        solution = pn.solve(normal(2, 6, seed=1), MATRIX, 0.05, pn.IHT(), max_steps=2)
    assert not solution.converged and solution.reason == "max_steps"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: pn.IHT(0), "nonzeros is 0; expected an integer ≥ 1"),
        (lambda x: pn.IHT(debias=1), "debias is 1"),
        (lambda x: pn.solve(x, MATRIX, solver=pn.IHT()), "IHT has neither nonzeros nor a beta > 0"),
        (lambda x: pn.solve(x, MATRIX, 0.0, pn.IHT()), "IHT has neither nonzeros nor a beta > 0"),
        (lambda x: pn.solve(x, MATRIX, 0.1, pn.IHT(), ridge=1.0), "ridge is 1.0, which IHT does not take"),
        (lambda x: pn.solve(x, MATRIX, 0.1, pn.IHT(), gradient="unrolled"), "which IHT does not offer"),
        (lambda x: pn.learn(x, MATRIX, 0.1, solver=pn.IHT(2)), "solver is IHT, whose codes have no certificate"),
        (lambda x: pn.multilayer_basis_pursuit(x, [MATRIX], [0.1], pn.IHT(2)), "IHT"),
        (lambda x: pn.ReducedSolver(pn.IHT(2)), "need only the update"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(normal(2, 6, seed=1))
    assert "\n" not in str(error.value)
