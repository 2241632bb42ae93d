"""ADMM on a torus and by mask decoupling: linear algebra by dense matrices, codes by scikit-learn and sporco."""

import numpy as np
import pytest
import torch
from makers import DICTIONARIES, by_coordinate_descent, dictionary_of, normal, unit

import pursuitnet as pn
from pursuitnet.dictionaries.fourier import FourierDictionary
from pursuitnet.problems import admm
from pursuitnet.problems.elastic_net import ElasticNet
from pursuitnet.problems.lasso import lasso

pytestmark = pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning")  # some are stopped early on purpose

# name: (kind in the list, shape of the filters, shape of one signal)
SOLVED = {
    "matrix": ("wide matrix", (20, 12), (12,)),
    "tall matrix": ("tall matrix", (5, 12), (12,)),
    "circular": ("2-D circular", (3, 1, 3, 3), (1, 6, 5)),
    "circular, 3 channels, dilated": ("2-D circular, dilated", (4, 3, 3, 2), (3, 6, 5)),
    "circular, fewer atoms than channels": ("1-D circular, even", (2, 3, 4), (3, 11)),
    "3-D circular": ("3-D circular", (2, 1, 2, 3, 1), (1, 3, 4, 5)),
    "[I circular]": ("[I 1-D circular]", (3, 2, 3), (2, 10)),
    "padded": ("2-D same", (3, 2, 3, 3), (2, 6, 5)),
    "not padded": ("2-D", (4, 1, 3, 3), (1, 8, 9)),
    "padded, stride 2": ("2-D / 2, padded", (4, 2, 3, 3), (2, 7, 6)),
    "3-D, one size per axis": ("3-D one size per axis", (2, 1, 2, 3, 2), (1, 3, 4, 5)),
}
SMALL = {"small, stride 2": ("2-D / 2, padded", (2, 1, 3, 3), (1, 5, 4))}
AUTO_RHO = {"Enabled": True, "Period": 10, "AutoScaling": True}
every_case = pytest.mark.parametrize(("name", "nonnegative"), [(n, bool(i % 2)) for i, n in enumerate(SOLVED)])
every_case_of_other_sign = pytest.mark.parametrize(
    ("name", "nonnegative"), [(n, not i % 2) for i, n in enumerate(SOLVED)]
)


def drawn(name, nonnegative=False, batch=2, share=0.3):
    kind, filters, shape = (SOLVED | SMALL)[name]
    D, x = dictionary_of(kind, unit(*filters)).requires_grad_(False), normal(batch, *shape, seed=1)
    weights = 0.7 + normal(sum(D.code_channels), seed=2).abs().view(-1, *[1] * D.dims)
    return x, D, share * pn.beta_max(x, D, nonnegative) * weights


@every_case
def test_codes_are_scikit_learns_with_a_beta_for_each_atom_and_example(name, nonnegative):
    x, D, beta = drawn(name, nonnegative, share=0.45)
    solution = pn.solve(x, D, beta, pn.ADMM(), nonnegative, max_steps=5000, tol=1e-11)
    spelled = (torch.zeros_like(solution.code) + beta).flatten(1)
    peer = by_coordinate_descent(D.matrix(x.shape), x, spelled, nonnegative).view_as(solution.code)
    assert solution.converged and (solution.gap <= 1e-11).all()
    torch.testing.assert_close(solution.code, peer, rtol=0, atol=1e-7)
    assert torch.equal(solution.code != 0, peer.abs() > 1e-9)
    exact = pn.solve(x, D, beta, nonnegative=nonnegative, start=solution.code, max_steps=0)
    torch.testing.assert_close(solution.objective, exact.objective, rtol=1e-12, atol=0)


@every_case_of_other_sign
def test_every_gap_on_the_way_is_an_upper_bound(name, nonnegative):
    x, D, beta = drawn(name, nonnegative, share=0.35)
    best = pn.solve(x, D, beta, pn.FISTA(), nonnegative, max_steps=20_000, tol=1e-12).objective
    run = pn.solve(x, D, beta, pn.ADMM(), nonnegative, max_steps=40, tol=1e-13, trace=True)
    assert (run.objectives >= best * (1 - 1e-12)).all()
    assert (run.objectives * (1 - run.gaps) <= best * (1 + 1e-12)).all()
    assert (run.gaps[-1] < 0.1).all() and (run.gaps[-1] < 0.5 * run.gaps[0]).all()


