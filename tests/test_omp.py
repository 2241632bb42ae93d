"""``solve`` on (P0) by OMP: scikit-learn, a literal loop on the explicit matrix, least squares on the support."""

import re

import numpy as np
import pytest
import torch
from makers import dictionary_of, generator, normal
from sklearn.linear_model import orthogonal_mp
from torch import nn

import pursuitnet as pn

# the sizes of the supports are kept in a --junitxml report of any family
pytestmark = [
    pytest.mark.filterwarnings("ignore:record_property is incompatible"),
    pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning"),  # many are stopped early on purpose
]


# name: (kind in the list, shape of the filters, shape of one signal); no atom has length one
DICTIONARIES = {
    "matrix": ("wide matrix", (20, 12), (12,)),
    "1-D": ("1-D", (4, 2, 3), (2, 11)),
    "1-D, stride 2, padded, dilated": ("1-D / 2, dilated", (4, 2, 3), (2, 15)),
    "2-D": ("2-D", (4, 1, 3, 3), (1, 7, 8)),
    "2-D, stride 2, padded": ("2-D / 2, padded", (5, 2, 3, 3), (2, 7, 8)),
    "2-D, padded beyond the filter": ("2-D padding beyond the filter", (3, 1, 2, 2), (1, 5, 6)),
    "3-D, one size per axis": ("3-D one size per axis", (3, 1, 2, 3, 2), (1, 4, 5, 6)),
    "1-D circular": ("1-D circular, even", (3, 2, 4), (2, 13)),
    "2-D circular": ("2-D circular", (4, 1, 3, 3), (1, 6, 7)),
    "[I matrix]": ("[I matrix]", (14, 9), (9,)),
    "[I 2-D]": ("[I 2-D]", (4, 2, 3, 3), (2, 5, 6)),
    "[I 2-D circular]": ("[I 2-D circular]", (3, 1, 2, 3), (1, 6, 5)),
}
every_dictionary = pytest.mark.parametrize("name", DICTIONARIES)


def filters_of(name):
    """Random filters whose lengths differ by a factor of up to ten."""
    shape = DICTIONARIES[name][1]
    lengths = torch.logspace(-0.5, 0.5, shape[0], dtype=torch.float64)[torch.randperm(shape[0], generator=generator(5))]
    return lengths.view(-1, *[1] * (len(shape) - 1)) * normal(*shape)


def draw(name, batch=3):
    kind, _, shape = DICTIONARIES[name]
    D = dictionary_of(kind, filters_of(name)).requires_grad_(False)
    return normal(batch, *shape, seed=1), D, D.matrix(shape).numpy()


def literally(matrix, signal, nonzeros=10**6, residual=0.0):
    """OMP as it is defined: the best atom at unit length, then least squares over all that were taken."""
    lengths = np.linalg.norm(matrix, axis=0)
    code, rest, taken = np.zeros(matrix.shape[1]), signal, []
    while len(taken) < nonzeros and np.linalg.norm(rest) > residual:
        match = np.divide(np.abs(matrix.T @ rest), lengths, out=np.zeros_like(lengths), where=lengths > 0)
        taken.append(int(match.argmax()))
        weights = np.linalg.lstsq(matrix[:, taken], signal)[0]
        rest = signal - matrix[:, taken] @ weights
    code[taken] = weights if taken else 0
    return code


def scikit_learns(matrix, signal, **criterion):
    """orthogonal_mp wants columns of length one; those of zeros are left out."""
    lengths = np.linalg.norm(matrix, axis=0)
    code = np.zeros(len(lengths))
    some = lengths > 0
    code[some] = orthogonal_mp(matrix[:, some] / lengths[some], signal, **criterion) / lengths[some]
    return code


def reached(matrix, signal, nonzeros):
    """A residual that so many non-zeros suffice for, and no fewer."""
    signal = signal.flatten().numpy()
    after = [np.linalg.norm(signal - matrix @ literally(matrix, signal, n)) for n in (nonzeros - 1, nonzeros)]
    return float(sum(after) / 2)


def rows(code):
    return code.detach().flatten(1).numpy()


