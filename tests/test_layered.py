"""The multi-layer model: Algorithm 1, layered basis pursuit, and all layers at once, against explicit matrices."""

import re

import pytest
import torch
from makers import normal

import pursuitnet as pn
from pursuitnet.problems.lasso import lasso
from pursuitnet.problems.loop import iterate
from pursuitnet.problems.multilayer import MultiLayerLasso

pytestmark = pytest.mark.filterwarnings("ignore::pursuitnet.ConvergenceWarning")  # many are stopped early on purpose


def model(depth=3):
    """Dictionaries that fit together (convolutions and [I D]), and a batch of two signals."""
    dictionaries = [
        pn.ConvDictionary(normal(4, 1, 3, 3, seed=1) / 3, padding=1),
        pn.ConvDictionary(normal(5, 4, 2, 2, seed=2) / 4, stride=2),
        pn.WithIdentity(pn.ConvDictionary(normal(3, 5, 3, 3, seed=3) / 5, padding=1)),
    ]
    return normal(2, 1, 4, 4, seed=4), dictionaries[:depth], [0.3, 0.15, torch.full((8,), 0.2)][:depth]


def matrices(x, dictionaries):
    found, shape = [], x.shape
    for D in dictionaries:
        found.append(D.matrix(shape).detach())
        shape = D.analyze(torch.zeros(shape, dtype=x.dtype)).shape
    return found


def objective(x, dictionaries, betas, deepest):
    """½‖X − D₁Γ₁‖² + Σβᵢ‖Γᵢ‖₁ with Γᵢ₋₁ = DᵢΓᵢ, by explicit matrices."""
    code, total = deepest.flatten(1), 0.0
    for M, beta in reversed(list(zip(matrices(x, dictionaries), betas, strict=True))):
        total = total + float(torch.as_tensor(beta).max()) * code.abs().sum(1)
        code = code @ M.T
    return total + 0.5 * (x.flatten(1) - code).square().sum(1)


def problem(x, dictionaries, betas):
    layers, signal = [], x
    for D, beta in zip(dictionaries, betas, strict=True):
        layers.append(lasso(signal, D, beta))
        signal = torch.zeros_like(D.analyze(signal)).detach()
    return MultiLayerLasso(x, tuple(layers))


@pytest.mark.parametrize("nonnegative", [False, True])
def test_layered_thresholding_is_algorithm_1(nonnegative):
    x, dictionaries, _ = model()
    thresholds, expected = [0.3, 0.2, 0.1], x.flatten(1)
    codes = pn.layered_thresholding(x, dictionaries, thresholds, nonnegative)
    for M, b, code in zip(matrices(x, dictionaries), thresholds, codes, strict=True):
        z = expected @ M
        expected = (z - b).clamp(min=0) if nonnegative else z.sign() * (z.abs() - b).clamp(min=0)
        assert 0.05 < float((expected != 0).double().mean()) < 0.95
        torch.testing.assert_close(code.flatten(1), expected)


def test_layered_thresholding_is_differentiable():
    x, dictionaries, _ = model()
    pn.layered_thresholding(x.requires_grad_(), dictionaries, [0.1] * 3)[-1].sum().backward()
    assert float(x.grad.abs().sum()) > 0
    assert all(float(next(D.parameters()).grad.abs().sum()) > 0 for D in dictionaries)


def test_layered_basis_pursuit_solves_one_layer_after_the_other():
    x, dictionaries, betas = model()
    found = pn.layered_basis_pursuit(x, dictionaries, betas, tol=1e-9, max_steps=20_000)
    signal = x
    for D, beta, solution in zip(dictionaries, betas, found, strict=True):
        assert solution.converged
        assert 0.05 < float((solution.code != 0).double().mean()) < 0.95
        torch.testing.assert_close(solution.objective, objective(signal, [D], [beta], solution.code).detach())
        correlation = D.analyze(signal - D.synthesize(solution.code, signal.shape)).detach()
        assert float(correlation.abs().max()) <= float(torch.as_tensor(beta).max()) * (1 + 1e-3)
        signal = solution.code