@pytest.mark.parametrize(("channels", "share"), [(1, 0.5), (3, 0.1)])
def test_codes_are_sporcos(channels, share):
    cbpdn = pytest.importorskip("sporco.admm.cbpdn")
    weight, x = unit(5, channels, 3, 3), normal(1, channels, 9, 8, seed=1)
    D = pn.CircularDictionary(weight).requires_grad_(False)
    beta = share * float(pn.beta_max(x, D))
    options = {"Verbose": False, "DataType": np.float64, "MaxMainIter": 2000, "RelStopTol": 1e-8, "AutoRho": AUTO_RHO}
    filters, image = weight.permute(2, 3, 1, 0).numpy(), x[0].permute(1, 2, 0).numpy()
    if channels == 1:
        filters, image = filters[:, :, 0], image[..., 0]
    peer = cbpdn.ConvBPDN(filters, image, beta, cbpdn.ConvBPDN.Options(options)).solve()
    code = torch.as_tensor(peer).reshape(9, 8, 5).permute(2, 0, 1)[None]
    solution = pn.solve(x, D, beta, pn.ADMM(), tol=1e-12, max_steps=5000)
    assert (solution.code != 0).any()
    torch.testing.assert_close(solution.code, code, rtol=0, atol=1e-6)


def test_codes_of_a_padded_dictionary_are_those_of_sporcos_masked_problem():
    """Zero-padded is periodic on a larger signal, of which a mask hides what is beyond the border."""
    cbpdn = pytest.importorskip("sporco.admm.cbpdn")
    weight, x = unit(4, 1, 3, 3), normal(1, 1, 6, 5, seed=1)
    D = pn.ConvDictionary(weight, padding=2).requires_grad_(False)
    beta = 0.5 * float(pn.beta_max(x, D))
    image, mask = np.zeros((10, 9)), np.zeros((10, 9, 1, 1, 1))
    image[2:8, 2:7], mask[2:8, 2:7] = x[0, 0].numpy(), 1
    options = {"DataType": np.float64, "MaxMainIter": 2000, "RelStopTol": 1e-8, "AutoRho": AUTO_RHO}
    options = cbpdn.ConvBPDNMaskDcpl.Options(options)
    solver = cbpdn.ConvBPDNMaskDcpl(weight[:, 0].permute(1, 2, 0).numpy(), image, beta, mask, options)
    code = torch.as_tensor(solver.solve()).reshape(10, 9, 4).permute(2, 0, 1)[None]
    solution = pn.solve(x, D, beta, pn.ADMM(), tol=1e-10, max_steps=9000)
    torch.testing.assert_close(solution.code, code[..., :8, :7], rtol=0, atol=1e-5)


@pytest.mark.parametrize("rho", [0.05, 7.0])
@pytest.mark.parametrize("name", ["matrix", "tall matrix", "circular", "circular, 3 channels, dilated", "[I circular]"])
def test_the_inverse_is_that_of_the_dense_matrix(name, rho):
    x, D, _ = drawn(name, batch=3)
    _, inverse = admm._cheap(D, x.shape)
    matrix = D.matrix(x.shape)
    rhos = rho * torch.tensor([1.0, 2.0, 5.0], dtype=x.dtype).view(-1, *[1] * (x.dim() - 1))
    for one, r, got in zip(x, rhos, inverse(x, rhos), strict=True):
        dense = float(r) * torch.eye(len(matrix), dtype=x.dtype) + matrix @ matrix.T
        torch.testing.assert_close(got.flatten(), torch.linalg.solve(dense, one.flatten()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("circular", [pn.ADMM(rho=0.5), pn.ADMM(adaptive_rho=False), pn.ADMM(relaxation=1.0)]),
        ("small, stride 2", [pn.ADMM(adaptive_rho=False), pn.ADMM(rho=0.5, relaxation=1.0)]),
    ],
)
def test_rho_and_relaxation_change_the_way_and_not_the_end(name, methods):
    x, D, beta = drawn(name, share=0.4)
    there = pn.solve(x, D, beta, pn.ADMM(), tol=1e-11, max_steps=9000)
    for method in methods:
        here = pn.solve(x, D, beta, method, tol=1e-11, max_steps=9000)
        assert here.converged and here.code.any() and not torch.equal(here.code, there.code)
        torch.testing.assert_close(here.code, there.code, rtol=0, atol=1e-7)