@pytest.mark.parametrize("nonzeros", [1, 2, 5])
@every_dictionary
def test_code_with_a_number_of_nonzeros_is_scikit_learns_and_the_literal_one(name, nonzeros, record_property):
    x, D, matrix = draw(name)
    found = pn.solve(x, D, solver=pn.OMP(nonzeros))
    assert found.code.shape == D.analyze(x).shape
    assert found.converged and found.steps == nonzeros and found.gap.isnan().all()
    for code, signal in zip(rows(found.code), rows(x), strict=True):
        assert (code != 0).sum() == nonzeros < len(code)
        np.testing.assert_allclose(code, literally(matrix, signal, nonzeros), rtol=0, atol=1e-8)
        np.testing.assert_allclose(code, scikit_learns(matrix, signal, n_nonzero_coefs=nonzeros), rtol=0, atol=1e-8)
    record_property("support", int((found.code != 0).sum()))


@pytest.mark.parametrize("limit", [0.5, 3.0])
@every_dictionary
def test_code_to_a_residual_is_scikit_learns_and_the_literal_one(name, limit, record_property):
    """The examples stop after different numbers of steps; scikit-learn's tol is the square of the residual."""
    x, D, matrix = draw(name)
    x = torch.stack([one * (limit / reached(matrix, one, n)) for one, n in zip(x, (5, 2, 3), strict=True)])
    found = pn.solve(x, D, solver=pn.OMP(residual=limit))
    counts = (found.code != 0).flatten(1).sum(1)
    assert counts.tolist() == [5, 2, 3] and found.code[0].numel() > 5
    assert found.converged and found.steps == 5
    for code, signal in zip(rows(found.code), rows(x), strict=True):
        assert np.linalg.norm(signal - matrix @ code) <= limit
        np.testing.assert_allclose(code, literally(matrix, signal, residual=limit), rtol=0, atol=1e-8)
        np.testing.assert_allclose(code, scikit_learns(matrix, signal, tol=limit**2), rtol=0, atol=1e-8)
    record_property("support", int(counts.sum()))


@every_dictionary
def test_code_is_the_least_squares_fit_on_its_support(name):
    x, D, matrix = draw(name)
    found = pn.solve(x, D, solver=pn.OMP(6))
    for code, signal in zip(rows(found.code), rows(x), strict=True):
        support = np.flatnonzero(code)
        fit = np.linalg.lstsq(matrix[:, support], signal)[0]
        np.testing.assert_allclose(code[support], fit, rtol=0, atol=1e-9)
        np.testing.assert_allclose(matrix[:, support].T @ (signal - matrix @ code), 0, rtol=0, atol=1e-12)


@every_dictionary
def test_a_batch_is_its_examples_one_at_a_time(name):
    x, D, matrix = draw(name)
    limit = reached(matrix, x[0], 4)
    for solver in (pn.OMP(4), pn.OMP(residual=limit), pn.OMP(5, residual=limit)):
        together = pn.solve(x, D, 0.3, solver)
        for i in range(3):
            alone = pn.solve(x[i : i + 1], D, 0.3, solver)
            torch.testing.assert_close(alone.code, together.code[i : i + 1], rtol=0, atol=1e-12)
            torch.testing.assert_close(alone.objective, together.objective[i : i + 1])


@pytest.mark.parametrize("name", ["matrix", "2-D circular", "[I 2-D]"])
def test_objective_is_half_the_squared_residual_and_the_penalty_of_every_nonzero(name):
    x, D, matrix = draw(name)
    betas = torch.rand(sum(D.code_channels), generator=generator(3), dtype=torch.float64)
    each = betas.view(-1, *[1] * D.dims).expand_as(D.analyze(x)[0]).flatten()
    for beta, penalty in ((0.0, 0 * each), (0.4, torch.full_like(each, 0.4)), (betas, each)):
        found = pn.solve(x, D, beta, pn.OMP(4))
        flat = found.code.flatten(1)
        rest = x.flatten(1) - flat @ torch.as_tensor(matrix).T
        torch.testing.assert_close(found.objective, 0.5 * rest.square().sum(1) + ((flat != 0) * penalty).sum(1))
        assert torch.equal(found.code, pn.solve(x, D, 0.0, pn.OMP(4)).code)


