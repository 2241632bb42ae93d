"""Guarantees for sparse codes of signals that move: held by searches, and vacuous where they say nothing."""

import math

import pytest
import torch

import pursuitnet as pn


def unit(atoms, features):
    weight = torch.randn(atoms, features, dtype=torch.float64)
    return pn.LinearDictionary(weight / weight.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_no_signal_within_the_encoder_gap_uses_other_columns(nonnegative):
    D, x, beta, s = unit(12, 8), torch.randn(6, 8, dtype=torch.float64), 0.6, 7
    D.weight.data *= torch.linspace(0.5, 2, 12).double()[:, None]  # atoms of any length
    code = pn.solve(x, D, beta, nonnegative=nonnegative, tol=1e-10).code
    radius, vacuous = pn.theory.encoder_gap(x, code, D, beta, s, nonnegative)
    assert not vacuous.any() and (radius > 1e-3).all()
    correlation = D.analyze(x - D.synthesize(code))
    slack = (beta - (correlation if nonnegative else correlation.abs())) / D.atom_norms()
    outside = slack >= slack.sort(dim=1).values[:, s : s + 1]
    moved_out = 0
    for _ in range(6):
        off = torch.nn.functional.normalize(torch.randn_like(x), dim=1)
        for share, count in ((0.999, False), (30.0, True)):
            found = pn.solve(x + share * radius[:, None] * off, D, beta, nonnegative=nonnegative, tol=1e-8).code
            used = int(((found.abs() > 1e-6) & outside).sum())
            moved_out += used if count else 0
            assert count or used == 0
    assert moved_out > 0


def test_the_encoder_gap_pays_for_the_gap_of_the_code():
    D, x = unit(12, 8), torch.randn(5, 8, dtype=torch.float64)
    best, rough = (pn.solve(x, D, 0.6, max_steps=n, tol=0.0) for n in (2000, 3))
    values = [pn.theory.encoder_gap(x, found.code, D, 0.6, 7).value for found in (best, rough)]
    assert (values[1] < values[0]).all()
    off = (2 * rough.gap * rough.objective).sqrt()
    correlation = D.analyze(x - D.synthesize(rough.code)).abs()
    expected = (0.6 - correlation).sort(dim=1).values[:, 7] - off
    torch.testing.assert_close(values[1], expected.clamp(min=0))


def test_where_the_encoder_gap_says_nothing_it_says_vacuous():
    D, x = unit(12, 8), torch.randn(3, 8, dtype=torch.float64)
    code = pn.solve(x, D, 0.05, tol=1e-9).code
    found = pn.theory.encoder_gap(x, code, D, 0.05, 1)  # more columns than one are in use
    assert found.vacuous.all() and (found.value == 0).all() and found.words() == ["vacuous"] * 3
    conv = pn.ConvDictionary(torch.randn(3, 1, 3, 3), padding=1)
    images = torch.randn(2, 1, 5, 5)
    sure = pn.theory.encoder_gap(images, pn.solve(images, conv, 4.0).code, conv, 4.0, 60)
    assert sure.value.shape == (2,) and "vacuous" not in sure.words()
    with pytest.raises(ValueError, match="nonzeros is 75; expected a whole number from 0 to 74"):
        pn.theory.encoder_gap(images, torch.zeros(2, 3, 5, 5), conv, 4.0, 75)


def test_layered_basis_pursuit_stays_within_its_bound():
    D = pn.LinearDictionary(torch.cat([torch.eye(16).double(), hadamard(16) / 4]))
    mu = pn.theory.mutual_coherence(D)
    assert mu == pytest.approx(0.25)
    code = torch.zeros(8, 32, dtype=torch.float64)
    code[torch.arange(8), torch.arange(8) * 4] = 1.0
    noise = torch.nn.functional.normalize(torch.randn(8, 16, dtype=torch.float64), dim=1) * 0.02
    error, vacuous = pn.theory.layered_pursuit_bound(0.02, [pn.theory.stripe_norm(code, D)], [mu])
    assert not vacuous.any() and error.shape == (1, 8)
    found = pn.solve(D.synthesize(code) + noise, D, 4 * 0.02, tol=1e-10).code
    off = (found - code).norm(dim=1)
    assert (off <= error[0]).all() and (off > 0.1 * error[0]).any()
    assert ((found.abs() > 1e-6) <= (code != 0)).all()


def test_the_layered_bound_multiplies_and_ends_where_its_condition_does():
    found = pn.theory.layered_pursuit_bound(torch.tensor([0.1, 0.2]), [1, 2, 50], [0.1, 0.05, 0.2])
    torch.testing.assert_close(found.value[0], torch.tensor([0.75, 1.5]).double())
    torch.testing.assert_close(found.value[1], torch.tensor([0.75, 1.5]).double() * 7.5 * math.sqrt(2))
    assert found.vacuous.tolist() == [[False] * 2, [False] * 2, [True] * 2] and found.value[2].isinf().all()
    assert found.words()[-1] == "vacuous" and found.words()[0] == "0.75"
    with pytest.raises(ValueError, match="there are 1 stripe norms and 2 coherences"):
        pn.theory.layered_pursuit_bound(0.1, [1], [0.1, 0.2])


def hadamard(n):
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < n:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H