def test_one_layer_at_once_is_solve():
    x, dictionaries, betas = model(1)
    betas = [0.6]
    expected = pn.solve(x, dictionaries[0], betas[0], tol=1e-10, max_steps=20_000)
    for solver in (None, pn.ISTA(), pn.FISTA()):
        found = pn.multilayer_basis_pursuit(x, dictionaries, betas, solver, tol=1e-3, max_steps=20_000)
        assert found.converged
        torch.testing.assert_close(found.objective, expected.objective, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("depth", "nonnegative"), [(2, True), (3, False)])
def test_all_layers_at_once_reach_the_certified_minimum(depth, nonnegative):
    x, dictionaries, betas = model(depth)
    found = pn.multilayer_basis_pursuit(x, dictionaries, betas, None, nonnegative, tol=1e-3, max_steps=2000)
    assert found.converged
    assert 0.05 < float((found.code != 0).double().mean()) < 0.95
    assert not nonnegative or float(found.code.min()) >= 0
    torch.testing.assert_close(found.objective, objective(x, dictionaries, betas, found.code).detach())
    for seed in range(20):
        nearby = found.code + 1e-2 * normal(*found.code.shape, seed=seed) * (found.code != 0)
        nearby = nearby.clamp(min=0) if nonnegative else nearby
        value = objective(x, dictionaries, betas, nearby).detach()
        assert (value >= found.objective * (1 - found.gap)).all()


def test_the_bound_of_any_sweep_is_below_the_minimum():
    x, dictionaries, betas = model()
    minimum = pn.multilayer_basis_pursuit(x, dictionaries, betas, tol=1e-3, max_steps=2000).objective
    deepest = dictionaries[-1].analyze(pn.layered_thresholding(x, dictionaries[:-1], [0, 0])[-1])
    proven = 0
    for seed in range(20):
        code = dictionaries[-1].split(normal(*deepest.shape, seed=seed) * 10.0 ** (-seed % 5 - 1))
        value, gap, _ = problem(x, dictionaries, betas).certificate(code)
        assert (value * (1 - gap) <= minimum * (1 + 1e-12)).all()
        assert (value >= minimum * (1 - 1e-3)).all()
        proven += int((gap < 1).sum())
    assert proven


def test_sweeps_of_ista_and_fista_are_those_that_the_network_unrolls():
    x, dictionaries, betas = model()
    layers = []
    for D, beta in zip(dictionaries, betas, strict=True):
        threshold = pn.Threshold(D.code_channels, float(torch.as_tensor(beta).max()), nonnegative=False)
        layers.append(pn.PursuitLayer(D, step=pn.BoundedStep(1.0, learned=False), threshold=threshold))
    for solver in (pn.ISTA(), pn.FISTA()):
        network = pn.MultiLayerPursuit(layers, solver, unfolding=6).double().eval()
        deepest = x
        for layer in layers:
            deepest = layer(deepest)
        begin = dictionaries[-1].split(deepest)  # the network begins at the feed-forward code
        run = iterate(problem(x, dictionaries, betas), solver, begin, 6, 0.0, restart=False)
        torch.testing.assert_close(dictionaries[-1].join(run.code), network(x), rtol=1e-6, atol=1e-7)


BAD_INPUT = {
    "counts": (lambda x, D: pn.layered_basis_pursuit(x, D, [0.1]), ["3 dictionaries and 1 betas", "the same number"]),
    "none": (lambda x, D: pn.layered_thresholding(x, [], []), ["0 dictionaries", "≥ 1"]),
    "order": (
        lambda x, D: pn.multilayer_basis_pursuit(x, D[::-1], [0.1] * 3),
        ["dictionary 1 has codes of 8 channels", "4 channels", "expected the same"],
    ),
    "negative": (lambda x, D: pn.layered_thresholding(x, D, [0.1, -1, 0.1]), ["-1", "≥ 0"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_answered_with_what_came_and_what_was_expected(case):
    act, words = BAD_INPUT[case]
    x, dictionaries, _ = model()
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        act(x, dictionaries)
    assert all(word in str(error.value) for word in words)
