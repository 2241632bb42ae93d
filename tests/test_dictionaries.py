"""One contract for every dictionary: an entry in the list of makers.py inherits all of these tests.

The route to compare with is an explicit matrix, written tap by tap, in float64.
"""

import copy
import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from makers import DICTIONARIES, Conv, Identity, Linear, normal

import pursuitnet as pn
from pursuitnet.dictionaries import blocks

every_dictionary = pytest.mark.parametrize("name", DICTIONARIES)
CONVOLUTIONS = [name for name, (spec, _) in DICTIONARIES.items() if spec.make().dims]


def made(name, dtype=torch.float64):
    spec, shapes = DICTIONARIES[name]
    return spec, spec.make(dtype), shapes


def rounding(name):
    """Of entries that are sums of several products, in another order."""
    return 1e-13 if "composed" in name else 1e-14 if "reflecting" in name else 0


def draws(D, shape, batch=3):
    """A batch of random signals and a batch of random codes for them."""
    x = normal(batch, *shape, seed=1)
    return x, normal(*D.analyze(x).shape, seed=2)


def assert_adjoint(D, x, code):
    analysed, synthesised = D.analyze(x).detach(), D.synthesize(code, x.shape).detach()
    assert synthesised.shape == x.shape
    error = abs(float((analysed * code).sum() - (x * synthesised).sum()))
    assert error <= 1e-12 * max(float(analysed.norm() * code.norm()), float(x.norm() * synthesised.norm()))


@every_dictionary
def test_synthesize_is_the_adjoint_of_analyze(name):
    _, D, shapes = made(name)
    for shape in shapes:
        assert_adjoint(D, *draws(D, shape))


@every_dictionary
def test_both_directions_and_matrix_are_those_of_the_explicit_matrix(name):
    spec, D, shapes = made(name)
    for shape in shapes[:-1] or shapes:
        expected, (x, code) = spec.matrix(shape), draws(D, shape)
        assert code.shape[1] == sum(D.code_channels)
        summed = rounding(name)
        torch.testing.assert_close(D.matrix(x.shape), expected, rtol=summed, atol=summed)
        torch.testing.assert_close(D.analyze(x).flatten(1), x.flatten(1) @ expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            D.synthesize(code, x.shape).flatten(1), code.flatten(1) @ expected.T, rtol=1e-12, atol=1e-12
        )


@every_dictionary
def test_columns_and_norms_are_those_of_the_explicit_matrix(name):
    spec, D, shapes = made(name)
    for shape in shapes[:-1] or shapes:
        expected = spec.matrix(shape)
        chosen = torch.randint(expected.shape[1], (7,), generator=torch.Generator().manual_seed(3))
        places, values = D.columns(chosen, shape)
        columns = torch.zeros(7, len(expected), dtype=torch.float64).scatter_add(1, places, values.detach())
        summed = rounding(name)
        torch.testing.assert_close(columns.T, expected[:, chosen], rtol=summed, atol=summed)
        norms = D.atom_norms(shape).detach()
        assert norms.shape == D.analyze(normal(1, *shape)).shape
        torch.testing.assert_close(norms.flatten(), expected.norm(dim=0))


@pytest.mark.parametrize("name", ["composed matrix", "composed 1-D", "composed 2-D / 2 / 3", "composed circular"])
def test_the_effective_dictionary_is_the_composed_one(name):
    spec, D, shapes = made(name)
    one = D.effective()
    for shape in shapes[1:-1] or shapes:
        torch.testing.assert_close(one.matrix(shape), spec.matrix(shape))
    bound = D.lipschitz_bound()
    assert bound <= (1 + 1e-9) * torch.stack([layer.lipschitz_bound() for layer in D.layers]).prod()
    gradients = torch.autograd.grad(bound, [layer.weight for layer in D.layers])
    assert all(float(gradient.norm()) > 0 for gradient in gradients)


@pytest.mark.parametrize("name", ["composed 2-D, padded twice", "composed reflecting", "composed [I D]"])
def test_layers_that_cut_off_what_lies_outside_are_not_one_layer(name):
    with pytest.raises(ValueError, match="; expected"):
        made(name)[1].effective()


