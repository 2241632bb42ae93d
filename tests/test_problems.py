"""The update, the certificate and the reduced form of (P1), each held against the explicit matrix."""

import pytest
import torch
from makers import dictionary_of, normal, uniform
from torch import nn

import pursuitnet as pn
from pursuitnet.problems.lasso import Lasso, ReducedLasso, lasso

pytestmark = pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning")  # many are stopped early on purpose


# name: (kind in the list, scale and shape of the filters, shape of one signal)
DICTIONARIES = {
    "matrix": ("wide matrix", 1, (9, 6), (6,)),
    "2-D": ("2-D / 2, padded", 1, (3, 2, 3, 2), (2, 5, 4)),
    "2-D circular": ("2-D circular", 1, (2, 1, 2, 3), (1, 4, 5)),
    "[I matrix]": ("[I matrix]", 0.5, (7, 5), (5,)),
    "[I 1-D]": ("[I 1-D]", 0.5, (3, 2, 3), (2, 7)),
    "[I 2-D circular]": ("[I 2-D circular]", 0.5, (2, 1, 2, 3), (1, 4, 5)),
}
every_dictionary = pytest.mark.parametrize("name", DICTIONARIES)
with_identity = pytest.mark.parametrize("name", [name for name in DICTIONARIES if name.startswith("[I")])
either_sign = pytest.mark.parametrize("nonnegative", [False, True], ids=["soft", "non-negative"])


def draw(name, nonnegative=False):
    """A problem with a β for every row, two signals, its explicit matrix, and β of every entry of a code."""
    kind, scale, filters, shape = DICTIONARIES[name]
    D = dictionary_of(kind, scale * normal(*filters)).requires_grad_(False)
    x, beta = normal(2, *shape, seed=1), uniform(0.1, 0.8, sum(D.code_channels), seed=2)
    spelled = (torch.zeros_like(D.analyze(x)) + beta.view(-1, *[1] * D.dims)).flatten(1)
    return lasso(x, D, beta, nonnegative), D.matrix(shape), spelled


def guess(problem, size=1.0, seed=3):
    """A code of the problem with some zeros, that is not its solution."""
    shape = problem.dictionary.analyze(problem.signal).shape
    code = size * normal(*shape, seed=seed) * (normal(*shape, seed=seed + 100) > 0)
    return code.clamp(min=0) if problem.nonnegative else code


def objective(x, matrix, beta, code):
    rest = x.flatten(1) - code.flatten(1) @ matrix.T
    return 0.5 * rest.square().sum(1) + (beta * code.flatten(1).abs()).sum(1)


@either_sign
@every_dictionary
def test_the_update_is_equation_1_with_the_step_one_over_a_bound_of_the_largest_eigenvalue(name, nonnegative):
    problem, matrix, beta = draw(name, nonnegative)
    largest = float(torch.linalg.eigvalsh(matrix.T @ matrix)[-1])
    c = float(problem.step)
    assert 0.5 / largest < c <= (1 + 1e-12) / largest
    code, D = guess(problem), problem.dictionary
    z = code.flatten(1) + c * (problem.signal.flatten(1) - code.flatten(1) @ matrix.T) @ matrix
    expected = z.sign() * (z.abs() - c * beta).clamp(min=0)
    expected = (z - c * beta).clamp(min=0) if nonnegative else expected
    got = D.join(problem(D.split(code))).flatten(1)
    assert 0 < (got == 0).sum() < got.numel()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 0.2, 3.0])
