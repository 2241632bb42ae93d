"""``solve`` on (P1): optimality, scikit-learn and sporco as peers, certificates, gradients, bad input.

The routes to compare with are the explicit matrix, coordinate descent (scikit-learn's and one of our own) and finite
differences, in float64.
"""

import re
from functools import lru_cache

import numpy as np
import pytest
import torch
from makers import by_coordinate_descent, dictionary_of, normal, uniform, unit
from torch import nn

import pursuitnet as pn
from pursuitnet.iterations import State

# the sizes of the supports are kept in a --junitxml report of any family
pytestmark = [
    pytest.mark.filterwarnings("ignore:record_property is incompatible"),
    pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning"),  # many are stopped early on purpose
]


# name: (kind in the list, shape of the filters, shape of one signal)
DICTIONARIES = {
    "matrix": ("wide matrix", (20, 12), (12,)),
    "1-D, stride 2, padded, dilated": ("1-D / 2, dilated", (3, 2, 3), (2, 11)),
    "2-D, stride 2, padded": ("2-D / 2, padded", (5, 2, 3, 3), (2, 8, 7)),
    "2-D, dilated": ("2-D dilated", (2, 1, 3, 3), (1, 5, 6)),
    "3-D, one size per axis": ("3-D one size per axis", (3, 1, 2, 3, 2), (1, 4, 5, 6)),
    "2-D circular": ("2-D circular", (2, 1, 3, 3), (1, 5, 6)),
    "[I matrix]": ("[I matrix]", (14, 8), (8,)),
    "[I 2-D]": ("[I 2-D]", (3, 2, 3, 3), (2, 5, 6)),
    "[I 1-D circular]": ("[I 1-D circular]", (2, 2, 3), (2, 10)),
}
SMALL = {
    "small matrix": ("wide matrix", (6, 4), (4,)),
    "small 1-D": ("1-D / 2, even", (3, 1, 3), (1, 7)),
    "small 2-D circular": ("2-D circular", (2, 1, 2, 2), (1, 3, 3)),
    "small [I matrix]": ("[I matrix]", (5, 4), (4,)),
    "small [I 1-D]": ("[I 1-D]", (2, 1, 3), (1, 6)),
}
SOLVERS = {
    "ISTA": {"solver": pn.ISTA()},
    "FISTA": {"solver": pn.FISTA()},
    "FISTA without restart": {"solver": pn.FISTA(), "restart": False},
    "WorkingSet": {"solver": pn.WorkingSet(least=0.0)},  # small ones, so that there are several
    "ReducedSolver(ISTA)": {"solver": pn.ReducedSolver(pn.ISTA())},
    "ReducedSolver(FISTA)": {"solver": pn.ReducedSolver(pn.FISTA())},
}
every_dictionary = pytest.mark.parametrize("name", DICTIONARIES)
either_sign = pytest.mark.parametrize("nonnegative", [False, True], ids=["soft", "non-negative"])
# For what a run does whatever it solves: each dictionary, and each solver with a plain one and with an [I D], if it
# takes both; these solvers have both signs.
PAIRS = [
    (d, list(SOLVERS)[(2 * i + k) % 6 if d.startswith("[I") else i % 4])
    for i, d in enumerate(DICTIONARIES)
    for k in range(1 + d.startswith("[I"))
]
every_pair = pytest.mark.parametrize(("name", "solver"), PAIRS)
every_signed_pair = pytest.mark.parametrize(
    ("name", "solver", "nonnegative"), [(*pair, bool((i + i // 6) % 2)) for i, pair in enumerate(PAIRS)]
)
BETAS = ("scalar", "per row", "per entry", "per example")
# Each solver, dictionary and form of β with both signs, each dictionary with every form. Of ISTA and FISTA without
# restart, which take many steps and need only the update, each dictionary has one.
QUADRUPLES = [
    (d, s, BETAS[(i + j) % len(BETAS)], bool((i + j // 2) % 2))
    for i, d in enumerate(DICTIONARIES)
    for j, s in enumerate((("ISTA", "FISTA without restart")[i // 2 % 2], "FISTA", "FISTA", *list(SOLVERS)[3:]))
    if d.startswith("[I") or not s.startswith("ReducedSolver")
]


def made(name, seed=0):
    kind, filters, shape = (DICTIONARIES | SMALL)[name]
    return dictionary_of(kind, unit(*filters, seed=seed)).requires_grad_(False), shape


def draw(name, nonnegative=False, beta="scalar", batch=2, level=0.55):
    """Signals, a dictionary and a β that is a fraction of the least for which the code is zero."""
    D, shape = made(name)
    x = normal(batch, *shape, seed=1)
    correlation = D.analyze(x)
    top = (correlation if nonnegative else correlation.abs()).flatten(1).amax(1)
    ones = [1] * (x.dim() - 1)
    value = {
        "scalar": float(level * top.min()),
        "per row": level * top.min() * uniform(0.7, 1.2, sum(D.code_channels), seed=2),
        "per entry": level * top.min() * uniform(0.7, 1.2, *correlation.shape, seed=3),
        "per example": level * top.view(-1, *ones),
    }[beta]
    return x, D, value


def spelled(beta, code):
    """β of every entry of a code, (B, numel)."""
    beta = torch.as_tensor(beta, dtype=code.dtype)
    beta = beta.view(-1, *[1] * (code.dim() - 2)) if beta.dim() == 1 else beta
    return (torch.zeros_like(code) + beta).flatten(1)


def value_of(matrix, x, beta, code):
    """½‖x − DΓ‖² + Σβ|Γ| by the explicit matrix."""
    flat = code.flatten(1)
    rest = x.flatten(1) - flat @ matrix.T
    return 0.5 * rest.square().sum(1) + (spelled(beta, code) * flat.abs()).sum(1)


def assert_optimal(matrix, x, beta, code, nonnegative, atol=1e-9):
    """Dᵀ(x − DΓ) = β·sign(Γ) on the support, within ±β elsewhere; for Γ ≥ 0, at most β."""
    flat, weights = code.flatten(1), spelled(beta, code)
    correlation = (x.flatten(1) - flat @ matrix.T) @ matrix
    on = flat != 0
    assert ((correlation - weights * flat.sign())[on].abs() <= atol).all()
    size = correlation if nonnegative else correlation.abs()
    assert ((size - weights)[~on] <= atol).all()
    if nonnegative:
        assert (flat >= 0).all()


def assert_proper_support(code, record=None):
    """Neither empty nor full in any example."""
    count = (code != 0).flatten(1).sum(1)
    assert (count > 0).all() and (count < code[0].numel()).all()
    if record:
        record("support", int(count.sum()))


@lru_cache
def expected(name, nonnegative, beta):
    x, D, value = draw(name, nonnegative, beta)
    code = D.analyze(x)
    flat = by_coordinate_descent(D.matrix(x.shape), x, spelled(value, code), nonnegative)
    return flat.view_as(code)


# ---------------------------------------------------------------------------------------------------------------------
# The optimum


@pytest.mark.parametrize(("name", "solver", "beta", "nonnegative"), QUADRUPLES)
def test_code_meets_the_optimality_conditions_and_is_scikit_learns(name, solver, nonnegative, beta, record_property):
    x, D, value = draw(name, nonnegative, beta)
    found = pn.solve(x, D, value, nonnegative=nonnegative, max_steps=20_000, tol=1e-12, **SOLVERS[solver])
    matrix, peer = D.matrix(x.shape), expected(name, nonnegative, beta)
    record_property("steps", found.steps)
    assert_proper_support(found.code, record_property)
    assert found.converged and (found.gap <= 1e-12).all()
    assert_optimal(matrix, x, value, found.code, nonnegative)
    torch.testing.assert_close(found.code, peer, rtol=0, atol=1e-8)
    assert torch.equal(found.code != 0, peer.abs() > 1e-8)
    torch.testing.assert_close(found.objective, value_of(matrix, x, value, found.code), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "solver", "nonnegative"),
    # what one example does in FISTA, WorkingSet and ReducedSolver(FISTA) may depend on another
    [(d, ("FISTA", "WorkingSet")[i % 2], bool(i // 2 % 2)) for i, d in enumerate(DICTIONARIES)]
    + [("[I matrix]", "ReducedSolver(FISTA)", True), ("[I 2-D]", "ReducedSolver(FISTA)", False)]
    + [("3-D, one size per axis", "ISTA", True), ("matrix", "FISTA without restart", True)],
)
def test_a_batch_is_its_examples_one_at_a_time(name, solver, nonnegative):
    x, D, value = draw(name, nonnegative, "per example", level=0.45)
    options = {"nonnegative": nonnegative, "max_steps": 20_000, "tol": 1e-12, **SOLVERS[solver]}
    together = pn.solve(x, D, value, **options)
    assert_proper_support(together.code)
    assert together.objective.shape == together.gap.shape == (2,)
    for i in range(2):
        alone = pn.solve(x[i : i + 1], D, value[i : i + 1], **options)
        torch.testing.assert_close(alone.code, together.code[i : i + 1], rtol=0, atol=1e-8)
        torch.testing.assert_close(alone.objective, together.objective[i : i + 1], rtol=1e-9, atol=0)


@either_sign
def test_examples_of_very_different_size_are_all_solved(nonnegative):
    x, D, value = draw("2-D, stride 2, padded", nonnegative, batch=3, level=0.7)
    sizes = torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64).view(-1, 1, 1, 1)
    expected = pn.solve(x, D, value, nonnegative=nonnegative, tol=1e-12, max_steps=9000).code * sizes
    for options in SOLVERS.values():
        if not isinstance(options["solver"], pn.ReducedSolver):
            found = pn.solve(x * sizes, D, value * sizes, nonnegative=nonnegative, tol=1e-11, max_steps=9000, **options)
            assert found.converged
            assert_proper_support(found.code)
            torch.testing.assert_close(found.code / sizes, expected / sizes, rtol=0, atol=1e-8)


def test_circular_pursuit_is_sporcos():
    """Its (DΓ)[p] = Σ_t w[t]·Γ[p − t], indices modulo the size, is ours; (H, W, 1, 1, atoms) its layout."""
    cbpdn = pytest.importorskip("sporco.admm.cbpdn")

    weight, x = unit(3, 1, 3, 3), normal(1, 1, 6, 6, seed=1)
    options = {
        "Verbose": False,
        "DataType": np.float64,
        "MaxMainIter": 2000,
        "RelStopTol": 1e-10,
        "AutoRho": {"Enabled": True, "Period": 10, "AutoScaling": True},
    }
    peer = cbpdn.ConvBPDN(
        weight[:, 0].permute(1, 2, 0).numpy(), x[0, 0].numpy(), 0.9, cbpdn.ConvBPDN.Options(options)
    ).solve()
    found = pn.solve(x, pn.CircularDictionary(weight), 0.9, tol=1e-12, max_steps=20_000)
    assert_proper_support(found.code)
    code = torch.as_tensor(peer).squeeze().permute(2, 0, 1)[None]
    torch.testing.assert_close(found.code.detach(), code, rtol=0, atol=1e-8)


def test_example_of_section_V_B_has_the_code_zero():
    D = pn.LinearDictionary(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.2, 0.1]], dtype=torch.float64))
    x = torch.ones(1, 2, dtype=torch.float64)
    assert D.analyze(x).tolist() == [pytest.approx([0.2, 0.3, 0.3])]
    for solver in (pn.ISTA(), pn.FISTA(), pn.WorkingSet()):
        found = pn.solve(x, D, 1 / 3, solver)
        assert found.steps == 0 and found.converged and (found.code == 0).all()
        assert found.objective.tolist() == [1.0] and found.gap.tolist() == [0.0]
    assert (pn.solve(x, D, 0.29).code != 0).any()


@every_signed_pair
def test_beta_above_every_correlation_gives_zero_in_no_step(name, solver, nonnegative):
    x, D, value = draw(name, nonnegative, "per example", level=1.0)
    found = pn.solve(x, D, value, nonnegative=nonnegative, tol=0.0, **SOLVERS[solver])
    assert found.steps == 0 and found.converged and (found.code == 0).all()
    torch.testing.assert_close(found.objective, 0.5 * x.flatten(1).square().sum(1), rtol=1e-14, atol=0)
    below = pn.solve(x, D, 0.99 * value, nonnegative=nonnegative, tol=1e-6, max_steps=9000, **SOLVERS[solver])
    assert (below.code != 0).flatten(1).any(1).all()
    if "ReducedSolver" not in solver:  # which finds the identity part without one
        assert below.steps > 0


@every_dictionary
def test_signal_of_zeros_has_the_code_zero_and_the_gap_zero(name):
    x, D, value = draw(name)
    x[0] = 0
    found = pn.solve(x, D, value, max_steps=9000)
    assert (found.code[0] == 0).all() and found.objective[0] == 0 and found.gap[0] == 0
    assert found.converged and (found.code[1] != 0).any()
    assert not pn.solve(x, D, value, max_steps=1, tol=1e-9).converged  # the other one has not
    nothing = pn.solve(torch.zeros_like(x), D, 0.0)
    assert nothing.steps == 0 and nothing.converged and nothing.gap.tolist() == [0, 0]


@pytest.mark.parametrize("solver", ["ISTA", "FISTA", "WorkingSet"])
def test_an_atom_of_zeros_gets_the_code_zero(solver):
    weight = unit(10, 8)
    weight[3] = 0
    x, D = normal(2, 8, seed=1), pn.LinearDictionary(weight)
    others = torch.arange(10) != 3
    without = pn.solve(x, pn.LinearDictionary(weight[others]), 0.6, tol=1e-12, max_steps=9000)
    for beta in (0.6, 0.6 * others.double()):  # also where nothing else would keep it at 0
        found = pn.solve(x, D, beta, tol=1e-12, max_steps=9000, **SOLVERS[solver])
        assert (found.code[:, 3] == 0).all() and found.converged
        torch.testing.assert_close(found.code[:, others], without.code, rtol=0, atol=1e-8)
    nothing = pn.solve(x, pn.LinearDictionary(0 * weight), 0.6, tol=0.0, **SOLVERS[solver])
    assert nothing.converged and (nothing.code == 0).all()


# ---------------------------------------------------------------------------------------------------------------------
# The certificate


def descent(matrices, x, beta, nonnegative, sweeps=3000):
    """Coordinate descent on many small problems at once, which takes β = 0 too: the codes (N, atoms)."""
    code = torch.zeros_like(beta)
    lengths = matrices.square().sum(1)
    rest = x.clone()
    for _ in range(sweeps):
        before = code.clone()
        for j in range(beta.shape[1]):
            d, old = matrices[:, :, j], code[:, j].clone()
            z = (d * rest).sum(1) + lengths[:, j] * old
            new = z - beta[:, j] if nonnegative else z.sign() * (z.abs() - beta[:, j]).clamp(min=0)
            code[:, j] = (new.clamp(min=0) if nonnegative else new) / lengths[:, j]
            rest -= d * (code[:, j] - old)[:, None]
        if (code - before).abs().max() < 1e-14:
            break
    return code


@either_sign
def test_gap_is_an_upper_bound_for_any_code_of_any_problem(nonnegative):
    problems, features, atoms, guesses = 18, 4, 5, 5
    matrices, x = normal(problems, features, atoms), normal(problems, features, seed=1)
    beta = uniform(0.02, 1, problems, atoms, seed=2)
    beta[::3, :2] = 0  # two rows without a penalty in every third problem
    best = descent(matrices, x, beta, nonnegative)
    optimum = value_at(matrices, x, beta, best)
    trivial = 0
    for i in range(problems):
        D = pn.LinearDictionary(matrices[i].T.contiguous())
        noise = normal(guesses, atoms, seed=i) * torch.tensor([[1e-6], [1e-2], [0.3], [1], [10]], dtype=torch.float64)
        guess = best[i] + noise * (normal(guesses, atoms, seed=i + 1000) > 0)
        guess = guess.clamp(min=0) if nonnegative else guess
        found = pn.solve(
            x[i].expand(guesses, -1), D, beta[i], nonnegative=nonnegative, max_steps=0, tol=0.0, start=guess
        )
        assert torch.equal(found.code, guess) and found.steps == 0
        assert ((found.gap >= 0) & (found.gap <= 1)).all()
        proven = found.objective * (1 - found.gap)
        assert (proven <= optimum[i] * (1 + 1e-12)).all()
        trivial += int((found.gap > 0.999).sum())
    assert trivial < 0.5 * problems * guesses


def value_at(matrices, x, beta, code):
    rest = x - (matrices @ code[:, :, None]).squeeze(2)
    return 0.5 * rest.square().sum(1) + (beta * code.abs()).sum(1)


@every_signed_pair
def test_gap_that_stops_the_run_is_honest_and_is_met_with_more_steps_the_smaller_it_is(name, solver, nonnegative):
    x, D, value = draw(name, nonnegative)
    matrix = D.matrix(x.shape)
    optimum = value_of(matrix, x, value, expected(name, nonnegative, "scalar"))
    steps = []
    for tol in (0.1, 1e-2, 1e-4):
        found = pn.solve(x, D, value, nonnegative=nonnegative, max_steps=9000, tol=tol, **SOLVERS[solver])
        assert found.converged and (found.gap <= tol).all()
        exact = value_of(matrix, x, value, found.code)
        assert (exact - optimum <= found.gap * exact + 1e-13).all() and (exact >= optimum - 1e-13).all()
        steps.append(found.steps)
    assert steps == sorted(steps) and steps[0] < steps[-1]


@every_pair
def test_too_few_steps_are_said_to_be_too_few_and_the_gap_still_holds(name, solver):
    x, D, value = draw(name)
    optimum = value_of(D.matrix(x.shape), x, value, expected(name, False, "scalar"))
    for max_steps in (0, 1):
        found = pn.solve(x, D, value, max_steps=max_steps, tol=1e-12, **SOLVERS[solver])
        assert found.steps == max_steps and not found.converged
        assert (found.gap > 1e-12).any()
        assert (found.objective - optimum <= found.gap * found.objective + 1e-13).all()


def least_squares(matrix, x, nonnegative):
    """The minimum of ½‖x − DΓ‖² over the given columns, (B,), by NumPy and SciPy."""
    from scipy.optimize import nnls

    flat = x.flatten(1).numpy()
    if nonnegative:
        return torch.tensor([0.5 * nnls(matrix.numpy(), one)[1] ** 2 for one in flat], dtype=torch.float64)
    fit = np.linalg.lstsq(matrix.numpy(), flat.T)[0]
    return torch.as_tensor(0.5 * ((flat.T - matrix.numpy() @ fit) ** 2).sum(0))


@pytest.mark.parametrize(
    ("atoms", "dtype", "nonnegative", "solver"),
    [
        *((5, torch.float64, False, solver) for solver in ("ISTA", "WorkingSet")),
        *((5, torch.float32, True, solver) for solver in ("FISTA", "WorkingSet")),
        *((5, torch.float32, False, solver) for solver in ("ISTA", "FISTA", "WorkingSet")),
        (12, torch.float64, True, "FISTA"),
    ],
)
def test_a_penalty_of_zero_everywhere_is_least_squares_with_a_gap_that_holds(solver, atoms, dtype, nonnegative):
    x, D = normal(2, 8, seed=1), pn.LinearDictionary(unit(atoms, 8).to(dtype)).requires_grad_(False)
    x = x.to(dtype)
    minimum = least_squares(D.matrix(x.shape).double(), x.double(), nonnegative)
    assert (minimum > (0.05 if atoms == 12 else 0.1)).all()
    tol, rounding = 1e-6 if dtype == torch.float64 else 1e-4, 4 * torch.finfo(dtype).eps
    for steps in (0, 2, 5, 20_000):
        found = pn.solve(x, D, 0.0, nonnegative=nonnegative, max_steps=steps, **SOLVERS[solver])
        proven = found.objective * (1 - found.gap)
        assert (proven <= minimum + rounding * x.double().square().sum(1)).all()
    assert found.converged and (found.gap <= tol).all()
    assert (found.objective - minimum <= tol * minimum + rounding * x.double().square().sum(1)).all()
    assert not pn.solve(x, D, 0.0, nonnegative=nonnegative, max_steps=1, tol=1e-9, **SOLVERS[solver]).converged


@pytest.mark.parametrize(
    ("solver", "nonnegative"), [("ISTA", True), ("FISTA", False), ("FISTA", True), ("WorkingSet", False)]
)
def test_rows_without_a_penalty_among_others_are_solved_to_a_certificate(solver, nonnegative):
    """A mask of penalties: those of some rows are 0, so that they fit whatever they can."""
    x, D, value = draw("matrix")
    beta = torch.full((20,), 0.6 * value, dtype=torch.float64)
    beta[:3] = 0
    found = pn.solve(x, D, beta, nonnegative=nonnegative, max_steps=20_000, tol=1e-10, **SOLVERS[solver])
    assert found.converged
    assert_proper_support(found.code[:, 3:])
    assert_optimal(D.matrix(x.shape), x, beta, found.code, nonnegative, atol=1e-4)


@pytest.mark.parametrize("solver", ["ISTA", "FISTA", "WorkingSet", "ReducedSolver(FISTA)"])
def test_an_identity_without_a_penalty_takes_the_signal_and_leaves_nothing(solver):
    x, D, value = draw("[I 2-D]")
    beta = torch.cat([torch.zeros(D.code_channels[0]), torch.full((D.code_channels[1],), value)]).double()
    found = pn.solve(x, D, beta, max_steps=9000, **SOLVERS[solver])
    assert found.converged and (found.objective <= 1e-15 * x.flatten(1).square().sum(1)).all()


# ---------------------------------------------------------------------------------------------------------------------
# The run: warm starts, restarts, traces, solvers and dictionaries of one's own


@every_signed_pair
def test_warm_start_takes_no_step_from_the_solution_and_fewer_from_near_it(name, solver, nonnegative):
    x, D, value = draw(name, nonnegative)
    options = {"nonnegative": nonnegative, "max_steps": 9000, "tol": 1e-8, **SOLVERS[solver]}
    cold = pn.solve(x, D, value, **options)
    again = pn.solve(x, D, value, start=cold.code, **options)
    assert again.steps == 0 and again.converged
    torch.testing.assert_close(again.code, cold.code, rtol=0, atol=1e-14)
    if "WorkingSet" not in solver:
        near = cold.code * (1 + 1e-5 * normal(*cold.code.shape, seed=5))
        warm = pn.solve(x, D, value, start=near, **options)
        assert 0 < warm.steps < cold.steps and warm.converged
        torch.testing.assert_close(warm.code, cold.code, rtol=0, atol=1e-5)


def test_a_start_is_not_written_to_and_carries_no_gradient():
    x, D, value = draw("2-D circular")
    start = normal(*D.analyze(x).shape, seed=4).requires_grad_()
    before = start.detach().clone()
    for solver, gradient in ((pn.ISTA(), "unrolled"), (pn.FISTA(), "unrolled"), (pn.WorkingSet(), "implicit")):
        found = pn.solve(x, D, value, solver, start=start, max_steps=3, gradient=gradient)
        assert found.steps == 3 and not found.code.requires_grad
        assert torch.equal(start, before)


def test_restart_saves_fista_steps_where_the_problem_is_ill_conditioned():
    weight = unit(24, 24) * torch.logspace(0, -1, 24, dtype=torch.float64)
    x = normal(3, 24, seed=1) * torch.logspace(0, -1, 24, dtype=torch.float64)
    D = pn.LinearDictionary(weight)
    steps = {r: pn.solve(x, D, 3e-2, restart=r, max_steps=50_000, tol=1e-6) for r in (True, False)}
    ista = pn.solve(x, D, 3e-2, pn.ISTA(), max_steps=2 * steps[True].steps, tol=1e-6)
    assert steps[True].converged and steps[False].converged and not ista.converged
    assert_proper_support(steps[True].code)
    assert 2 * steps[True].steps < steps[False].steps
    torch.testing.assert_close(steps[True].code, steps[False].code, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", ["ISTA", "FISTA", "FISTA without restart", "ReducedSolver(FISTA)"])
def test_no_example_moves_or_restarts_another(solver):
    """After any number of steps, converged or not."""
    x, D, value = draw("[I 2-D]", beta="per example", batch=3, level=0.3)
    options = {"max_steps": 50, "tol": 0.0, **SOLVERS[solver]}
    together = pn.solve(x, D, value, **options).code
    for i in range(3):
        alone = pn.solve(x[i : i + 1], D, value[i : i + 1], **options).code
        torch.testing.assert_close(alone, together[i : i + 1], rtol=0, atol=1e-13)


@every_pair
def test_trace_holds_objective_and_gap_after_every_step(name, solver):
    x, D, value = draw(name)
    matrix = D.matrix(x.shape)
    found = pn.solve(x, D, value, max_steps=8, tol=1e-13, trace=True, **SOLVERS[solver])
    assert found.objectives.shape == found.gaps.shape == (found.steps + 1, 2)
    assert torch.equal(found.objectives[-1], found.objective) and torch.equal(found.gaps[-1], found.gap)
    for steps in {0, 1, found.steps // 2, found.steps}:
        shorter = pn.solve(x, D, value, max_steps=steps, tol=1e-13, **SOLVERS[solver])
        assert shorter.objectives is None and shorter.gaps is None and shorter.steps == steps
        torch.testing.assert_close(found.objectives[steps], value_of(matrix, x, value, shorter.code))
        torch.testing.assert_close(found.gaps[steps], shorter.gap, rtol=1e-9, atol=1e-14)
    if "ISTA" in solver and "FISTA" not in solver:
        assert (found.objectives.diff(dim=0) <= 1e-14 * found.objective).all()


@every_dictionary
def test_ista_never_raises_the_objective(name):
    nonnegative = bool(list(DICTIONARIES).index(name) % 2)
    x, D, value = draw(name, nonnegative)
    start = normal(*D.analyze(x).shape, seed=4).abs()
    found = pn.solve(x, D, value, pn.ISTA(), nonnegative, max_steps=50, tol=0.0, start=start, trace=True)
    assert (found.objectives.diff(dim=0) <= 1e-14 * found.objectives[0]).all()
    assert (found.objectives[-1] < 0.9 * found.objectives[0]).all()


class HeavyBall:
    """A solver of one's own: init and step, and nothing else."""

    def init(self, code):
        return State(code, code)

    def step(self, update, state):
        ahead = tuple(new + 0.4 * (new - old) for new, old in zip(state.code, state.previous, strict=True))
        return State(update(ahead), state.code)


class Scaled(pn.Dictionary):
    """A dictionary of one's own: a matrix with a learned gain, by the three methods that have to be written."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.code_channels, self.channels = (weight.shape[0],), weight.shape[1]

    def analyze(self, signal):
        return signal @ self.weight.mT

    def synthesize(self, code, signal_shape=None):
        return code @ self.weight

    def lipschitz_bound(self):
        return 1.5 * torch.linalg.matrix_norm(self.weight, 2) ** 2


@pytest.mark.parametrize(
    ("name", "restart"),  # a solver without momentum has nothing to restart
    [
        ("matrix", True),
        ("2-D, stride 2, padded", False),
        ("2-D circular", True),
        ("[I matrix]", False),
        ("[I 2-D]", True),
    ],
)
def test_a_solver_of_ones_own_works(name, restart):
    x, D, value = draw(name)
    solvers = [HeavyBall(), pn.ReducedSolver(HeavyBall())] if name.startswith("[I") else [HeavyBall()]
    for solver in solvers:
        found = pn.solve(x, D, value, solver, max_steps=20_000, tol=1e-11, restart=restart)
        assert found.converged
        torch.testing.assert_close(found.code, expected(name, False, "scalar"), rtol=0, atol=1e-8)


@pytest.mark.parametrize("solver", ["ISTA", "FISTA", "WorkingSet"])
def test_a_dictionary_of_ones_own_needs_its_three_methods_only(solver):
    x, _, value = draw("matrix")
    found = pn.solve(x, Scaled(unit(20, 12)), value, tol=1e-12, max_steps=9000, **SOLVERS[solver])
    torch.testing.assert_close(found.code.detach(), expected("matrix", False, "scalar"), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("[I matrix]", "ISTA"),
        ("[I matrix]", "WorkingSet"),
        ("[I 2-D]", "FISTA"),
        ("[I 2-D]", "ReducedSolver(FISTA)"),
    ],
)
def test_float32_reaches_1e_5_and_its_gap_is_that_of_float64(name, solver):
    x, D, value = draw(name)
    D32 = made(name)[0].float()
    found = pn.solve(x.float(), D32, value, tol=1e-5, max_steps=5000, **SOLVERS[solver])
    assert found.converged and found.code.dtype == torch.float32
    assert found.objective.dtype == found.gap.dtype == torch.float64
    exact = pn.solve(x, D, value, max_steps=0, start=found.code.double())
    torch.testing.assert_close(found.objective, exact.objective, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.gap, exact.gap, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.code.double(), expected(name, False, "scalar"), rtol=0, atol=1e-3)
    beyond = pn.solve(x.float(), D32, value, tol=1e-14, max_steps=5, **SOLVERS[solver])
    assert not beyond.converged and (beyond.gap > 1e-14).any()  # what it cannot reach, it does not claim


@pytest.mark.parametrize("solver", ["ReducedSolver(ISTA)", "ReducedSolver(FISTA)"])
def test_reduced_pursuit_needs_fewer_steps_than_the_full_one(solver):
    for name in ("[I matrix]", "[I 2-D]", "[I 1-D circular]"):
        x, D, value = draw(name)
        reduced = pn.solve(x, D, value, tol=1e-6, max_steps=9000, **SOLVERS[solver])
        full = pn.solve(x, D, value, SOLVERS[solver]["solver"].solver, tol=1e-6, max_steps=9000)
        assert reduced.converged and full.converged and reduced.steps < full.steps


# ---------------------------------------------------------------------------------------------------------------------
# Gradients

GRADIENTS = {
    "matrix": ["ISTA", "WorkingSet"],
    "1-D, stride 2, padded, dilated": ["FISTA"],
    "2-D circular": ["WorkingSet"],
    "[I matrix]": ["FISTA", "ReducedSolver(FISTA)"],
    "[I 2-D]": ["ISTA", "WorkingSet", "ReducedSolver(ISTA)"],
}
PENALIZED = {  # each solver with both
    "matrix": ("scalar", False),
    "1-D, stride 2, padded, dilated": ("per row", True),
    "2-D circular": ("per row", True),
    "[I matrix]": ("scalar", False),
    "[I 2-D]": ("per row", True),
}


def with_weight(name, weight):
    """A dictionary whose weight is a tensor of any kind, so that a gradient can pass through it."""
    D = dictionary_of((DICTIONARIES | SMALL)[name][0], weight.detach())
    inner = D.dictionary if isinstance(D, pn.WithIdentity) else D
    inner._parameters["weight"] = weight
    return D


def gradients(name, **options):
    """The code and the gradients of a random linear function of it in signal, weights and β."""
    beta, nonnegative = PENALIZED[name]
    x, _, value = draw(name, nonnegative, beta)
    weight = unit(*DICTIONARIES[name][1])
    inputs = [x, weight, torch.as_tensor(value)]
    for t in inputs:
        t.requires_grad_()
    found = pn.solve(x, with_weight(name, weight), inputs[2], nonnegative=nonnegative, max_steps=9000, **options)
    assert found.converged
    return found.code, torch.autograd.grad((found.code * normal(*found.code.shape, seed=7)).sum(), inputs)


@lru_cache
def unrolled(name):
    return gradients(name, tol=1e-11, gradient="unrolled")


@pytest.mark.parametrize(("name", "solver"), [(n, s) for n in GRADIENTS for s in GRADIENTS[n]])
def test_implicit_gradients_are_those_through_every_step(name, solver):
    code, slow = unrolled(name)
    assert_proper_support(code)
    same, fast = gradients(name, tol=1e-11, **SOLVERS[solver])
    torch.testing.assert_close(same, code, rtol=0, atol=1e-8)
    for a, b in zip(fast, slow, strict=True):
        assert a.norm() > 1e-3 and (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize(
    ("name", "solver"), [("[I matrix]", "ReducedSolver(ISTA)"), ("[I 2-D]", "ReducedSolver(FISTA)")]
)
def test_reduced_pursuit_can_be_unrolled_too(name, solver):
    code, slow = unrolled(name)
    same, also = gradients(name, tol=1e-11, gradient="unrolled", **SOLVERS[solver])
    torch.testing.assert_close(same, code, rtol=0, atol=1e-8)
    for a, b in zip(also, slow, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize(
    ("name", "solver", "nonnegative"),
    [
        ("small matrix", "FISTA", False),
        ("small 1-D", "FISTA", True),
        ("small 2-D circular", "FISTA", False),
        ("small [I matrix]", "ReducedSolver(FISTA)", True),
        ("small [I 1-D]", "WorkingSet", True),
    ],
)
def test_implicit_gradients_are_finite_differences(name, nonnegative, solver):
    x, D, value = draw(name, nonnegative, "per row", batch=1, level=0.25)
    options = {"nonnegative": nonnegative, "max_steps": 9000, "tol": 1e-12, **SOLVERS[solver]}
    near = pn.solve(x, D, value, **options).code
    assert_proper_support(near)
    assert (
        near != 0
    ).sum() > 1  # with one atom the gap falls with the square of the error, and the run stops too early

    def code(x, weight, beta):
        return pn.solve(x, with_weight(name, weight), beta, start=near, **options).code

    inputs = [t.requires_grad_() for t in (x, unit(*SMALL[name][1]), value)]
    assert torch.autograd.gradcheck(code, inputs, fast_mode=True)


def test_weights_can_be_swapped_in_by_functional_call():
    """The backward pass belongs to the weights of the forward pass, whatever the module holds by then."""

    class Coder(nn.Module):
        def __init__(self, dictionary):
            super().__init__()
            self.dictionary = dictionary

        def forward(self, x):
            return pn.solve(x, self.dictionary, 0.6, tol=1e-12, max_steps=9000, gradient="implicit").code

    x = normal(2, 12, seed=1)
    weight = unit(20, 12).requires_grad_()
    coder = Coder(pn.LinearDictionary(unit(20, 12, seed=9)))
    swapped = torch.func.functional_call(coder, {"dictionary.weight": weight}, (x,))
    swapped.square().sum().backward()
    D = pn.LinearDictionary(unit(20, 12))
    Coder(D)(x).square().sum().backward()
    torch.testing.assert_close(weight.grad, D.weight.grad)


@every_pair
def test_code_has_a_gradient_only_if_something_asks_for_one(name, solver):
    x, D, value = draw(name)
    options = {"max_steps": 3, **SOLVERS[solver]}
    assert pn.solve(x, D, value, **options).code.grad_fn is None
    beta = torch.tensor(value, requires_grad=True)
    with torch.no_grad():
        assert pn.solve(x.clone().requires_grad_(), D.requires_grad_(), beta, **options).code.grad_fn is None
    D.requires_grad_()  # as the weights of every new dictionary do, which is no wish
    assert pn.solve(x, D, value, **options).code.grad_fn is None
    for asks in range(3):
        D.requires_grad_(asks == 1)
        gradient = "implicit" if asks == 1 else None
        signal = x.clone().requires_grad_(asks == 0)
        found = pn.solve(signal, D, beta if asks == 2 else value, gradient=gradient, **options)
        assert found.code.grad_fn is not None
        assert not found.objective.requires_grad and not found.gap.requires_grad
        found.code.sum().backward()


def test_code_of_zeros_has_gradients_of_zeros():
    x, D, value = draw("matrix", level=1.1, beta="per example")
    x.requires_grad_()
    found = pn.solve(x, D.requires_grad_(), value)
    assert (found.code == 0).all()
    found.code.sum().backward()
    assert (x.grad == 0).all() and (D.weight.grad == 0).all()


def graph_size(tensor):
    """The number of nodes of the graph that autograd keeps."""
    seen, ahead = set(), [tensor.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [after for after, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("solver", ["ISTA", "FISTA", "ReducedSolver(FISTA)"])
def test_implicit_gradients_keep_a_graph_that_does_not_grow_with_the_steps(solver):
    x, D, value = draw("[I 2-D]")
    D.requires_grad_()

    def size(steps, gradient):
        found = pn.solve(x, D, value, max_steps=steps, tol=0.0, gradient=gradient, **SOLVERS[solver])
        assert found.steps == steps
        return graph_size(found.code)

    assert size(10, "implicit") == size(100, "implicit") < size(10, "unrolled") < size(100, "unrolled") / 5


# ---------------------------------------------------------------------------------------------------------------------
# Bad input


def run(beta=0.3, *, signal=None, dictionary=None, **options):
    signal = normal(2, 12, seed=1) if signal is None else signal
    return pn.solve(signal, pn.LinearDictionary(unit(20, 12)) if dictionary is None else dictionary, beta, **options)


def run_conv(beta=0.3, **options):
    return run(beta, signal=normal(2, 1, 5, 5), dictionary=pn.ConvDictionary(unit(3, 1, 3, 3)), **options)


def spoilt(value):
    x = normal(2, 12)
    x[1, 3] = value
    return x


# what is done, and what the message has to say: what came and what was expected
BAD_INPUT = {
    "signal channels": (lambda: run(signal=normal(2, 11)), ["(2, 11)", "(B, 12)"]),
    "signal without batch": (lambda: run(signal=normal(12)), ["(12,)", "(B, 12)"]),
    "signal axes, conv": (
        lambda: run(signal=normal(1, 5, 5), dictionary=pn.ConvDictionary(unit(3, 1, 3, 3))),
        ["(1, 5, 5)", "(B, 1, and 2 sizes)"],
    ),
    "signal too small": (
        lambda: run(signal=normal(2, 1, 2, 5), dictionary=pn.ConvDictionary(unit(3, 1, 3, 3))),
        ["(2, 5)", "(3, 3)", "too small"],
    ),
    "signal NaN": (lambda: run(signal=spoilt(float("nan"))), ["NaN or infinite", "finite ones"]),
    "signal infinite": (lambda: run(signal=spoilt(float("inf"))), ["NaN or infinite", "finite ones"]),
    "signal of another dtype": (lambda: run(signal=normal(2, 12).float()), ["float32", "float64", "convert"]),
    "signal of integers": (lambda: run(signal=normal(2, 12).int()), ["int32", "float64", "convert"]),
    "empty batch": (lambda: run(signal=normal(0, 12)), ["batch is empty", "one signal or more"]),
    "dictionary NaN": (
        lambda: run(dictionary=pn.LinearDictionary(unit(20, 12) * float("nan"))),
        ["dictionary holds NaN", "finite"],
    ),
    "beta negative": (lambda: run(-0.1), ["beta is -0.1", "≥ 0"]),
    "beta NaN": (lambda: run(float("nan")), ["beta is nan", "≥ 0"]),
    "beta infinite": (lambda: run(float("inf")), ["beta is inf", "finite numbers ≥ 0"]),
    "beta negative in a row": (lambda: run(torch.linspace(-1, 1, 20)), ["from -1 to 1", "≥ 0"]),
    "beta negative in a list": (lambda: run([-1.0, 1.0]), ["from -1 to 1", "≥ 0"]),
    "beta negative, learned": (lambda: run(torch.tensor(-0.5, requires_grad=True)), ["beta is -0.5", "≥ 0"]),
    "beta of wrong length": (lambda: run(torch.ones(19)), ["(19,)", "(20,)", "(2, 20)"]),
    "beta of wrong batch": (lambda: run(torch.ones(3, 1)), ["(3, 1)", "(2, 20)"]),
    "beta of wrong length, conv": (lambda: run_conv(torch.ones(2)), ["(2,)", "(3,)", "(2, 3, 3, 3)"]),
    "beta of the signal's size, conv": (
        lambda: run_conv(torch.ones(1, 3, 5, 5)),
        ["(1, 3, 5, 5)", "(2, 3, 3, 3)"],
    ),
    "beta of too few axes, conv": (lambda: run_conv(torch.ones(2, 3)), ["(2, 3)", "(2, 3, 3, 3)"]),
    "max_steps negative": (lambda: run(max_steps=-1), ["max_steps is -1", "≥ 0"]),
    "max_steps not whole": (lambda: run(max_steps=2.5), ["max_steps is 2.5", "integer"]),
    "tol negative": (lambda: run(tol=-1e-6), ["tol is -1e-06", "≥ 0"]),
    "tol NaN": (lambda: run(tol=float("nan")), ["tol is nan", "≥ 0"]),
    "gradient unknown": (lambda: run(gradient="x"), ["gradient is 'x'", "'implicit' or 'unrolled'"]),
    "gradient unrolled, WorkingSet": (
        lambda: run(gradient="unrolled", solver=pn.WorkingSet()),
        ["'unrolled'", "WorkingSet", "'implicit'"],
    ),
    "gradient unrolled, OMP": (lambda: run(gradient="unrolled", solver=pn.OMP(2)), ["'unrolled'", "OMP", "'implicit'"]),
    "start of wrong rows": (lambda: run(start=torch.zeros(2, 19).double()), ["start", "(2, 19)", "(2, 20)"]),
    "start of wrong batch": (lambda: run(start=torch.zeros(1, 20).double()), ["start", "(1, 20)", "(2, 20)"]),
    "start of wrong size, conv": (
        lambda: run_conv(start=torch.zeros(2, 3, 5, 5).double()),
        ["start", "(2, 3, 5, 5)", "(2, 3, 3, 3)"],
    ),
    "start NaN": (lambda: run(start=torch.full((2, 20), torch.nan).double()), ["start", "not finite"]),
    "start negative": (
        lambda: run(start=-torch.ones(2, 20).double(), nonnegative=True),
        ["start", "negative"],
    ),
    "start of another dtype": (lambda: run(start=torch.zeros(2, 20)), ["start", "float32", "float64"]),
    "reduced on a plain dictionary": (lambda: run(solver=pn.ReducedSolver()), ["LinearDictionary", "WithIdentity"]),
    "ReducedSolver(WorkingSet)": (lambda: pn.ReducedSolver(pn.WorkingSet()), ["WorkingSet", "ISTA() or FISTA()"]),
    "ReducedSolver(OMP)": (lambda: pn.ReducedSolver(pn.OMP(3)), ["OMP", "ISTA() or FISTA()"]),
    "reduced twice": (lambda: pn.ReducedSolver(pn.ReducedSolver()), ["ReducedSolver", "ISTA() or FISTA()"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_and_the_message_says_what_came_and_what_was_expected(case):
    action, words = BAD_INPUT[case]
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        action()
    for word in words:
        assert word in str(caught.value)


def test_working_sets_without_sparse_products_give_the_same(monkeypatch):
    D = pn.ConvDictionary(torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0)).double(), padding=1)
    x = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    expected = pn.solve(x, D, 5.0, pn.WorkingSet(), tol=1e-10)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    found = pn.solve(x, D, 5.0, pn.WorkingSet(), tol=1e-10)
    assert expected.converged and expected.code.any()
    assert found.converged
    torch.testing.assert_close(found.code, expected.code, rtol=0, atol=1e-8)


def test_a_dictionary_of_buffers_alone_can_be_solved_and_measured():
    class Fixed(pn.Dictionary):
        def __init__(self, weight):
            super().__init__()
            self.register_buffer("weight", weight)
            self.code_channels, self.channels = (len(weight),), weight.shape[1]

        def analyze(self, signal):
            return signal @ self.weight.mT

        def synthesize(self, code, signal_shape=None):
            return code @ self.weight

        def lipschitz_bound(self):
            return torch.linalg.matrix_norm(self.weight, 2) ** 2

    weight = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)).double()
    fixed, learned = Fixed(weight), pn.LinearDictionary(weight.clone())
    assert fixed.lipschitz() == pytest.approx(learned.lipschitz())
    for solver in (pn.FISTA(), pn.WorkingSet(), pn.OMP(2)):
        found, expected = (pn.solve(x, D, 0.5, solver, tol=1e-11).code for D in (fixed, learned))
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-7)