@st.composite
def convolutions(draw):
    """A convolution in 1 to 3 dimensions with a signal that is large enough for it."""
    axis = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3), st.integers(0, 4))
    axes = draw(st.lists(axis, min_size=1, max_size=3))
    atoms, channels = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel, stride, padding, dilation, extra = zip(*axes, strict=True)
    size = [max(1, d * (k - 1) + 1 - 2 * p) + e for k, p, d, e in zip(kernel, padding, dilation, extra, strict=True)]
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return Conv((atoms, channels, *kernel), options), (channels, *size)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(convolutions())
def test_any_convolution_is_its_explicit_matrix_in_both_directions(drawn):
    spec, shape = drawn
    D = spec.make()
    x, code = draws(D, shape, batch=2)
    assert_adjoint(D, x, code)
    assert code.shape[2:] == D.code_size(x.shape)
    if code[0].numel() * x[0].numel() < 20_000:
        expected = x.flatten(1) @ spec.matrix(shape)
        torch.testing.assert_close(D.analyze(x).flatten(1), expected, rtol=1e-12, atol=1e-12)


@every_dictionary
def test_lipschitz_is_the_largest_eigenvalue_and_its_bound_is_above_it(name):
    _, D, shapes = made(name)
    bound = float(D.lipschitz_bound().detach())
    for shape in shapes:
        with torch.no_grad():
            M = D.matrix(shape)
        gram = M @ M.T if len(M) < len(M.T) else M.T @ M
        expected = float(torch.linalg.eigvalsh(gram)[-1])
        assert D.lipschitz(shape) == pytest.approx(expected, rel=1e-9)
        assert expected <= bound * (1 + 1e-12)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_lipschitz_bound_holds_for_large_signals(name):
    _, D, shapes = made(name)
    size = {1: (128,), 2: (25, 27), 3: (9, 8, 9)}[D.dims]
    smaller, larger = D.lipschitz(shapes[0]), D.lipschitz((D.channels, *size))
    if "reflecting" not in name:  # where a small signal may be the worst: its filters fold more than once
        assert smaller * (1 - 1e-9) <= larger
    assert max(smaller, larger) <= (1 + 1e-9) * float(D.lipschitz_bound().detach())


@pytest.mark.parametrize("taps", [3, 4, 5, 7])
def test_lipschitz_bound_holds_for_a_spectrum_that_peaks_between_its_grid_points(taps):
    degree = taps - 1
    for peak in range(3 * degree):
        phase = 2 * math.pi * (peak + 0.5) / (8 * degree) * torch.arange(taps, dtype=torch.float64)
        D = pn.ConvDictionary(torch.stack([phase.cos(), phase.sin()]).unsqueeze(1))
        assert D.lipschitz((1, 90)) <= float(D.lipschitz_bound().detach())


@pytest.mark.parametrize(
    ("weight_shape", "options"),
    [
        ((1, 1, 3, 3), {}),
        ((8, 3, 3, 3), {}),
        ((16, 16, 3, 3), {"dilation": 2}),
        ((32, 3, 3, 3), {}),
        ((8, 3, 4, 4), {"stride": 2}),
        ((4, 2, 3, 3), {"stride": 3}),
    ],
)
def test_lipschitz_bound_is_close_for_random_filters(weight_shape, options):
    D = Conv(weight_shape, {"padding": 1, **options}).make()
    ratio = float(D.lipschitz_bound().detach()) / D.lipschitz((weight_shape[1], 32, 32))
    assert 1 <= ratio < 1.6


@pytest.mark.parametrize(("taps", "size"), [((1, 0, 0), (9,)), ((1, 0, 0), (3,)), ((1, 0, 0, 0, 0), (9,))])
@pytest.mark.parametrize("dims", [1, 2])
def test_the_lipschitz_bound_of_a_reflecting_dictionary_is_attained(taps, size, dims):
    """A shift reads the pixels near the border twice along each axis."""
    one = torch.tensor(taps, dtype=torch.float64)
    weight = one if dims == 1 else one[:, None] * one
    D = pn.ReflectingDictionary(weight[None, None])
    assert D.lipschitz((1, *size * dims)) == pytest.approx(2**dims, rel=1e-9)
    assert 2**dims <= float(D.lipschitz_bound().detach()) <= 1.2 * 2**dims