def test_a_bad_rho_adapts():
    x, D, beta = drawn("circular")
    fixed, adaptive = (
        pn.solve(x, D, beta, pn.ADMM(rho=1e3, adaptive_rho=a), tol=1e-8, max_steps=300) for a in (False, True)
    )
    assert adaptive.converged and not fixed.converged


@pytest.mark.parametrize("name", ["circular", "padded"])
def test_no_example_moves_another(name):
    x, D, beta = drawn(name, batch=3)
    x = x * torch.tensor([1e-2, 1.0, 1e3], dtype=x.dtype).view(-1, 1, 1, 1)
    beta = 0.3 * pn.beta_max(x, D)
    together = pn.solve(x, D, beta, pn.ADMM(), max_steps=40, tol=0.0).code
    for i in range(3):
        alone = pn.solve(x[i : i + 1], D, beta[i : i + 1], pn.ADMM(), max_steps=40, tol=0.0).code
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["matrix", "circular", "padded", "[I circular]"])
def test_a_warm_start_takes_fewer_steps(name):
    x, D, beta = drawn(name)
    cold = pn.solve(x, D, beta, pn.ADMM(), tol=1e-8)
    warm = pn.solve(x, D, beta, pn.ADMM(), tol=1e-8, start=cold.code)
    assert warm.converged and 2 * warm.steps < cold.steps
    nothing = pn.solve(x, D, 1.01 * pn.beta_max(x, D), pn.ADMM())
    assert nothing.steps == 0 and (nothing.code == 0).all()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("matrix", torch.float32),
        ("matrix", torch.float64),
        ("circular", torch.float64),
        ("small, stride 2", torch.float32),
    ],
)
def test_least_squares_has_a_gap_that_means_something(name, dtype):
    x, D, _ = drawn(name)
    x, D = x.to(dtype), D.to(dtype)
    solution = pn.solve(x, D, 0.0, pn.ADMM(), max_steps=3000)
    fit = torch.linalg.lstsq(D.matrix(x.shape).double(), x.flatten(1).double().T, driver="gelsd").solution
    minimum = 0.5 * (x.flatten(1).double().T - D.matrix(x.shape).double() @ fit).square().sum(0)
    rounding = 8 * torch.finfo(dtype).eps * x.double().flatten(1).square().sum(1)
    assert solution.converged and solution.code.dtype == dtype
    assert (solution.objective <= minimum * (1 + 1e-3) + rounding).all()


@pytest.mark.parametrize("name", ["circular", "small, stride 2"])
def test_gradients_are_those_of_fista(name):
    gradients = []
    for solver in (pn.ADMM(), pn.FISTA()):
        x, D, beta = drawn(name)
        D, beta = D.requires_grad_(), beta.requires_grad_()
        code = pn.solve(x.requires_grad_(), D, beta, solver, tol=1e-10, max_steps=20_000).code
        (code * normal(*code.shape, seed=7)).sum().backward()
        gradients.append((x.grad, D.weight.grad, beta.grad))
    for one, other in zip(*gradients, strict=True):
        assert other.norm() > 1e-3 and (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize(
    ("kind", "filters", "shape"),
    [("scaled circular", (2, 1, 3), (1, 9)), ("[I 2-D]", (4, 2, 3, 3), (2, 6, 5))],
)
def test_a_dictionary_without_a_cheap_inverse_is_refused_with_the_way_out(kind, filters, shape):
    assert kind in DICTIONARIES
    with pytest.raises(ValueError, match=r"ADMM has no fast way .* FISTA\(\)"):
        pn.solve(normal(1, *shape), dictionary_of(kind, unit(*filters)), 0.1, pn.ADMM())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rho": 0}, "rho is 0; expected a number > 0"),
        ({"rho": True}, "rho is True"),
        ({"relaxation": 2}, "relaxation is 2; expected a number between 0 and 2"),
        ({"adaptive_rho": 1}, "adaptive_rho is 1; expected True or False"),
    ],
)
def test_bad_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        pn.ADMM(**options)