def test_atoms_are_compared_at_unit_length():
    """The longer atom correlates more with the signal, the shorter one fits it better."""
    weight = torch.tensor([[5.0, 5.0, 0.0], [0.1, 0.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 0.1, 0.0]], dtype=torch.float64)
    found = pn.solve(x, pn.LinearDictionary(weight), solver=pn.OMP(1))
    assert found.code.tolist() == [[0, pytest.approx(10)]]


def test_an_atom_that_the_border_cuts_has_its_chance():
    """Only the last tap of the filter lands on the first entry of the signal, with a fifth of its length."""
    D = pn.ConvDictionary(torch.tensor([[[3.0, 4.0, 1.0]]], dtype=torch.float64), padding=2)
    x = torch.zeros(1, 1, 8, dtype=torch.float64)
    x[0, 0, 0] = 2
    found = pn.solve(x, D, solver=pn.OMP(1))
    assert found.code.tolist() == [[[pytest.approx(2)] + 9 * [0]]]
    assert found.objective.tolist() == [pytest.approx(0, abs=1e-28)]


@pytest.mark.parametrize("name", ["1-D", "2-D circular", "[I 2-D]", "[I matrix]"])
def test_an_atom_of_zeros_is_never_taken(name):
    kind, _, shape = DICTIONARIES[name]
    weight = filters_of(name)
    weight[1] = 0
    D, x = dictionary_of(kind, weight), normal(3, *shape, seed=1)
    found = pn.solve(x, D, solver=pn.OMP(residual=1e-9))
    row = 1 + (D.code_channels[0] if name.startswith("[I") else 0)
    assert (found.code[:, row] == 0).all() and (found.code != 0).any()
    matrix = D.matrix(shape).detach().numpy()
    for code, signal in zip(rows(pn.solve(x, D, solver=pn.OMP(5)).code), rows(x), strict=True):
        np.testing.assert_allclose(code, literally(matrix, signal, 5), rtol=0, atol=1e-8)


def test_a_dictionary_of_zeros_explains_nothing_and_says_so():
    found = pn.solve(normal(2, 4), pn.LinearDictionary(torch.zeros(3, 4).double()), solver=pn.OMP(2))
    assert (found.code == 0).all() and not found.converged
    torch.testing.assert_close(found.objective, 0.5 * normal(2, 4).square().sum(1))


@pytest.mark.parametrize("seed", range(10))
def test_atoms_that_depend_on_those_taken_are_not_taken(seed):
    """Three directions in twelve dimensions, each given by two atoms, and a fourth that lies between them."""
    weight = normal(3, 12, seed=seed)
    D = pn.LinearDictionary(torch.cat([weight, -2 * weight, weight.sum(0, keepdim=True)]))
    x = normal(2, 12, seed=1)
    found = pn.solve(x, D, solver=pn.OMP(6))
    assert ((found.code != 0).sum(1) == 3).all() and not found.converged
    rest = x - found.code @ D.weight
    torch.testing.assert_close(rest @ weight.T, torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-12)
    inside = pn.solve(normal(2, 3, seed=2) @ weight, D, solver=pn.OMP(residual=1e-10))
    assert inside.converged and inside.steps <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dictionary_of_rank_5_explains_with_5_atoms_in_any_type(dtype):
    """In the rounding of float32 a dependent atom looks like a new direction, with far too large weights."""
    for seed in range(30):
        weight = normal(30, 5, seed=seed) @ normal(5, 20, seed=seed + 1000)
        x = normal(4, 20, seed=seed + 2000)
        found = pn.solve(x.to(dtype), pn.LinearDictionary(weight.to(dtype)), solver=pn.OMP(10))
        assert ((found.code != 0).sum(1) == 5).all()
        assert not found.converged and found.reason == "stalled"
        for code, one in zip(found.code.detach(), x, strict=True):
            support = code.nonzero().flatten()
            fit = torch.linalg.lstsq(weight[support].T, one[:, None]).solution[:, 0]
            torch.testing.assert_close(code[support].double(), fit, rtol=1e-3, atol=1e-3)