@either_sign
@every_dictionary
def test_the_gap_is_that_of_the_best_dual_point_on_the_ray_of_the_residual(name, nonnegative, size):
    """Of all s with |s·dⱼᵀr| ≤ βⱼ (Γ ≥ 0: of all s ≥ 0 with s·dⱼᵀr ≤ βⱼ) none has a larger ⟨x, s·r⟩ − ½‖s·r‖²."""
    problem, matrix, beta = draw(name, nonnegative)
    code, x = guess(problem, size), problem.signal.flatten(1)
    found = problem.certificate(problem.dictionary.split(code))
    rest = x - code.flatten(1) @ matrix.T
    correlation = rest @ matrix
    primal = objective(problem.signal, matrix, beta, code)
    torch.testing.assert_close(found.objective, primal, rtol=1e-12, atol=0)
    torch.testing.assert_close(problem.dictionary.join(found.correlation).flatten(1), correlation)
    proven = (found.objective * (1 - found.gap))[:, None]
    s = torch.logspace(-6, 2, 4000, dtype=torch.float64)
    s = s if nonnegative else torch.cat([-s, s])
    load = s[None, :, None] * correlation[:, None, :]
    dual_scale = ((load if nonnegative else load.abs()) <= beta[:, None, :]).all(2)
    dual = s * (x * rest).sum(1, keepdim=True) - 0.5 * s.square() * rest.square().sum(1, keepdim=True)
    best = torch.where(dual_scale, dual, 0.0).amax(1, keepdim=True)
    assert (best <= proven + 1e-12).all()
    torch.testing.assert_close(best, proven, rtol=1e-2, atol=1e-9)  # as fine as the grid


@either_sign
def test_a_penalty_of_zero_takes_the_part_of_the_residual_that_is_orthogonal_to_its_columns(nonnegative):
    D = pn.LinearDictionary(torch.eye(4, dtype=torch.float64)[:3]).requires_grad_(False)
    x, beta = (
        torch.tensor([[2.0, 1.0, 0.5, 3.0]], dtype=torch.float64),
        torch.tensor([0.0, 0.4, 0.4], dtype=torch.float64),
    )
    problem = lasso(x, D, beta, nonnegative)
    far = problem.certificate((torch.zeros(1, 3, dtype=torch.float64),))
    # u = 0.4·(0, 1, 0.5, 3), whose correlations are at most 0.4, proves 4.1 − 0.82 of 7.125
    assert far.gap.tolist() == [pytest.approx(1 - 3.28 / 7.125)]
    best = problem.certificate((torch.tensor([[2.0, 0.6, 0.1]], dtype=torch.float64),))
    assert best.gap.tolist() == [pytest.approx(0, abs=1e-15)]


@every_dictionary
def test_beta_in_every_form_is_the_same_beta(name):
    problem, matrix, _ = draw(name)
    x, D = problem.signal, problem.dictionary
    code, ones = guess(problem), [1] * (x.dim() - 2)
    rows = uniform(0.1, 1, sum(D.code_channels), seed=4)
    forms = {
        "rows": (rows, rows.view(1, -1, *ones)),
        "rows in float32": (rows.float(), rows.float().double().view(1, -1, *ones)),
        "rows, spelled": (rows.view(1, -1, *ones), rows.view(1, -1, *ones)),
        "a number": (0.3, torch.tensor(0.3, dtype=torch.float64)),
        "an integer": (1, torch.tensor(1.0)),
        "a tensor of one": (torch.tensor([0.25]), torch.tensor(0.25)),
        "examples": (torch.tensor([0.25, 0.75]).view(2, 1, *ones),) * 2,
        "rows of every example": (rows.view(1, -1, *ones) * torch.tensor([1, 2]).view(2, 1, *ones),) * 2,
        "entries": (uniform(0, 1, 1, *code.shape[1:], seed=5),) * 2,
        "entries of every example": (uniform(0, 1, *code.shape, seed=5),) * 2,
    }
    for given, meant in forms.values():
        found = lasso(x, D, given).certificate(D.split(code)).objective
        spelled = (torch.zeros_like(code) + meant).flatten(1)
        torch.testing.assert_close(found, objective(x, matrix, spelled, code), rtol=1e-12, atol=0)


# ---------------------------------------------------------------------------------------------------------------------
# The reduced form


