"""Dropout and batch normalization as sparse coding, as docs/guide/dropout-and-batch-norm.md says, by enumeration."""

import itertools

import pytest
import torch
from makers import normal, uniform
from sklearn.linear_model import ElasticNet
from torch import nn

import pursuitnet as pn


def expectation(D, x, code, p, groups):
    """E ½‖x − D·(m ∘ Γ)/p‖² over all masks, by the matrix; entries of one group are dropped together."""
    matrix, total = D.matrix(x.shape[1:]).detach(), 0.0
    for kept in itertools.product((0, 1), repeat=int(groups.max()) + 1):
        m = torch.tensor(kept, dtype=torch.float64)
        chance = p ** m.sum() * (1 - p) ** (len(m) - m.sum())
        residual = x.flatten() - matrix @ (code.flatten() * m[groups] / p)
        total += chance * 0.5 * residual.square().sum()
    return total


@pytest.mark.parametrize("p", [0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    ("D", "shape"),
    [
        (pn.LinearDictionary(normal(7, 4)), (1, 4)),
        (pn.ConvDictionary(normal(2, 1, 3), padding=1), (1, 1, 4)),
        (pn.ConvDictionary(normal(2, 2, 2, 2), stride=2), (1, 2, 4, 4)),
    ],
    ids=["matrix", "convolution with borders", "strided convolution"],
)
def test_dropout_is_an_elastic_net_with_the_squared_lengths_of_the_atoms(D, shape, p):
    x = normal(*shape, seed=1)
    norms = D.atom_norms(x.shape).detach()
    code = normal(*norms.shape, seed=2)
    ridge = (1 - p) / (2 * p) * (norms.square() * code.square()).sum()
    closed = 0.5 * (x - D.synthesize(code, x.shape)).square().sum() + ridge
    averaged = expectation(D, x, code, p, torch.arange(code.numel()))
    assert float(closed.detach()) == pytest.approx(float(averaged), rel=1e-12)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_dropping_whole_channels_charges_what_each_atom_explains_in_the_image(p):
    D, x = pn.ConvDictionary(normal(4, 1, 3), padding=1), normal(1, 1, 6, seed=1)
    code = normal(1, 4, 6, seed=2)
    alone = [D.synthesize(code * (torch.arange(4) == j).view(1, 4, 1), x.shape) for j in range(4)]
    ridge = (1 - p) / (2 * p) * sum(part.square().sum() for part in alone)
    closed = 0.5 * (x - D.synthesize(code, x.shape)).square().sum() + ridge
    averaged = expectation(D, x, code, p, torch.arange(4).repeat_interleave(6))
    assert float(closed.detach()) == pytest.approx(float(averaged), rel=1e-12)


def test_the_average_of_pytorchs_dropout_comes_near():
    torch.manual_seed(0)
    D, x, code = pn.LinearDictionary(normal(7, 4)), normal(1, 4, seed=1), normal(1, 7, seed=2)
    dropped = nn.functional.dropout(code.expand(40_000, -1), 1 - 0.6, training=True)
    errors = 0.5 * (x - D.synthesize(dropped, (40_000, 4))).square().sum(1).detach()
    exact = expectation(D, x, code, 0.6, torch.arange(7))
    assert abs(float(errors.mean() - exact)) < 4 * float(errors.std()) / 200


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_the_taller_dictionary_has_scikit_learns_elastic_net(p):
    weight = nn.functional.normalize(normal(9, 6))  # scikit-learn has one ridge for all atoms
    D, x, beta = pn.LinearDictionary(weight), normal(1, 6, seed=1), 0.05
    lengths = D.atom_norms(x.shape).detach().flatten()
    taller = pn.LinearDictionary(torch.cat([weight, ((1 - p) / p) ** 0.5 * lengths.diag()], 1))
    code = pn.solve(torch.cat([x, torch.zeros(1, 9)], 1), taller, beta, max_steps=5000, tol=1e-12).code
    l1, l2 = beta / 6, (1 - p) / p / 6  # its objective is divided by the number of rows
    fit = ElasticNet(l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-14, max_iter=100_000)
    expected = fit.fit(weight.T.numpy(), x.flatten().numpy()).coef_
    assert code.detach().flatten().numpy() == pytest.approx(expected, abs=1e-6)


def test_batch_normalization_in_evaluation_is_another_threshold_on_longer_atoms():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(2, 5, 3, bias=False).double(), nn.BatchNorm2d(5).double().eval()
    with torch.no_grad():
        for values, low, high in ((norm.running_var, 0.3, 2), (norm.running_mean, -0.2, 0.2), (norm.weight, 0.5, 1.5)):
            values.uniform_(low, high)
        norm.bias.uniform_(-0.3, 0.3)
    x = uniform(0, 1, 2, 2, 6, 6)
    a = norm.weight / (norm.running_var + norm.eps).sqrt()
    b = norm.bias - a * norm.running_mean
    longer = pn.ConvDictionary((conv.weight * a.view(-1, 1, 1, 1)).detach())
    threshold = pn.nonnegative_threshold(longer.analyze(x), -b.view(-1, 1, 1))
    same = a.view(-1, 1, 1) * pn.nonnegative_threshold(conv(x), (-b / a).view(-1, 1, 1))
    expected = torch.relu(norm(conv(x)))
    assert torch.allclose(threshold, expected, atol=1e-12) and torch.allclose(same, expected, atol=1e-12)
    (layer,) = pn.inspect(nn.Sequential(conv, norm, nn.ReLU()), x).interpreted_layers
    assert torch.allclose(layer.raw_beta * layer.step, -b, atol=1e-12)
    assert torch.allclose(layer.dictionary.weight * layer.step, longer.weight, atol=1e-12)