@every_dictionary
def test_zeros_are_explained_by_nothing_and_one_atom_by_itself(name):
    x, D, matrix = draw(name)
    x[1] = 0
    lengths = np.linalg.norm(matrix, axis=0)
    atom = int(lengths.argmax())
    x[2] = torch.as_tensor(-3 * matrix[:, atom]).view_as(x[2])
    for solver in (pn.OMP(3), pn.OMP(residual=reached(matrix, x[0], 3))):
        found = pn.solve(x, D, 0.1, solver)
        assert found.converged
        assert (found.code[1] == 0).all() and found.objective[1] == 0
        assert (found.code[0] != 0).sum() > 1
    only = pn.solve(x[1:], D, 0.1, pn.OMP(3))
    assert only.steps == 1 and only.converged
    assert only.code[1].flatten().nonzero().tolist() == [[atom]]
    assert float(only.code[1].flatten()[atom]) == pytest.approx(-3)


def test_few_incoherent_atoms_are_found_again():
    D = pn.LinearDictionary(nn.functional.normalize(normal(60, 200)))
    truth = torch.zeros(4, 60, dtype=torch.float64)
    truth.scatter_(1, torch.stack([torch.randperm(60, generator=generator(i))[:5] for i in range(4)]), 1.0)
    truth *= 1 + torch.rand(4, 60, generator=generator(9), dtype=torch.float64)
    x = D.synthesize(truth).detach()
    for solver in (pn.OMP(5), pn.OMP(residual=1e-9), pn.OMP(60)):
        found = pn.solve(x, D, solver=solver)
        assert found.steps == 5 and found.converged
        torch.testing.assert_close(found.code.detach(), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["matrix", "2-D, stride 2, padded", "[I 2-D circular]"])
def test_stopping_too_early_is_said(name):
    x, D, matrix = draw(name)
    found = pn.solve(x, D, solver=pn.OMP(5), max_steps=2)
    assert found.steps == 2 and not found.converged
    for code, signal in zip(rows(found.code), rows(x), strict=True):
        np.testing.assert_allclose(code, literally(matrix, signal, 2), rtol=0, atol=1e-8)
    assert not pn.solve(x, D, solver=pn.OMP(residual=1e-6), max_steps=2).converged
    nothing = pn.solve(x, D, solver=pn.OMP(5), max_steps=0)
    assert (nothing.code == 0).all() and nothing.steps == 0 and not nothing.converged


def test_both_criteria_together_stop_at_whichever_comes_first():
    x, D, matrix = draw("2-D")
    x = torch.stack([one / reached(matrix, one, n) for one, n in zip(x, (5, 2, 3), strict=True)])
    found = pn.solve(x, D, solver=pn.OMP(4, residual=1.0))
    assert found.converged and found.steps == 4
    assert (found.code != 0).flatten(1).sum(1).tolist() == [4, 2, 3]
    for code, signal in zip(rows(found.code), rows(x), strict=True):
        np.testing.assert_allclose(code, literally(matrix, signal, 4, 1.0), rtol=0, atol=1e-8)


def test_the_whole_signal_is_explained_at_most():
    x, D, matrix = draw("matrix")
    for solver in (pn.OMP(20), pn.OMP(residual=0.0)):
        found = pn.solve(x, D, solver=solver)
        assert found.converged and found.steps == 12
        np.testing.assert_allclose(rows(found.code) @ matrix.T, rows(x), rtol=0, atol=1e-10)


def test_float32_takes_the_same_atoms():
    x, D, _ = draw("2-D circular")
    exact = pn.solve(x, D, solver=pn.OMP(5)).code
    found = pn.solve(x.float(), D.float(), solver=pn.OMP(5))
    assert found.code.dtype == torch.float32 and found.objective.dtype == torch.float64 and found.converged
    torch.testing.assert_close(found.code.double(), exact, rtol=0, atol=1e-4)
    assert torch.equal(found.code != 0, exact != 0)