def huber(e, beta, nonnegative):
    """min over g of ½(e − g)² + β|g|, for g of any sign or g ≥ 0."""
    size = e if nonnegative else e.abs()
    return torch.where(size > beta, beta * size - 0.5 * beta**2, 0.5 * e**2)


def parts(problem, matrix, beta):
    """F of the atoms, β of the identity part, β of the atoms."""
    numel = problem.signal[0].numel()
    return matrix[:, numel:], beta[:, :numel], beta[:, numel:]


@either_sign
@with_identity
def test_the_identity_part_is_completed_at_its_best_and_leaves_a_huber_loss(name, nonnegative):
    problem, matrix, beta = draw(name, nonnegative)
    reduced = ReducedLasso.of(problem)
    F, own, others = parts(problem, matrix, beta)
    atoms = problem.dictionary.split(guess(problem))[1]
    whole = reduced.full_code((atoms,))
    e = problem.signal.flatten(1) - atoms.flatten(1) @ F.T
    identity = (e - own).clamp(min=0) if nonnegative else e.sign() * (e.abs() - own).clamp(min=0)
    assert 0 < (identity == 0).sum() < identity.numel()
    torch.testing.assert_close(whole[0].flatten(1), identity, rtol=1e-12, atol=1e-13)
    assert torch.equal(whole[1], atoms)
    loss = huber(e, own, nonnegative).sum(1) + (others * atoms.flatten(1).abs()).sum(1)
    code = problem.dictionary.join(whole)
    torch.testing.assert_close(objective(problem.signal, matrix, beta, code), loss, rtol=1e-12, atol=0)
    found = reduced.certificate((atoms,))
    torch.testing.assert_close(found.objective, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gap, problem.certificate(whole).gap, rtol=1e-12, atol=0)
    for seed in range(50):  # no other identity part is better
        other = whole[0] + 10.0 ** -(seed % 5) * normal(*whole[0].shape, seed=seed)
        other = other.clamp(min=0) if nonnegative else other
        code = problem.dictionary.join((other, atoms))
        assert (objective(problem.signal, matrix, beta, code) > loss).all()


@either_sign
@with_identity
def test_the_residual_of_the_reduced_problem_is_minus_the_slope_of_the_huber_loss(name, nonnegative):
    problem, matrix, beta = draw(name, nonnegative)
    F, own, _ = parts(problem, matrix, beta)
    atoms = problem.dictionary.split(guess(problem))[1].requires_grad_()
    loss = huber(problem.signal.flatten(1) - atoms.flatten(1) @ F.T, own, nonnegative).sum()
    (slope,) = torch.autograd.grad(loss, atoms)
    rest = ReducedLasso.of(problem).residual((atoms.detach(),))
    torch.testing.assert_close(-rest.flatten(1) @ F, slope.flatten(1), rtol=1e-12, atol=1e-12)