def test_what_admm_cannot_do_is_refused():
    x, D, beta = drawn("circular")
    with pytest.raises(ValueError, match="'unrolled', which ADMM does not offer"):
        pn.solve(x, D, beta, pn.ADMM(), gradient="unrolled")
    with pytest.raises(ValueError, match=r"expected ISTA\(\) or FISTA\(\)"):
        pn.ReducedSolver(pn.ADMM())
    with pytest.raises(TypeError, match=r"pn\.ADMM\(\)"):
        pn.solve(x, D, beta, "admm")
    with pytest.raises(ValueError, match="expected None"):
        pn.multilayer_basis_pursuit(x, [D], [0.1], pn.ADMM())


def test_the_certificate_of_the_least_squares_step_is_better_than_that_of_the_sparse_copy():
    x, D, _ = drawn("circular", share=0.02)
    problem = lasso(x, D, 0.02 * pn.beta_max(x, D))
    split = pn.ADMM().split(problem)
    state = split.begin((torch.zeros_like(D.analyze(x)),))
    for _ in range(100):
        state = split(state)
    assert (2 * split.certificate(state).gap < problem.certificate(split.full_code(state)).gap).all()


@every_case
@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_the_first_code_is_the_start(name, nonnegative, ridge):
    x, D, beta = drawn(name, nonnegative)
    problem = lasso(x, D, beta, nonnegative)
    split = pn.ADMM().split(ElasticNet.of(problem, ridge) if ridge else problem)
    start = normal(*D.analyze(x).shape, seed=3)
    start = start.relu() if nonnegative else start * (start > 0.2)
    got = D.join(split.full_code(split.begin(D.split(start))))
    torch.testing.assert_close(got, start, rtol=0, atol=1e-12)
    assert torch.equal(got != 0, start != 0) and 0.2 < (start != 0).float().mean() < 0.8


@pytest.mark.parametrize("name", ["circular", "padded", "[I circular]"])
def test_rho_changes_after_every_tenth_step_and_leaves_code_and_certificate_as_they_are(name):
    x, D, beta = drawn(name)
    runs = []
    for method in (pn.ADMM(), pn.ADMM(adaptive_rho=False)):
        split = method.split(lasso(x, D, beta))
        states = [split.begin(D.split(torch.zeros_like(D.analyze(x))))]
        for _ in range(20):
            states.append(split(states[-1]))
        runs.append((split, states))
    (split, adaptive), (_, fixed) = runs
    changed = [bool((a.rho != b.rho).any()) for a, b in zip(adaptive[1:], adaptive[:-1], strict=True)]
    assert changed == [False] * 9 + [True] + [False] * 9 + [True]
    for at in (9, 10):
        got, expected = (D.join(split.full_code(run[at])) for run in (adaptive, fixed))
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        gaps = [split.certificate(run[at]).gap for run in (adaptive, fixed)]
        torch.testing.assert_close(*gaps, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(D.join(split.full_code(adaptive[12])), D.join(split.full_code(fixed[12])), rtol=1e-6)


@pytest.mark.parametrize("name", ["circular", "circular, 3 channels, dilated", "padded", "padded, stride 2"])
def test_steps_are_the_same_however_d_is_computed(name, monkeypatch):
    x, D, beta = drawn(name)
    codes = []
    for way in (lambda C, shape: C, lambda C, shape: FourierDictionary(C, shape[2:])):
        monkeypatch.setattr(admm, "in_fourier_domain", way)
        codes.append(pn.solve(x, D, beta, pn.ADMM(), max_steps=25, tol=0.0).code)
    torch.testing.assert_close(*codes, rtol=1e-9, atol=1e-11)