class Scaled(pn.Dictionary):
    """A dictionary of one's own, by the three methods that have to be written."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.code_channels, self.channels = (weight.shape[0],), weight.shape[1]

    def analyze(self, signal):
        return signal @ self.weight.mT

    def synthesize(self, code, signal_shape=None):
        return code @ self.weight

    def lipschitz_bound(self):
        return torch.linalg.matrix_norm(self.weight, 2) ** 2


def test_a_dictionary_of_ones_own_needs_its_three_methods_only():
    x, _, matrix = draw("matrix")
    found = pn.solve(x, Scaled(filters_of("matrix")), solver=pn.OMP(4))
    for code, signal in zip(rows(found.code), rows(x), strict=True):
        np.testing.assert_allclose(code, literally(matrix, signal, 4), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["matrix", "1-D, stride 2, padded, dilated", "2-D circular", "[I matrix]", "[I 2-D]"])
def test_gradients_are_those_of_least_squares_on_the_support(name):
    """Through Γ_S = (D_SᵀD_S)⁻¹D_Sᵀx, written with the explicit matrix."""
    x, D, _ = draw(name)
    D.requires_grad_()
    x.requires_grad_()
    found = pn.solve(x, D, solver=pn.OMP(4)).code
    inputs = [x, *D.parameters()]
    probe = normal(*found.shape, seed=7)
    got = torch.autograd.grad((found * probe).sum(), inputs)
    matrix, total = D.matrix(x.shape), 0
    for one, code, weights in zip(x.flatten(1), found.flatten(1), probe.flatten(1), strict=True):
        support = code.detach().nonzero().flatten()
        part = matrix[:, support]
        fit = torch.linalg.solve(part.T @ part, part.T @ one)
        torch.testing.assert_close(fit, code[support], rtol=0, atol=1e-9)
        total = total + (fit * weights[support]).sum()
    for a, b in zip(got, torch.autograd.grad(total, inputs), strict=True):
        assert b.norm() > 1e-3 and (a - b).norm() <= 1e-7 * b.norm()


def test_code_has_a_gradient_only_if_something_asks_for_one():
    x, D, _ = draw("2-D")
    assert pn.solve(x, D, solver=pn.OMP(3)).code.grad_fn is None
    assert pn.solve(x.clone().requires_grad_(), D, solver=pn.OMP(3)).code.grad_fn is not None
    beta = torch.tensor(0.1, requires_grad=True)
    assert pn.solve(x, D.requires_grad_(), solver=pn.OMP(3)).code.grad_fn is None
    assert pn.solve(x, D, solver=pn.OMP(3), gradient="implicit").code.grad_fn is not None
    found = pn.solve(x, D, beta, pn.OMP(3))
    assert found.code.grad_fn is not None and not found.objective.requires_grad
    with torch.no_grad():
        assert pn.solve(x, D, beta, pn.OMP(3)).code.grad_fn is None


def run(solver, **options):
    return pn.solve(normal(2, 12), pn.LinearDictionary(normal(20, 12)), solver=solver, **options)


# what is done, and what the message has to say: what came and what was expected
BAD_INPUT = {
    "no stopping criterion": (pn.OMP, ["no stopping criterion", "nonzeros, residual"]),
    "no non-zeros": (lambda: pn.OMP(0), ["nonzeros is 0", "integer ≥ 1"]),
    "negative non-zeros": (lambda: pn.OMP(-3), ["nonzeros is -3", "integer ≥ 1"]),
    "non-zeros not whole": (lambda: pn.OMP(2.5), ["nonzeros is 2.5", "integer ≥ 1"]),
    "negative residual": (lambda: pn.OMP(residual=-0.1), ["residual is -0.1", "≥ 0"]),
    "residual NaN": (lambda: pn.OMP(residual=float("nan")), ["residual is nan", "≥ 0"]),
    "non-negative": (lambda: run(pn.OMP(2), nonnegative=True), ["nonnegative=True", "any sign"]),
    "start": (lambda: run(pn.OMP(2), start=torch.zeros(2, 20).double()), ["a start", "start at zero"]),
    "beta negative": (lambda: run(pn.OMP(2), beta=-1.0), ["beta is -1", "≥ 0"]),
    "signal shape": (
        lambda: pn.solve(normal(2, 11), pn.LinearDictionary(normal(20, 12)), solver=pn.OMP(1)),
        ["(2, 11)"],
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_and_the_message_says_what_came_and_what_was_expected(case):
    action, words = BAD_INPUT[case]
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        action()
    for word in words:
        assert word in str(caught.value)