@either_sign
@with_identity
def test_reduced_ista_is_its_literal_loop_and_its_trace_the_huber_objective(name, nonnegative):
    """Γ_F ← P( Γ_F + (1/L)·Fᵀ·clip(x − FΓ_F, ±β_I) ), Γ_I = P_{β_I}(x − FΓ_F); one-sided for Γ ≥ 0."""
    problem, matrix, beta = draw(name, nonnegative)
    F, own, others = parts(problem, matrix, beta)
    c = float(ReducedLasso.of(problem).step)
    assert 1 / c == pytest.approx(1 / float(problem.step) - 1)
    x, D = problem.signal.flatten(1), problem.dictionary
    found = [
        pn.solve(
            problem.signal,
            D,
            D.join(problem.beta).flatten(),
            pn.ReducedSolver(pn.ISTA()),
            nonnegative,
            n,
            0.0,
            trace=True,
        )
        for n in range(8)
    ]
    atoms = torch.zeros_like(others)
    for n, after in enumerate(found):
        e = x - atoms @ F.T
        loss = huber(e, own, nonnegative).sum(1) + (others * atoms.abs()).sum(1)
        identity = (e - own).clamp(min=0) if nonnegative else e.sign() * (e.abs() - own).clamp(min=0)
        assert after.steps == n
        torch.testing.assert_close(after.code.flatten(1), torch.cat([identity, atoms], 1), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(after.objective, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(found[-1].objectives[n], loss, rtol=1e-12, atol=0)
        z = atoms + c * (torch.minimum(e, own) if nonnegative else e.clamp(-own, own)) @ F
        atoms = (z - c * others).clamp(min=0) if nonnegative else z.sign() * (z.abs() - c * others).clamp(min=0)
    assert (found[-1].objectives.diff(dim=0) <= 0).all() and (atoms != 0).any()


@pytest.mark.parametrize(
    ("name", "nonnegative"), [("[I matrix]", False), ("[I 1-D]", True), ("[I 2-D circular]", False)]
)
def test_the_reduced_problem_has_the_optimum_of_the_full_one(name, nonnegative):
    problem, _, _ = draw(name, nonnegative)
    beta = problem.dictionary.join(problem.beta).flatten()
    codes = [
        pn.solve(problem.signal, problem.dictionary, beta, solver, nonnegative, max_steps=20_000, tol=1e-13)
        for solver in (pn.ISTA(), pn.FISTA(), pn.ReducedSolver(pn.ISTA()), pn.ReducedSolver(pn.FISTA()))
    ]
    assert all(found.converged for found in codes)
    assert 0 < (codes[0].code != 0).sum() < codes[0].code.numel()
    for found in codes[1:]:
        torch.testing.assert_close(found.code, codes[0].code, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.objective, codes[0].objective, rtol=1e-13, atol=0)


@with_identity
def test_without_a_penalty_on_the_identity_the_signal_is_its_own_code(name):
    """β = (0, …, 0, b), as in Proposition 1, has the trivial optimum Γ = (x, 0)."""
    problem, _, _ = draw(name)
    D, x = problem.dictionary, problem.signal
    beta = torch.cat([torch.zeros(D.code_channels[0]), torch.ones(D.code_channels[1])]).double()
    for solver in (pn.ReducedSolver(pn.ISTA()), pn.ReducedSolver(pn.FISTA())):
        found = pn.solve(x, D, beta, solver)
        assert found.steps == 0 and found.converged and found.objective.tolist() == [0, 0]
        assert torch.equal(found.code, D.join((x, torch.zeros_like(D.split(found.code)[1]))))


def test_a_dictionary_without_the_identity_does_not_reduce():
    problem, _, _ = draw("2-D circular")
    with pytest.raises(ValueError, match="CircularDictionary; only \\[I D\\]"):
        ReducedLasso.of(problem)


def test_a_dictionary_may_have_no_parameters():
    class Fixed(pn.Dictionary):
        def __init__(self, weight):
            super().__init__()
            self.register_buffer("weight", weight)
            self.code_channels, self.channels = (weight.shape[0],), weight.shape[1]

        def analyze(self, signal):
            return signal @ self.weight.mT

        def synthesize(self, code, signal_shape=None):
            return code @ self.weight

        def lipschitz_bound(self):
            return torch.linalg.matrix_norm(self.weight, 2) ** 2

    weight, x = nn.functional.normalize(normal(9, 6)), normal(2, 6, seed=1)
    found = pn.solve(x, Fixed(weight), 0.5, tol=1e-12, max_steps=9000)
    assert isinstance(lasso(x, Fixed(weight), 0.5), Lasso) and found.converged
    expected = pn.solve(x, pn.LinearDictionary(weight), 0.5, tol=1e-12, max_steps=9000).code.detach()
    torch.testing.assert_close(found.code, expected, rtol=0, atol=1e-12)