@pytest.mark.parametrize("size", [100, 600])
def test_lipschitz_of_a_dictionary_of_zeros_is_zero(size):
    D = pn.ConvDictionary(torch.zeros(2, 1, 3))
    assert D.lipschitz((1, size)) == 0
    assert float(D.lipschitz_bound().detach()) == 0


@pytest.mark.parametrize(("features", "atoms"), [(3, 5), (5, 3)])
def test_identity_beside_a_matrix_adds_one_to_its_largest_eigenvalue(features, atoms):
    """Lemma 3, of what is written down and not of what the dictionary says of itself."""
    kind = Identity(Linear((atoms, features)))
    eigenvalues = torch.linalg.eigvalsh(kind.matrix((features,)) @ kind.matrix((features,)).T)
    D, inner = kind.make(), kind.inner.make()
    assert D.lipschitz() == pytest.approx(float(eigenvalues[-1]), rel=1e-12)
    assert float(D.lipschitz_bound().detach()) == pytest.approx(1 + float(inner.lipschitz_bound().detach()), rel=1e-14)


@pytest.mark.parametrize("name", [name for name in DICTIONARIES if name != "long matrix"])
def test_gradients_with_respect_to_input_and_weight(name):
    _, D, shapes = made(name)
    x, code = (t.requires_grad_() for t in draws(D, shapes[0], batch=2))
    weight = next(p for p in D.parameters() if p.dim() > 1)
    assert torch.autograd.gradcheck(lambda x, weight: D.analyze(x), (x, weight), fast_mode=True)
    assert torch.autograd.gradcheck(lambda code, weight: D.synthesize(code, x.shape), (code, weight), fast_mode=True)


@every_dictionary
def test_dtype_is_kept_and_lipschitz_is_exact_in_both(name):
    _, reference, shapes = made(name)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        D, shape = made(name, dtype)[1], shapes[0]
        x, code = draws(reference, shape)
        for got, expected in (
            (D.analyze(x.to(dtype)), reference.analyze(x)),
            (D.synthesize(code.to(dtype), x.shape), reference.synthesize(code, x.shape)),
            (D.matrix(shape), reference.matrix(shape)),
            (D.lipschitz_bound(), reference.lipschitz_bound()),
        ):
            assert got.dtype == dtype
            torch.testing.assert_close(got, expected.to(dtype), rtol=tolerance, atol=tolerance)
        singular = torch.linalg.svdvals(D.matrix(shape).double().detach())
        computed = any(word in name for word in ("scaled", "reflecting", "composed"))
        rounded = 1e-6 if computed else 1e-9  # of entries that are computed, in single precision
        assert D.lipschitz(shape) == pytest.approx(float(singular[0]) ** 2, rel=rounded)
        assert {p.dtype for p in D.parameters()} == {dtype}  # measuring leaves it as it was


@every_dictionary
def test_parts_join_to_the_code_and_are_views_of_it(name):
    _, D, shapes = made(name)
    x, code = draws(D, shapes[0])
    parts = D.split(code)
    assert tuple(p.shape[1] for p in parts) == D.code_channels
    assert all(p.untyped_storage().data_ptr() == code.untyped_storage().data_ptr() for p in parts)
    assert torch.equal(D.join(parts), code)
    assert torch.equal(D.join(D.analyze_parts(x)), D.analyze(x))
    assert torch.equal(D.synthesize_parts(parts, x.shape), D.synthesize(code, x.shape))


