"""Convolutions in the frequency domain: equal to the direct ones to rounding, and taken where the filters are large."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import DICTIONARIES, Circular, Conv, normal, unit

import pursuitnet as pn
from pursuitnet.dictionaries.fourier import FourierDictionary, in_fourier_domain
from pursuitnet.dictionaries.torus import fast_length

CONVOLUTIONS = [name for name, (kind, _) in DICTIONARIES.items() if isinstance(kind, Conv | Circular)]
CONVOLUTION = st.tuples(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2), st.integers(0, 4)),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 3),
    st.integers(1, 3),
)


def assert_the_same(D, shape, rtol=1e-11):
    fourier = FourierDictionary(D, shape[1:])
    x = normal(2, *shape, seed=1)
    code = normal(*D.analyze(x).shape, seed=2)
    scale = float(D.weight.detach().norm())
    torch.testing.assert_close(fourier.analyze(x), D.analyze(x).detach(), rtol=0, atol=rtol * scale * float(x.norm()))
    model = D.synthesize(code, x.shape).detach()
    torch.testing.assert_close(fourier.synthesize(code, x.shape), model, rtol=0, atol=rtol * scale * float(code.norm()))
    left, right = (fourier.analyze(x) * code).sum(), (x * fourier.synthesize(code, x.shape)).sum()
    torch.testing.assert_close(left, right, rtol=0, atol=rtol * scale * float(x.norm() * code.norm()))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_convolution_of_the_list_is_the_same_in_the_frequency_domain(name):
    kind, shapes = DICTIONARIES[name]
    D = kind.make()
    for shape in shapes:
        assert_the_same(D, shape)
    fourier = FourierDictionary(D, shapes[0][1:])
    assert torch.equal(fourier.lipschitz_bound(), D.lipschitz_bound())
    assert torch.equal(fourier.atom_norms(shapes[0]), D.atom_norms(shapes[0]))
    chosen = torch.arange(2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(fourier.columns(chosen, shapes[0]), D.columns(chosen, shapes[0]), strict=False)
    )


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(CONVOLUTION, st.booleans())
def test_any_convolution_is_the_same_and_its_directions_are_adjoint(drawn, periodic):
    axes, atoms, channels = drawn
    kernel, stride, padding, dilation, extra = ([axis[i] for axis in axes] for i in range(5))
    weight = normal(atoms, channels, *kernel)
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if periodic:
        assert_the_same(
            pn.CircularDictionary(weight, dilation), (channels, *(n + e for n, e in zip(least, extra, strict=False)))
        )
    else:
        size = [max(1, n - 2 * p) + e for n, p, e in zip(least, padding, extra, strict=True)]
        assert_the_same(pn.ConvDictionary(weight, stride, padding, dilation), (channels, *size))


@pytest.mark.parametrize(
    ("D", "dtype"),
    [
        (pn.CircularDictionary(unit(4, 1, 19, 19)), torch.float32),
        (pn.ConvDictionary(unit(4, 1, 15, 15), 1, 7), torch.float64),
    ],
)
def test_codes_of_large_filters_are_the_same_to_rounding(D, dtype, monkeypatch):
    D, x = D.to(dtype).requires_grad_(False), normal(1, 1, 25, 22, seed=1).to(dtype)
    fast = in_fourier_domain(D, x.shape)
    assert isinstance(fast, FourierDictionary) and fast.synthesis
    beta = 0.3 * pn.beta_max(x, D)
    options = {"max_steps": 8, "tol": 0.0}
    here = [pn.solve(x, D, beta, solver, **options) for solver in (pn.FISTA(), pn.WorkingSet())]
    monkeypatch.setattr("pursuitnet.problems.lasso.in_fourier_domain", lambda dictionary, shape: dictionary)
    there = [pn.solve(x, D, beta, solver, **options) for solver in (pn.FISTA(), pn.WorkingSet())]
    rounding = 1e4 * torch.finfo(dtype).eps
    for one, other in zip(here, there, strict=True):
        torch.testing.assert_close(one.objective, other.objective, rtol=rounding, atol=0)
    torch.testing.assert_close(here[0].code, there[0].code, rtol=0, atol=rounding)


def test_it_is_taken_where_the_filters_are_large_and_for_what_the_library_knows():
    def taken(D, size=64):
        inner = in_fourier_domain(D, (1, D.channels, size, size))
        inner = inner.dictionary if isinstance(inner, pn.WithIdentity) else inner
        return isinstance(inner, FourierDictionary)

    class Own(pn.ConvDictionary):
        """Computes in a way of its own."""

    for make in (pn.CircularDictionary, lambda w: pn.ConvDictionary(w, padding=w.shape[-1] // 2)):
        assert taken(make(torch.ones(32, 1, 19, 19))) and not taken(make(torch.ones(32, 1, 3, 3)))
        assert not taken(make(torch.ones(32, 64, 5, 5)))  # whose direct synthesis uses all of a vector unit
        assert taken(pn.WithIdentity(make(torch.ones(32, 1, 19, 19))))
    partly = in_fourier_domain(pn.CircularDictionary(torch.ones(32, 5, 9, 9)), (1, 5, 64, 64))
    assert partly.synthesis and not partly.analysis  # five channels waste most of a vector unit
    assert not taken(pn.CircularDictionary(torch.ones(32, 1, 9, 9)))  # one channel does not, in blocks of pixels
    assert not taken(pn.ConvDictionary(torch.ones(32, 1, 19, 19), groups=4))
    assert not taken(Own(torch.ones(32, 1, 19, 19)))


def test_gradients_of_large_filters_reach_the_weights():
    weight, x = unit(4, 1, 15, 15), normal(1, 1, 16, 17, seed=1)
    gradients = []
    for mode in ("implicit", "unrolled"):
        D = pn.CircularDictionary(weight.clone())
        assert isinstance(in_fourier_domain(D, x.shape), FourierDictionary)
        code = pn.solve(x, D, 0.5 * pn.beta_max(x, D), gradient=mode, tol=1e-12, max_steps=5000).code
        (code * normal(*code.shape, seed=7)).sum().backward()
        gradients.append(D.weight.grad)
    assert gradients[1].norm() > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_fast_lengths_have_small_factors():
    assert [fast_length(n) for n in (1, 7, 11, 13, 17, 31, 121, 257)] == [1, 8, 12, 15, 18, 32, 125, 270]