@every_dictionary
def test_signal_shape_is_taken_with_and_without_the_batch(name):
    _, D, shapes = made(name)
    shape = shapes[0]
    forms = [shape, [*shape], (5, *shape), torch.Size((1, *shape)), *([None] if D.dims == 0 else [])]
    for form in forms:
        assert torch.equal(D.matrix(form), D.matrix(shape))
        assert D.lipschitz(form) == D.lipschitz(shape)


def conv(*shape, **options):
    return Conv(shape, options).make()


def linear(*shape):
    return Linear(shape).make()


# what is done, and what the message has to say: what came, then what was expected (or the other way round)
BAD_INPUT = {
    "matrix weight 1-D": (lambda: pn.LinearDictionary(normal(3)), ["(3,)", "(atoms, features)"]),
    "conv weight 2-D": (lambda: conv(3, 2), ["(3, 2)", "1 to 3 kernel axes"]),
    "conv weight 6-D": (lambda: conv(3, 2, 1, 1, 1, 1), ["(3, 2, 1, 1, 1, 1)", "1 to 3 kernel axes"]),
    "conv weight empty": (lambda: conv(3, 0, 3), ["(3, 0, 3)", "expected"]),
    "stride 0": (lambda: conv(3, 2, 3, stride=0), ["stride is 0", "≥ 1"]),
    "stride not whole": (lambda: conv(3, 2, 3, stride=1.5), ["stride is 1.5", "integer ≥ 1"]),
    "padding negative": (lambda: conv(3, 2, 3, padding=-1), ["padding is -1", "≥ 0"]),
    "padding of wrong length": (
        lambda: conv(3, 2, 3, 3, padding=(1, 1, 1)),
        ["padding is (1, 1, 1)", "or 2 of them"],
    ),
    "dilation 0 on one axis": (lambda: conv(3, 2, 3, 3, dilation=(1, 0)), ["dilation is (1, 0)", "≥ 1"]),
    "signal channels, matrix": (lambda: linear(3, 5).analyze(normal(2, 4)), ["(2, 4)", "(B, 5)"]),
    "signal channels, conv": (
        lambda: conv(3, 2, 3).analyze(normal(2, 3, 9)),
        ["(2, 3, 9)", "(B, 2, and 1 sizes)"],
    ),
    "signal axes, matrix": (lambda: linear(3, 5).analyze(normal(5)), ["(5,)", "(B, 5)"]),
    "signal axes, conv": (lambda: conv(3, 2, 3, 3).analyze(normal(2, 9, 9)), ["(2, 9, 9)", "and 2 sizes"]),
    "signal too small": (
        lambda: conv(3, 2, 3, 3, dilation=2).analyze(normal(1, 2, 9, 4)),
        ["(9, 4)", "(5, 5)", "too small"],
    ),
    "reflected, even kernel": (lambda: pn.ReflectingDictionary(normal(3, 2, 4)), ["(3, 2, 4)", "odd"]),
    "reflected signal too small": (
        lambda: pn.ReflectingDictionary(normal(3, 2, 3, 3), dilation=4).analyze(normal(1, 2, 9, 4)),
        ["(9, 4)", "reflected by (4, 4)", "more pixels"],
    ),
    "code rows, matrix": (lambda: linear(3, 5).synthesize(normal(2, 4)), ["(2, 4)", "3)"]),
    "code axes, matrix": (lambda: linear(3, 5).synthesize(normal(2, 2, 3)), ["(2, 2, 3)", " 3)"]),
    "code rows, conv": (
        lambda: conv(3, 2, 3).synthesize(normal(1, 4, 7), (1, 2, 9)),
        ["(1, 4, 7)", "3, 7)"],
    ),
    "code size, conv": (
        lambda: conv(3, 2, 3, stride=2).synthesize(normal(1, 3, 5), (1, 2, 9)),
        ["(1, 3, 5)", "3, 4)"],
    ),
    "code axes, conv": (lambda: conv(3, 2, 3).synthesize(normal(3), (1, 2, 9)), ["(3,)", "3, 7)"]),
    "code rows, [I D]": (
        lambda: pn.WithIdentity(conv(3, 2, 3, padding=1)).synthesize(normal(1, 3, 9), (1, 2, 9)),
        ["(1, 3, 9)", "5, 9)"],
    ),
    "signal_shape channels": (
        lambda: conv(3, 2, 3).synthesize(normal(1, 3, 7), (1, 9, 9)),
        ["(1, 9, 9)", "(B, 2, and 1 sizes)"],
    ),
    "signal_shape missing": (lambda: conv(3, 2, 3).matrix(), ["signal_shape is None", "(B, 2, and 1 sizes)"]),
    "signal_shape without channels": (
        lambda: conv(3, 2, 3, 3).lipschitz((9, 9)),
        ["(9, 9)", "(B, 2, and 2 sizes)"],
    ),
    "composed of nothing": (lambda: pn.ComposedDictionary([]), ["there are no", "one or more"]),
    "composed of other channels": (
        lambda: pn.ComposedDictionary([conv(3, 2, 3), conv(3, 2, 3)]),
        ["3 channels", "2 channels", "expected the same"],
    ),
    "[I D] strided": (lambda: pn.WithIdentity(conv(3, 2, 3, stride=2, padding=1)), ["stride (2,)", "stride 1"]),
    "[I D] unpadded": (
        lambda: pn.WithIdentity(conv(3, 2, 3, 3)),
        ["padding (0, 0)", "padding (1.0, 1.0)"],
    ),
    "[I D] of even filters": (lambda: pn.WithIdentity(conv(3, 2, 4, padding=1)), ["padding (1,)", "(1.5,)"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_and_the_message_says_what_came_and_what_was_expected(case):
    action, words = BAD_INPUT[case]
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        action()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("kernel", "padding", "dilation", "channels"),
    [
        ((3, 3), 2, 2, 8),
        ((3, 3), 0, 1, 6),
        ((2, 5), (1, 2), 1, 9),
        ((1, 1), 0, 1, 6),
        ((3, 3), (5, 1), 2, 7),
        ((3, 2), 1, 1, 3),
        ((3, 3), 1, 1, 4),
    ],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of jvp itself
def test_one_atom_is_convolved_as_pytorch_does(kernel, padding, dilation, channels):
    """On CPUs it is a matrix product and a sum of shifted rows, but with wide padding or few channels."""
    signal = normal(3, channels, 7, 9).contiguous(memory_format=torch.channels_last)
    D = pn.ConvDictionary(normal(1, channels, *kernel, seed=1), 1, padding, dilation)
    code = normal(3, 1, *D.code_size(signal.shape), seed=2)
    conv, adjoint = torch.nn.functional.conv2d, torch.nn.functional.conv_transpose2d

    def results(f, given, target):
        """Values, gradients, gradients of those, forward derivatives, and a batch of batches or of nothing."""
        x = given.clone().requires_grad_()
        result = f(x)
        first = torch.autograd.grad((result * target).sum() ** 2, (x, D.weight), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (x, D.weight))
        forward = torch.func.jvp(f, (given,), (given.cos(),))[1]
        return [result, *first, *second, forward, torch.func.vmap(f)(torch.stack([given, -given])), f(given[:0])]

    pairs = [
        (D.analyze, lambda x: conv(x, D.weight, None, 1, padding, dilation), signal, code),
        (
            lambda z: D.synthesize(z, (len(z), *signal.shape[1:])),
            lambda z: adjoint(z, D.weight, None, 1, padding, 0, 1, dilation),
            code,
            signal,
        ),
    ]
    for ours, pytorchs, start, target in pairs:
        for found, expected in zip(*(results(f, start, target) for f in (ours, pytorchs)), strict=True):
            largest = expected.abs().max().item() if expected.numel() else 0
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * largest)


@pytest.mark.parametrize(
    ("channels", "kernel", "padding", "size"),
    [
        (1, (7, 7), 6, (9, 10)),  # a signal whose sides are no multiples of a block
        (1, (3, 4), (1, 0), (8, 11)),
        (2, (5, 3), (4, 2), (6, 7)),
        (3, (5, 5), 2, (9, 9)),
        (3, (3, 3), 0, (7, 8)),
        (1, (3, 4, 3), (2, 1, 0), (5, 6, 5)),
    ],
)
def test_signals_of_few_channels_are_computed_for_blocks_as_pytorch_does(channels, kernel, padding, size, monkeypatch):
    """In single precision on CPUs: D, and the gradient of Dᵀ in the signal."""
    monkeypatch.setattr(blocks, "WORTH", 0)
    signal = normal(2, channels, *size)
    D = pn.ConvDictionary(normal(5, channels, *kernel, seed=1), 1, padding)
    code, single = normal(2, 5, *D.code_size(signal.shape), seed=2), copy.deepcopy(D).float()

    def results(dictionary, start, target):
        """Values, gradients, and gradients of those."""
        x, target = (t.to(dictionary.weight.dtype, copy=True) for t in (start, target))
        x.requires_grad_()
        result = dictionary.analyze(x) if start is signal else dictionary.synthesize(x, signal.shape)
        first = torch.autograd.grad((result * target).sum() ** 2, (x, dictionary.weight), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (x, dictionary.weight))
        return result.grad_fn.name(), [result, *first, *second]

    for start, target, name in ((signal, code, "_ConvolutionBackward"), (code, signal, "_AdjointBackward")):
        (_, expected), (used, found) = results(D, start, target), results(single, start, target)
        assert used == name
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and (a.double() - b).norm() <= 1e-5 * b.norm()
    forward = torch.func.jvp(lambda z: single.synthesize(z, signal.shape), (code.float(),), (code.float(),))
    torch.testing.assert_close(forward[0], forward[1])


@pytest.mark.parametrize("direction", ["analyze", "synthesize"])
@pytest.mark.parametrize(
    ("channels", "atoms", "size", "padding", "dilation"),
    [
        *itertools.product([3, 32, 35], [8, 32], [16, 32], [None], [1, 2]),
        (35, 8, 32, None, 3),  # with 35 or 67 channels, dilated, at size 32 or 40 oneDNN's own gradient was wrong
        (35, 20, 32, None, 2),
        (67, 32, 40, 0, 2),
        (67, 32, 32, 5, 2),
    ],
)
def test_gradients_in_half_precision_are_near_those_in_double(channels, atoms, size, padding, dilation, direction):
    g, found = torch.Generator().manual_seed(0), []
    signal, weight = torch.rand(2, channels, size, size, generator=g), torch.randn(atoms, channels, 3, 3, generator=g)
    padding = dilation if padding is None else padding
    code = torch.randn(2, atoms, *pn.ConvDictionary(weight, 1, padding, dilation).code_size(signal.shape), generator=g)
    for dtype in (torch.bfloat16, torch.float64):
        x, w, z = (t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (signal, weight, code))
        D = pn.ConvDictionary(w, 1, padding, dilation)
        given, target = (x, z) if direction == "analyze" else (z, x)
        given.requires_grad_()
        result = D.analyze(given) if direction == "analyze" else D.synthesize(given, signal.shape)
        assert result.shape == target.shape and result.dtype == dtype
        result.backward(target)
        found.append([t.detach().double() for t in (result, given.grad, D.weight.grad)])
    for half, double in zip(*found, strict=True):
        assert (half - double).norm() < 0.01 * double.norm()


def test_the_gradients_of_a_dense_network_in_half_precision_are_near_those_in_single():
    torch.manual_seed(0)
    model = pn.create_model("msd_csc_6", width=32, unfolding=1, norm=None).to(memory_format=torch.channels_last).train()
    x = torch.rand(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    gradients = []
    for half in (True, False):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(x)
        torch.nn.functional.cross_entropy(logits.float(), torch.arange(4)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if n.endswith("dictionary.weight")})
    for name, plain in gradients[1].items():
        assert (gradients[0][name] - plain).norm() < 0.3 * plain.norm(), name  # what bfloat16 leaves of small ones


GROUPED = [name for name in DICTIONARIES if "group" in name or "depthwise" in name]


@pytest.mark.parametrize("name", GROUPED)
def test_groups_are_filters_with_zeros_in_the_channels_of_other_groups(name):
    """Coherence, stripes, codes and matching pursuit are those of the dictionary without groups."""
    _, D, shapes = made(name)
    grouped = D.dictionary if isinstance(D, pn.WithIdentity | pn.ScaledDictionary) else D
    assert grouped.groups > 1
    options = {"dilation": grouped.dilation}
    if not isinstance(grouped, pn.CircularDictionary):
        options |= {"stride": grouped.stride, "padding": grouped.padding}
    plain = type(grouped)(grouped.dense_weight().detach(), **options)
    for shape in shapes:
        assert grouped.lipschitz(shape) == pytest.approx(plain.lipschitz(shape), rel=1e-9)
    for shape in shapes[:2]:
        assert pn.theory.mutual_coherence(grouped, shape) == pytest.approx(pn.theory.mutual_coherence(plain, shape))
        matrix = pn.LinearDictionary(grouped.matrix(shape).detach().T)
        kept = matrix.weight[matrix.weight.norm(dim=1) > 0]
        assert pn.theory.mutual_coherence(grouped, shape) == pytest.approx(
            pn.theory.mutual_coherence(pn.LinearDictionary(kept.detach()))
        )
    assert float(grouped.lipschitz_bound().detach()) <= float(plain.lipschitz_bound().detach()) * (1 + 1e-12)
    x = normal(1, *shapes[1], seed=1)
    beta = 0.5 * pn.beta_max(x, plain)
    solvers = itertools.cycle([pn.FISTA(), pn.WorkingSet(), pn.ADMM(), pn.OMP(nonzeros=3)])
    for solver in itertools.islice(solvers, GROUPED.index(name), GROUPED.index(name) + 2):
        codes = [pn.solve(x, each, beta, solver, tol=1e-11, max_steps=9000).code for each in (grouped, plain)]
        assert codes[0].any()
        torch.testing.assert_close(*codes, rtol=0, atol=1e-7)
    x.requires_grad_()
    pn.solve(x, grouped, beta, tol=1e-10, max_steps=9000).code.sum().backward()
    assert grouped.weight.grad is not None and grouped.weight.grad.shape == grouped.weight.shape


def test_the_stripe_of_an_atom_holds_those_of_its_group_only():
    D = pn.ConvDictionary(torch.ones(4, 1, 3), padding=1, groups=2)
    code = torch.zeros(2, 4, 9)
    code[0, [0, 1, 2], 4] = 1.0  # two of the first group, one of the second
    code[1, [0, 2], 4] = 1.0
    assert pn.theory.stripe_norm(code, D).tolist() == [2, 1]
    beside = pn.theory.stripe_norm(torch.cat([torch.ones(2, 2, 9), code], 1), pn.WithIdentity(D))
    assert beside.tolist() == [2 + 3, 1 + 3]


def test_a_depthwise_layer_is_that_of_pytorch_and_trains():
    D = pn.ConvDictionary(normal(4, 1, 3, 3).float() / 3, padding=1, groups=4)
    layer = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
    layer.weight.data.copy_(D.weight.detach())
    x = normal(2, 4, 6, 5, seed=1).float()
    assert torch.equal(D.analyze(x), layer(x)) and "groups=4" in repr(D)
    pursuit = pn.PursuitLayer(pn.WithIdentity(D), unfolding=2)
    pursuit(x).square().sum().backward()
    assert pursuit(x).shape == (2, 8, 6, 5) and D.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("groups", [0, 2.0, True, 3])
def test_groups_that_do_not_divide_the_atoms_are_refused(groups):
    with pytest.raises(ValueError, match=f"groups is {groups}.*expected"):
        pn.ConvDictionary(normal(4, 1, 3), groups=groups)


def test_groups_are_not_learned_together():
    D = pn.ConvDictionary(normal(4, 1, 3, 3), padding=1, groups=2)
    with pytest.raises(ValueError, match="2 groups, which are not learned together; expected groups=1"):
        pn.learn(normal(2, 2, 8, 8), D, 0.1)
