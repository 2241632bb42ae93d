"""Coherence, stripes, Lemmas 1 to 3, Definition 1 and Theorem 1, in float64.

The routes to compare with are explicit matrices, sets of cells, exhaustive searches and written-out objectives.
"""

import itertools
import math
import random
import re

import pytest
import torch
from makers import normal

import pursuitnet as pn
from pursuitnet import theory

EDGE_SIZES = {1: 10, 2: 5, 3: 3}
"""By how much a random signal may exceed the filters, by the number of axes."""


def conv(*shape, seed=0, **options):
    return pn.ConvDictionary(normal(*shape, seed=seed), **options)


def same(*shape, dilation=1, seed=0):
    padding = [dilation * (k - 1) // 2 for k in shape[2:]]
    return pn.WithIdentity(conv(*shape, seed=seed, padding=padding, dilation=dilation))


def coherence_of(D):
    """μ of an explicit matrix, without its columns of zeros."""
    D = D.detach()[:, D.detach().norm(dim=0) > 0]
    D = D / D.norm(dim=0)
    cosines = (D.T @ D).abs()
    return max((float(row[:i].max()) for i, row in enumerate(cosines) if i), default=0.0)


# Mutual coherence


def random_filters(rng, dims, circular):
    """Filters in ``dims`` dimensions, now and then with zero taps, and a signal shape that is large enough."""
    axes = [[rng.randint(*r) for r in ((1, 4), (1, 3), (0, 3), (1, 3), (0, EDGE_SIZES[dims]))] for _ in range(dims)]
    kernel, stride, padding, dilation, extra = zip(*axes, strict=True)
    padding = [0] * dims if circular else padding
    size = [max(1, d * (k - 1) + 1 - 2 * p) + e for k, p, d, e in zip(kernel, padding, dilation, extra, strict=True)]
    weight = normal(rng.randint(1, 3), rng.randint(1, 2), *kernel, seed=rng.randrange(2**31))
    if rng.random() < 0.3:
        weight = weight.where(weight > -0.5, 0.0)
        weight[(slice(None), 0, *[rng.randrange(k) for k in kernel])] = 1.0
    if circular:
        return pn.CircularDictionary(weight, dilation=dilation), (weight.shape[1], *size)
    return pn.ConvDictionary(weight, stride, padding, dilation), (weight.shape[1], *size)


@pytest.mark.parametrize("circular", [False, True], ids=["zero-padded", "circular"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_coherence_at_a_signal_size_is_that_of_the_explicit_matrix(dims, circular):
    rng, tried = random.Random(dims), 0
    while tried < 12:
        D, shape = random_filters(rng, dims, circular)
        if math.prod(shape) * D.code_channels[0] * math.prod(D.code_size((1, *shape))) > 100_000:
            continue
        tried += 1
        assert theory.mutual_coherence(D, shape) == pytest.approx(coherence_of(D.matrix(shape)), abs=1e-12)
        if D.keeps_size:
            both = pn.WithIdentity(D)
            assert theory.mutual_coherence(both, shape) == pytest.approx(coherence_of(both.matrix(shape)), abs=1e-12)


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel", [(3,), (5,), (3, 1), (3, 5), (2, 3), (1, 3, 3)])
def test_coherence_with_identity_at_every_small_size_is_that_of_the_explicit_matrix(kernel, dilation):
    if any(dilation * (k - 1) % 2 for k in kernel):
        D = pn.WithIdentity(pn.CircularDictionary(normal(2, 1, *kernel), dilation=dilation))
        least = dilation * (max(kernel) - 1) + 1
    else:
        D, least = same(2, 1, *kernel, dilation=dilation), 1
    for n in range(least, least + 5):
        shape = (1, *[n] * len(kernel))
        if n ** len(kernel) < 200:
            assert theory.mutual_coherence(D, shape) == pytest.approx(coherence_of(D.matrix(shape)), abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "options", "size"),
    [
        ((3, 2, 4), {}, 12),
        ((3, 2, 5), {"stride": 2}, 21),
        ((3, 2, 4), {"stride": 3, "dilation": 2}, 40),
        ((3, 2, 4), {"stride": 2, "dilation": 3}, 40),
        ((3, 1, 3), {"stride": 4, "dilation": 2}, 30),
        ((2, 2, 3, 3), {}, 7),
        ((2, 1, 3, 2), {"stride": (1, 2), "dilation": (2, 1)}, 11),
        ((2, 1, 2, 2, 2), {}, 5),
    ],
)
def test_closed_form_is_the_coherence_of_filters_that_nothing_cuts_off(shape, options, size):
    D = conv(*shape, **options)
    signal_shape = (shape[1], *[size] * (len(shape) - 2))
    expected = coherence_of(D.matrix(signal_shape))
    assert theory.mutual_coherence(D) == pytest.approx(expected, abs=1e-12)
    D.padding = (1,) * D.dims  # padding is no business of the closed form
    assert theory.mutual_coherence(D) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("stride", "dilation", "taps"),
    [(1, 1, 1), (1, 3, 1), (2, 1, 2), (3, 1, 3), (2, 3, 2), (2, 2, 1), (4, 2, 2), (5, 1, 5)],
)
def test_closed_form_is_the_largest_cross_correlation_at_lags_of_a_multiple_of_stride_and_dilation(
    stride, dilation, taps
):
    """The lags that count are multiples of lcm(stride, dilation), which are so many taps."""
    filters = normal(2, 1, 4)
    f, g = (h.tolist() for h in filters[:, 0] / filters[:, 0].norm(dim=1, keepdim=True))
    cosines = [
        abs(sum(one[t] * other[t - lag] for t in range(4) if 0 <= t - lag < 4))
        for one, other in ((f, f), (f, g), (g, g))
        for lag in range(-3, 4)
        if lag % taps == 0 and (lag or one is not other)
    ]
    D = pn.ConvDictionary(filters, stride=stride, dilation=dilation)
    assert theory.mutual_coherence(D) == pytest.approx(max(cosines), abs=1e-14)


@pytest.mark.parametrize("s", [1, 2])
def test_figure_1_the_gain_by_dilation_is_the_size_of_the_image(s):
    D = pn.ConvDictionary(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), dilation=s)
    assert theory.mutual_coherence(D) == pytest.approx(14 / 30, abs=1e-15)
    for n in (5, 6, 9):
        assert theory.mutual_coherence(D, (1, n, n)) == pytest.approx(14 / 30, abs=1e-15)
    at_4 = theory.mutual_coherence(D, (1, 4, 4))
    assert at_4 == pytest.approx(14 / 30, abs=1e-15) if s == 1 else at_4 == 0


@pytest.mark.parametrize(
    ("D", "large", "small"),
    [
        (conv(24, 3, 3, 3, padding=1), (3, 512, 512), (3, 8, 8)),
        (conv(16, 2, 4, 4, padding=1, stride=3, dilation=2), (2, 503, 502), (2, 14, 16)),
        (same(8, 2, 3, 3, dilation=10), (2, 1024, 768), (2, 41, 41)),
        (conv(3, 2, 9, padding=7, stride=2), (2, 200_001), (2, 21)),
        (pn.CircularDictionary(normal(5, 2, 3, 3), dilation=(1, 4)), (2, 512, 511), (2, 5, 17)),
    ],
    ids=["many atoms", "strided", "dilated, with identity", "1-D", "circular"],
)
def test_coherence_of_a_large_image_is_that_of_a_small_one_with_the_same_rest_and_needs_no_more(
    D, large, small, monkeypatch
):
    with monkeypatch.context() as here:  # neither a matrix nor a code of that size is made
        for name in ("matrix", "analyze", "synthesize"):
            here.setattr(pn.ConvDictionary, name, lambda *given: pytest.fail("the large image is gone through"))
        mu = theory.mutual_coherence(D, large)
    assert mu == pytest.approx(theory.mutual_coherence(D, small), abs=1e-12)
    if math.prod(small) < 1000:
        assert mu == pytest.approx(coherence_of(D.matrix(small)), abs=1e-12)


def test_coherence_of_a_matrix():
    W = normal(7, 4)
    assert theory.mutual_coherence(pn.LinearDictionary(W)) == pytest.approx(coherence_of(W.T), abs=1e-14)
    expected = coherence_of(torch.cat([torch.eye(4, dtype=torch.float64), W.T], dim=1))
    assert theory.mutual_coherence(pn.WithIdentity(pn.LinearDictionary(W))) == pytest.approx(expected, abs=1e-14)
    assert theory.mutual_coherence(pn.LinearDictionary(torch.eye(3))) == 0
    assert theory.mutual_coherence(pn.LinearDictionary(torch.tensor([[3.0, 4.0], [-6.0, -8.0]]))) == 1


def test_coherence_of_a_single_column_is_zero():
    assert theory.mutual_coherence(pn.LinearDictionary(normal(1, 5))) == 0
    assert theory.mutual_coherence(conv(1, 1, 3, 3), (1, 3, 3)) == 0
    assert theory.mutual_coherence(conv(1, 1, 3, stride=3)) == 0


def test_coherence_of_any_other_dictionary_is_that_of_its_matrix():
    class Twice(pn.Dictionary):
        """[F G] on one signal, which is no ConvDictionary."""

        def __init__(self):
            super().__init__()
            self.parts = torch.nn.ModuleList([conv(2, 1, 3, seed=s, padding=1) for s in (0, 1)])
            self.channels, self.code_channels, self.dims = 1, (4,), 1

        def code_size(self, signal_shape):
            return self.parts[0].code_size(signal_shape)

        def analyze(self, signal):
            return torch.cat([D.analyze(signal) for D in self.parts], dim=1)

        def synthesize(self, code, signal_shape):
            return sum(D.synthesize(c, signal_shape) for D, c in zip(self.parts, code.split(2, dim=1), strict=True))

        def lipschitz_bound(self):
            return sum(D.lipschitz_bound() for D in self.parts)

    D = Twice()
    for dictionary in (D, pn.WithIdentity(D)):
        expected = coherence_of(dictionary.matrix((1, 7)))
        assert theory.mutual_coherence(dictionary, (1, 7)) == pytest.approx(expected, abs=1e-12)
    code = normal(2, 4, 7)
    assert theory.stripe_norm(code, D).tolist() == [28, 28]
    lower, upper = theory.lipschitz_interval(D, (1, 7), steps=500)
    assert lower == pytest.approx(D.lipschitz((1, 7)), rel=1e-6)
    assert lower <= upper


def test_identity_affects_the_coherence_against_the_papers_claim():
    k, channels = 3, 3
    D = same(8, channels, k, k)
    mu, inner = theory.mutual_coherence(D), theory.mutual_coherence(D.dictionary)
    peak = max(float(f.abs().max() / f.norm()) for f in D.dictionary.weight.detach())
    assert mu == pytest.approx(max(inner, peak), abs=1e-14)
    assert mu > inner
    assert peak >= 1 / math.sqrt(k * k * channels)
    flat = pn.WithIdentity(pn.ConvDictionary(torch.ones(1, channels, k, k), stride=1, padding=1))
    lowest = theory.mutual_coherence(pn.WithIdentity(pn.LinearDictionary(torch.ones(1, k * k * channels))))
    assert lowest == pytest.approx(1 / math.sqrt(27))
    assert math.ceil(theory.uniqueness_bound(lowest)) - 1 == 3  # at best three non-zeros are guaranteed
    assert theory.mutual_coherence(flat, (channels, 9, 9)) >= theory.mutual_coherence(flat.dictionary, (channels, 9, 9))


def test_columns_that_lie_in_the_padding_are_left_out():
    D = conv(2, 1, 2, padding=4)
    M = D.matrix((1, 3)).detach()
    assert (M.norm(dim=0) == 0).any()
    assert theory.mutual_coherence(D, (1, 3)) == pytest.approx(coherence_of(M), abs=1e-14)
    lonely = pn.ConvDictionary(torch.tensor([[[0.0, 0.0, 2.0]]]), padding=2)  # cut off on the right: nothing is left
    assert theory.mutual_coherence(lonely, (1, 4)) == 0


def test_coherence_does_not_depend_on_scale_or_on_the_filters_precision():
    W = normal(3, 2, 3, 3)
    expected = theory.mutual_coherence(pn.ConvDictionary(W, padding=1), (2, 6, 5))
    scales = torch.tensor([1e-200, 1.0, 1e150], dtype=torch.float64).view(-1, 1, 1, 1)
    assert theory.mutual_coherence(pn.ConvDictionary(W * scales, padding=1), (2, 6, 5)) == pytest.approx(
        expected, 1e-13
    )
    single = pn.ConvDictionary(W.float(), padding=1)
    mu = theory.mutual_coherence(single, (2, 6, 5))
    assert mu == pytest.approx(coherence_of(single.matrix((2, 6, 5)).double()), abs=1e-14)
    assert single.weight.dtype == torch.float32


def test_coherence_of_twice_the_same_filter_is_one_and_never_more():
    for seed in range(30):
        W = normal(1, 2, 7, seed=seed)
        mu = theory.mutual_coherence(pn.ConvDictionary(torch.cat([W, -3 * W])))
        assert mu == pytest.approx(1, abs=1e-15)
        assert theory.uniqueness_bound(mu) >= 1  # which refuses 1 + 1e-16


# Lemma 1


def hadamard(n):
    return (
        torch.ones(1, 1, dtype=torch.float64)
        if n == 1
        else torch.kron(hadamard(n // 2), torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    )


def test_lemma_1_no_other_code_is_as_sparse_below_the_bound():
    D = pn.WithIdentity(pn.LinearDictionary(hadamard(16)))
    M, mu = D.matrix().detach(), theory.mutual_coherence(D)
    assert mu == pytest.approx(1 / 4)
    assert theory.uniqueness_bound(mu) == pytest.approx(2.5)
    code = torch.zeros(1, 32, dtype=torch.float64)
    code[0, [3, 20]] = torch.tensor([1.5, -0.7], dtype=torch.float64)
    assert theory.certified_unique(code, mu).tolist() == [True]
    x = M @ code[0]
    for support in itertools.combinations(range(32), 2):
        A = M[:, support]
        rest = x - A @ torch.linalg.lstsq(A, x).solution
        assert (rest.norm() < 1e-10) == (support == (3, 20))


def test_lemma_1_fails_where_its_bound_is_exceeded():
    M = torch.cat([torch.eye(4, dtype=torch.float64), hadamard(4)], dim=1)
    D = pn.WithIdentity(pn.LinearDictionary(hadamard(4)))
    mu = theory.mutual_coherence(D)  # 1/2, so the bound is 3/2
    one, other = torch.zeros(2, 8, dtype=torch.float64)
    one[[0, 1]], other[[4, 6]] = 2.0, 1.0  # two delta functions are two Hadamard columns
    torch.testing.assert_close(M @ one, M @ other)
    assert theory.certified_unique(torch.stack([one, other, torch.eye(8, dtype=torch.float64)[0]]), mu).tolist() == [
        False,
        False,
        True,
    ]


def test_uniqueness_bound():
    assert theory.uniqueness_bound(0) == math.inf
    assert theory.uniqueness_bound(1) == 1
    assert theory.uniqueness_bound(14 / 30) == pytest.approx(0.5 + 30 / 28)
    two = torch.tensor([[0.0, 1.0, -1.0], [0.0, 1.0, 0.0]])
    assert theory.certified_unique(two, 1 / 3).tolist() == [False, True]  # strictly fewer than 2
    full = normal(2, 3, 5, 5)
    assert theory.certified_unique(full, 0.0).tolist() == [True, True]
    assert theory.certified_unique(torch.zeros(2, 3), 1.0).tolist() == [True, True]


# The stripe norm


def covered(D, position, size):
    """The cells from the first to the last tap of the atoms at a position, gaps and padding included."""
    starts = [i * s - p for i, s, p in zip(position, D.stride, D.padding, strict=True)]
    wraps = isinstance(D, pn.CircularDictionary)
    axes = [
        [c % n if wraps else c for c in range(start, start + r + 1)]
        for start, r, n in zip(starts, D.reach, size, strict=True)
    ]
    return set(itertools.product(*axes))


def stripe_by_sets(code, dictionary):
    """Counts, for every column of the dictionary, the non-zeros whose cells meet its own."""
    D = dictionary.dictionary if isinstance(dictionary, pn.WithIdentity) else dictionary
    identity = sum(dictionary.code_channels) - D.code_channels[0]
    cells, filled = [], []
    for row in range(len(code)):
        for position in itertools.product(*map(range, code.shape[1:])):
            cells.append({position} if row < identity else covered(D, position, code.shape[1:]))
            filled.append(bool(code[(row, *position)]))
    return max(sum(f for f, there in zip(filled, cells, strict=True) if f and here & there) for here in cells)


STRIPES = {
    "1-D": (conv(2, 1, 3), (9,)),
    "1-D, even": (conv(2, 1, 4, padding=2), (11,)),
    "1-D, dilated": (conv(2, 1, 3, dilation=3), (16,)),
    "1-D, stride 2": (conv(2, 1, 5, stride=2), (12,)),
    "1-D, stride 2, dilated": (conv(1, 1, 3, stride=2, dilation=2, padding=1), (13,)),
    "1-D, stride beyond the filter": (conv(3, 1, 2, stride=3), (6,)),
    "1-D, single taps": (conv(3, 1, 1), (6,)),
    "1-D, filter longer than the code": (conv(2, 1, 9), (4,)),
    "2-D": (conv(2, 1, 3, 2), (6, 5)),
    "2-D, one size per axis": (conv(2, 1, 2, 4, stride=(1, 2), dilation=(3, 1), padding=(0, 1)), (7, 5)),
    "3-D": (conv(1, 1, 2, 1, 3, stride=(1, 1, 2)), (4, 2, 4)),
    "1-D circular": (pn.CircularDictionary(normal(2, 1, 3)), (9,)),
    "1-D circular, all overlap": (pn.CircularDictionary(normal(2, 1, 4)), (6,)),
    "1-D circular, one size": (pn.CircularDictionary(normal(1, 1, 4)), (4,)),
    "2-D circular, dilated": (pn.CircularDictionary(normal(2, 1, 2, 3), dilation=(2, 1)), (7, 5)),
    "[I 1-D]": (same(2, 2, 3), (10,)),
    "[I 1-D], dilated": (same(1, 1, 3, dilation=3), (17,)),
    "[I 1-D], even and dilated": (
        pn.WithIdentity(conv(1, 1, 2, dilation=4, padding=2)),
        (12,),
    ),
    "[I 2-D]": (same(1, 2, 3, 1), (5, 4)),
    "[I 2-D], one example wide": (same(2, 1, 3, 5), (1, 4)),
    "[I 1-D circular]": (pn.WithIdentity(pn.CircularDictionary(normal(1, 2, 4))), (9,)),
    "[I 2-D circular]": (pn.WithIdentity(pn.CircularDictionary(normal(1, 1, 3, 2))), (4, 5)),
}


@pytest.mark.parametrize("name", STRIPES)
def test_stripe_norm_counts_the_columns_that_overlap(name):
    D, size = STRIPES[name]
    for density in (0.05, 0.2, 0.6, 1.0):
        filled = torch.rand(3, sum(D.code_channels), *size, generator=torch.Generator().manual_seed(1)) < density
        code = normal(*filled.shape, seed=2) * filled
        got = theory.stripe_norm(code, D)
        assert got.dtype == torch.int64
        assert got.tolist() == [stripe_by_sets(example, D) for example in code]


@pytest.mark.parametrize(("atoms", "taps"), [(1, 2), (3, 5), (4, 3)])
def test_a_full_stripe_has_the_papers_length(atoms, taps):
    code = torch.ones(1, atoms, 40)
    assert theory.stripe_norm(code, conv(atoms, 2, taps)).tolist() == [(2 * taps - 1) * atoms]


def test_stripe_norm_of_a_matrix_counts_all_and_of_nothing_is_zero():
    code = torch.tensor([[0.0, 1.0, -2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert theory.stripe_norm(code, pn.LinearDictionary(normal(4, 3))).tolist() == [2, 0]
    assert theory.stripe_norm(code, pn.WithIdentity(pn.LinearDictionary(normal(1, 3)))).tolist() == [2, 0]
    assert theory.stripe_norm(torch.zeros(2, 3, 4, 4), conv(3, 1, 3, 3)).tolist() == [0, 0]


def test_stripe_norm_of_one_non_zero_everywhere_is_one():
    D = same(2, 1, 3, 3)
    for row, i, j in itertools.product(range(3), (0, 4, 8), (0, 8)):
        code = torch.zeros(1, 3, 9, 9)
        code[0, row, i, j] = 1
        assert theory.stripe_norm(code, D).tolist() == [1]


# Lemma 2


def test_layered_error_bound_is_the_printed_product():
    norms, mus = [2, 1, 3], [0.2, 0.5, 0.1]
    expected = [0.09 * 4 / 0.4]
    expected += [expected[0] * 4 / 0.5]
    expected += [expected[1] * 4 / 0.5]
    torch.testing.assert_close(
        theory.layered_error_bound(0.3, norms, mus), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_layered_error_bound_is_infinite_from_the_first_layer_without_guarantee():
    bound = theory.layered_error_bound(0.1, [1, 3, 1], [0.2, 0.21, 0.2])  # ½(1 + 1/0.21) = 2.88 < 3
    assert bound[0] == pytest.approx(0.01 * 4 / 0.8)
    assert bound[1:].tolist() == [math.inf, math.inf]
    for norm, mu in ((2, 1 / 3), (1, 1.0)):  # the condition holds with equality, and the denominator is 0
        assert norm == pytest.approx(theory.uniqueness_bound(mu))
        for noise in (0.1, 0.0):
            assert theory.layered_error_bound(noise, [norm], [mu]).tolist() == [math.inf]
    # two failing layers would make the product positive again; without noise ∞ stays ∞
    assert theory.layered_error_bound(0.0, [1, 9, 9], [0.2, 0.5, 0.5]).tolist() == [0, math.inf, math.inf]


def test_layered_error_bound_takes_a_batch():
    norms = [torch.tensor([1, 2, 4]), torch.tensor([0, 1, 1])]
    noise = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    bound = theory.layered_error_bound(noise, norms, [0.2, 0.3])
    assert bound.shape == (2, 3)
    for b in range(3):
        alone = theory.layered_error_bound(float(noise[b]), [int(n[b]) for n in norms], [0.2, 0.3])
        torch.testing.assert_close(bound[:, b], alone, rtol=1e-14, atol=0)
    assert bound[0].tolist()[2] == math.inf
    torch.testing.assert_close(theory.layered_error_bound(0.1, norms, [0.2, 0.3])[:, 0], bound[:, 0])


@pytest.mark.parametrize("stride", [1, 2])
def test_lemma_2_bounds_the_distance_of_two_sparse_codes_of_one_noisy_signal(stride):
    """Γ and Γ̂ both reproduce y to within ε₀, so ‖D(Γ − Γ̂)‖ ≤ 2ε₀; y in the middle between them is the worst case."""
    weight = normal(2, 1, 301)
    weight = weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1)
    D, size = pn.ConvDictionary(weight, stride=stride), 900
    mu = theory.mutual_coherence(D)
    rng, checked = random.Random(0), 0
    for _ in range(100):
        pair = torch.zeros(2, 2, D.code_size((1, 1, size))[0], dtype=torch.float64)
        for code in pair:
            for _ in range(2):
                code[rng.randrange(2), rng.randrange(code.shape[1])] = rng.choice([-1.0, 1.0])
        norm = int(theory.stripe_norm(pair, D).max())
        middle = (D.synthesize(pair, (2, 1, size)).diff(dim=0) / 2).norm()
        bound = theory.layered_error_bound(float(middle.detach()), [norm], [mu])
        checked += bool(bound.isfinite())
        assert float((pair[0] - pair[1]).square().sum()) <= float(bound) * (1 + 1e-12)
    assert checked > 20


# Lemma 3, λmax, β and b


@pytest.mark.parametrize(("m", "n"), [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1)])
def test_lemma_3_has_a_zero_for_every_row_not_every_column(m, n):
    A = normal(m, n)
    stacked = torch.cat([torch.eye(n, dtype=torch.float64), A])
    expected = torch.linalg.eigvalsh(stacked @ stacked.T)
    spectrum = theory.with_identity_spectrum(A)
    torch.testing.assert_close(spectrum, expected, rtol=1e-12, atol=1e-12)
    assert int((spectrum == 0).sum()) == m
    assert int((expected.abs() < 1e-12).sum()) == m
    torch.testing.assert_close(spectrum[m:], 1 + torch.linalg.eigvalsh(A.T @ A), rtol=1e-12, atol=1e-12)


def test_lemma_3_for_a_singular_matrix_and_for_a_dictionary():
    A = normal(4, 2) @ normal(2, 6)
    stacked = torch.cat([torch.eye(6, dtype=torch.float64), A])
    torch.testing.assert_close(
        theory.with_identity_spectrum(A), torch.linalg.eigvalsh(stacked @ stacked.T), rtol=1e-12, atol=1e-12
    )
    D = same(2, 1, 3, 3)
    spectrum = theory.with_identity_spectrum(D.dictionary.matrix((1, 4, 5)).mT)
    M = D.matrix((1, 4, 5)).detach()
    torch.testing.assert_close(spectrum, torch.linalg.eigvalsh(M.T @ M), rtol=1e-11, atol=1e-11)
    assert float(spectrum[-1]) == pytest.approx(D.lipschitz((1, 4, 5)), rel=1e-12)


INTERVALS = {
    "matrix": (pn.LinearDictionary(normal(6, 9)), None),
    "1-D": (conv(3, 2, 4, padding=1), (2, 30)),
    "2-D": (conv(4, 2, 3, 3, padding=1), (2, 9, 8)),
    "2-D, strided": (conv(4, 2, 4, 4, stride=2, padding=1), (2, 10, 9)),
    "2-D, dilated, with identity": (same(3, 2, 3, 3, dilation=2), (2, 8, 9)),
    "3-D": (conv(2, 1, 3, 2, 2), (1, 5, 5, 4)),
    "float32": (pn.ConvDictionary(normal(4, 2, 3, 3).float(), padding=1), (2, 9, 8)),
}


@pytest.mark.parametrize("name", INTERVALS)
def test_lipschitz_interval_holds_the_largest_eigenvalue(name):
    D, shape = INTERVALS[name]
    expected = float(torch.linalg.svdvals(D.matrix(shape).detach().double())[0]) ** 2
    last = 0.0
    for steps in (1, 5, 300):
        lower, upper = theory.lipschitz_interval(D, shape, steps=steps)
        assert last <= lower <= expected * (1 + 1e-13)
        assert expected <= upper * (1 + 1e-13)
        assert lower <= upper
        last = lower
    assert last == pytest.approx(expected, rel=1e-4)
    assert theory.lipschitz_interval(D, shape, 7) == theory.lipschitz_interval(D, shape and (3, *shape), 7)


def test_lipschitz_interval_of_a_matrix_is_closed_from_above():
    D, _ = INTERVALS["matrix"]
    assert theory.lipschitz_interval(D)[1] == pytest.approx(D.lipschitz(), rel=1e-13)


def test_lipschitz_interval_on_a_torus_is_a_point():
    D = pn.CircularDictionary(normal(3, 2, 3, 4), dilation=(2, 1))
    expected = float(torch.linalg.svdvals(D.matrix((2, 6, 7)).detach())[0]) ** 2
    assert theory.lipschitz_interval(D, (2, 6, 7)) == pytest.approx((expected, expected), rel=1e-12)
    interval = theory.lipschitz_interval(pn.WithIdentity(D), (2, 6, 7))
    assert interval == pytest.approx((1 + expected, 1 + expected), rel=1e-12)


def test_lipschitz_interval_of_a_dictionary_of_zeros_is_zero():
    assert theory.lipschitz_interval(pn.ConvDictionary(torch.zeros(2, 1, 3)), (1, 9)) == (0, 0)


@pytest.mark.parametrize(("convention", "more"), [("ours", 1), ("paper", 2)])
def test_beta_of_bias_and_what_the_identity_adds_to_it(convention, more):
    D, b, shape = same(3, 2, 3, 3), 0.3, (2, 6, 6)
    with_identity, without = D.lipschitz(shape), D.dictionary.lipschitz(shape)
    beta = theory.beta_of_bias(b, without, convention)
    assert beta == pytest.approx(b * more * without)
    assert theory.beta_of_bias(b, with_identity, convention) == pytest.approx(beta + more * b)
    assert theory.bias_of_beta(beta, without, convention) == pytest.approx(b)
    rows = torch.tensor([0.0, 0.1, 2.0])
    torch.testing.assert_close(theory.bias_of_beta(theory.beta_of_bias(rows, 3.0, convention), 3.0, convention), rows)


def test_beta_of_bias_is_the_penalty_that_a_step_of_one_over_L_thresholds_with():
    D, x, b = conv(4, 2, 3, 3, padding=1), normal(2, 2, 6, 6, seed=1), 0.1
    L = D.lipschitz(x.shape)
    beta = theory.beta_of_bias(b, L)
    layer = pn.PursuitLayer(D, step=pn.FreeStep(1 / L), threshold=pn.Threshold((4,), beta, nonnegative=True))
    torch.testing.assert_close(layer.double()(x), torch.relu(D.analyze(x) / L - b))
    assert beta == theory.beta_of_bias(b, L, "ours") == theory.beta_of_bias(b, L, "paper") / 2


# Definition 1 and Theorem 1


def test_definition_1_is_strict_and_has_the_shape_of_the_signal():
    x = torch.zeros(1, 1, 5, dtype=torch.float64)
    xi = torch.tensor([[[0.5, 0.50001, -0.5, -0.50001, 0.0]]], dtype=torch.float64)
    assert theory.unsuccessful(x, xi, 0.25).tolist() == [[[False, True, False, True, False]]]
    assert theory.unsuccessful(xi, x, 0.25).tolist() == [[[False, True, False, True, False]]]
    assert theory.unsuccessful(x, xi, 0.0).tolist() == [[[True, True, True, True, False]]]
    beta = torch.tensor([0.3, 0.2, 0.2, 1.0, 0.0])
    assert theory.unsuccessful(x, xi, beta).tolist() == [[[False, True, True, False, False]]]
    batch = normal(2, 3, 4, 5)
    mask = theory.unsuccessful(batch, torch.zeros_like(batch), torch.tensor([0.1, 0.3, 0.9]).view(3, 1, 1))
    assert mask.dtype == torch.bool
    assert mask.shape == batch.shape
    assert torch.equal(mask[:, 2], batch[:, 2].abs() > 2 * torch.tensor(0.9).double())


def test_the_example_of_section_v_b_loses_both_dimensions():
    D = pn.LinearDictionary(torch.tensor([[0.1, 0.1], [0.1, 0.2], [0.2, 0.1]], dtype=torch.float64))
    x, code = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    assert theory.unsuccessful(x, D.synthesize(code), 1 / 3).tolist() == [[True, True]]
    eta, drop = theory.better_code(x, code, D, 1 / 3)
    assert eta.tolist() == [[1, 1, 0, 0, 0]]
    assert float(drop) == pytest.approx(2 * (0.5 - 1 / 3))


def objective(M, x, code, beta):
    """½‖x − MΓ‖² + Σ β|Γ| of every example, by the explicit matrix."""
    x, code = x.flatten(1), code.flatten(1)
    return (x - code @ M.T).square().sum(dim=1) / 2 + (beta * code.abs()).sum(dim=1)


THEOREM_1 = {
    "matrix": (pn.LinearDictionary(normal(4, 6)), (6,)),
    "1-D": (conv(3, 2, 3, padding=1), (2, 8)),
    "2-D, dilated": (conv(2, 1, 3, 3, padding=2, dilation=2), (1, 5, 6)),
    "2-D circular": (pn.CircularDictionary(normal(2, 2, 2, 3)), (2, 4, 5)),
}


@pytest.mark.parametrize("shrink", [False, True], ids=["proof", "shrunk"])
@pytest.mark.parametrize("name", THEOREM_1)
def test_theorem_1_the_objective_falls_by_the_drop(name, shrink):
    D, shape = THEOREM_1[name]
    with_identity = pn.WithIdentity(D)
    for seed, beta in enumerate((0.0, 0.2, 0.7, 3.0)):
        x = normal(5, *shape, seed=seed)
        code = normal(*D.analyze(x).shape, seed=seed + 10) * (normal(*D.analyze(x).shape, seed=seed + 20) > 0.5) / 4
        eta, drop = theory.better_code(x, code, D, beta, shrink=shrink)
        before = objective(D.matrix(shape).detach(), x, code, beta)
        after = objective(with_identity.matrix(shape).detach(), x, eta, beta)
        torch.testing.assert_close(before - drop, after, rtol=1e-12, atol=1e-12)
        failed = theory.unsuccessful(x, D.synthesize(code, x.shape), beta)
        identity, atoms = with_identity.split(eta)
        assert torch.equal(atoms, code)
        assert (drop >= 0).all()
        if shrink:
            assert (drop >= theory.better_code(x, code, D, beta).drop).all()
        else:
            assert torch.equal(identity != 0, failed)
            assert torch.equal(drop > 0, failed.flatten(1).any(dim=1))
            assert not theory.unsuccessful(x, with_identity.synthesize(eta, x.shape), beta + 1e-12).any()


def test_theorem_1_shrinking_is_the_best_identity_part_for_the_code():
    D, shape = THEOREM_1["1-D"]
    x, code, beta = normal(1, *shape), normal(1, 3, 8, seed=1) / 3, 0.4
    M = pn.WithIdentity(D).matrix(shape).detach()
    eta, _ = theory.better_code(x, code, D, beta, shrink=True)
    best = float(objective(M, x, eta, beta))
    for seed in range(200):
        other = eta.clone()
        other[:, :2] += normal(1, 2, 8, seed=seed) * 10 ** -(seed % 5)
        assert float(objective(M, x, other, beta)) > best


def test_theorem_1_at_equality_and_without_unsuccessful_dimensions_changes_nothing():
    D = pn.LinearDictionary(torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64))
    x = torch.tensor([[3.0, 1.0, -1.0], [2.0, 0.25, 0.0]], dtype=torch.float64)
    code = torch.full((2, 1), 2.0, dtype=torch.float64)
    eta, drop = theory.better_code(x, code, D, 0.5)  # |e| = 1 = 2β, three times, and less elsewhere
    assert torch.equal(eta, torch.cat([torch.zeros(2, 3, dtype=torch.float64), code], dim=1))
    assert drop.tolist() == [0, 0]
    shrunk = theory.better_code(x, code, D, 0.5, shrink=True)
    assert shrunk.code.tolist() == [[0.5, 0.5, -0.5, 2], [0, 0, 0, 2]]
    assert shrunk.drop.tolist() == [3 / 8, 0]


def test_theorem_1_with_its_own_beta_on_every_identity_row_and_in_float32():
    D, x = conv(3, 2, 3, padding=1), normal(4, 2, 8)
    code, rows = normal(4, 3, 8, seed=1) / 3, torch.tensor([[0.1], [0.6]], dtype=torch.float64)
    eta, drop = theory.better_code(x, code, D, rows)
    weights = torch.cat([rows.expand(2, 8).flatten(), torch.full((24,), 0.3, dtype=torch.float64)])
    before = objective(D.matrix((2, 8)).detach(), x, code, 0.3)
    after = objective(pn.WithIdentity(D).matrix((2, 8)).detach(), x, eta, weights)
    torch.testing.assert_close(before - drop, after, rtol=1e-12, atol=1e-12)
    single = theory.better_code(x.float(), code.float(), pn.ConvDictionary(D.weight.float(), padding=1), rows)
    assert single.code.dtype == torch.float32
    torch.testing.assert_close(single.drop, drop, rtol=1e-5, atol=1e-5)


# Bad input

X = normal(2, 2, 8)

# what is done, and what the message has to say
BAD_INPUT = {
    "zero filter": (
        lambda: theory.mutual_coherence(pn.ConvDictionary(normal(3, 1, 3) * torch.tensor([1, 0, 1]).view(3, 1, 1))),
        ["atoms [1] are zero", "remove"],
    ),
    "zero atom": (lambda: theory.mutual_coherence(pn.LinearDictionary(torch.eye(3)[:2].mT)), ["atoms [2] are zero"]),
    "filter NaN": (
        lambda: theory.mutual_coherence(pn.ConvDictionary(torch.full((1, 1, 3), math.nan)), (1, 9)),
        ["the dictionary has infinite or undefined values"],
    ),
    "matrix infinite": (
        lambda: theory.mutual_coherence(pn.LinearDictionary(torch.tensor([[1.0, math.inf]]))),
        ["the dictionary has infinite"],
    ),
    "coherence, wrong channels": (
        lambda: theory.mutual_coherence(conv(2, 2, 3), (3, 9)),
        ["(3, 9)", "(B, 2, and 1 sizes)"],
    ),
    "coherence, too small": (lambda: theory.mutual_coherence(conv(2, 2, 3), (2, 2)), ["(2,)", "too small"]),
    "coherence, too small a torus": (
        lambda: theory.mutual_coherence(pn.CircularDictionary(normal(2, 2, 3)), (2, 2)),
        ["(2,)", "too small"],
    ),
    "mu negative": (lambda: theory.uniqueness_bound(-0.1), ["μ is -0.1", "between 0 and 1"]),
    "mu above 1": (lambda: theory.uniqueness_bound(1.5), ["μ is 1.5", "between 0 and 1"]),
    "mu NaN": (lambda: theory.certified_unique(X, math.nan), ["μ is nan", "between 0 and 1"]),
    "certified, NaN": (lambda: theory.certified_unique(X / 0 * 0, 0.5), ["the code has infinite", "undefined"]),
    "stripe, rows": (lambda: theory.stripe_norm(X, conv(3, 1, 3)), ["(2, 2, 8)", "(B, 3, and 1 sizes)"]),
    "stripe, axes": (lambda: theory.stripe_norm(X, conv(2, 1, 3, 3)), ["(2, 2, 8)", "(B, 2, and 2 sizes)"]),
    "stripe, matrix": (lambda: theory.stripe_norm(X, pn.LinearDictionary(normal(2, 3))), ["(2, 2, 8)", "(B, 2)"]),
    "stripe, NaN": (lambda: theory.stripe_norm(X * math.nan, conv(2, 1, 3)), ["the code has infinite or undefined"]),
    "stripe, small torus": (
        lambda: theory.stripe_norm(X[..., :2], pn.CircularDictionary(normal(2, 1, 3))),
        ["(2,)", "too small"],
    ),
    "layers, lengths": (lambda: theory.layered_error_bound(0.1, [1, 2], [0.1]), ["2 stripe norms and 1 coherences"]),
    "layers, none": (lambda: theory.layered_error_bound(0.1, [], []), ["0 stripe norms"]),
    "layers, noise": (lambda: theory.layered_error_bound(-0.1, [1], [0.1]), ["noise is -0.1", "≥ 0"]),
    "layers, norm": (lambda: theory.layered_error_bound(0.1, [math.nan], [0.1]), ["a stripe norm is nan"]),
    "layers, mu": (lambda: theory.layered_error_bound(0.1, [1], [1.1]), ["μ is 1.1"]),
    "spectrum, shape": (lambda: theory.with_identity_spectrum(X), ["(2, 2, 8)", "(m, n)"]),
    "spectrum, NaN": (lambda: theory.with_identity_spectrum(X[0] * math.nan), ["A has infinite or undefined"]),
    "interval, steps": (
        lambda: theory.lipschitz_interval(conv(2, 1, 3), (1, 9), steps=0),
        ["steps is 0", "at least 1"],
    ),
    "interval, shape": (lambda: theory.lipschitz_interval(conv(2, 1, 3)), ["None", "(B, 1, and 1 sizes)"]),
    "b negative": (lambda: theory.beta_of_bias(-1.0, 2.0), ["b is -1.0", "≥ 0"]),
    "beta negative somewhere": (
        lambda: theory.bias_of_beta(torch.tensor([1.0, -2.0]), 2.0),
        ["β is -2.0", "≥ 0"],
    ),
    "lipschitz zero": (lambda: theory.bias_of_beta(1.0, 0.0), ["lipschitz is 0.0", "> 0"]),
    "lipschitz NaN": (lambda: theory.beta_of_bias(1.0, math.nan), ["lipschitz is nan"]),
    "convention": (lambda: theory.beta_of_bias(1.0, 1.0, "theirs"), ["'theirs'", "'ours', 'paper'"]),
    "unsuccessful, shapes": (lambda: theory.unsuccessful(X, X[:1], 0.1), ["(1, 2, 8)", "(2, 2, 8)"]),
    "unsuccessful, beta": (lambda: theory.unsuccessful(X, X, -0.1), ["β is -0.1", "≥ 0"]),
    "unsuccessful, beta NaN": (lambda: theory.unsuccessful(X, X, math.nan), ["β is nan"]),
    "unsuccessful, beta's shape": (
        lambda: theory.unsuccessful(X, X, torch.ones(3)),
        ["β has shape (3,)", "(2, 2, 8)"],
    ),
    "unsuccessful, beta larger than the signal": (
        lambda: theory.unsuccessful(X, X, torch.ones(4, 2, 2, 8)),
        ["β has shape (4, 2, 2, 8)"],
    ),
    "unsuccessful, signal NaN": (lambda: theory.unsuccessful(X * math.nan, X, 0.1), ["the signal has infinite"]),
    "unsuccessful, reconstruction": (
        lambda: theory.unsuccessful(X, X / 0, 0.1),
        ["the reconstruction has infinite"],
    ),
    "better, code": (
        lambda: theory.better_code(X, X, conv(3, 2, 3, padding=1), 0.1),
        ["(2, 2, 8)", "(2, 3, 8)"],
    ),
    "better, code NaN": (
        lambda: theory.better_code(X, X * math.nan, conv(2, 2, 3, padding=1), 0.1),
        ["the code has infinite"],
    ),
    "better, strided": (lambda: theory.better_code(X, X, conv(2, 2, 3, stride=2), 0.1), ["[I D]", "stride (2,)"]),
    "better, beta": (lambda: theory.better_code(X, X, conv(2, 2, 3, padding=1), -0.1), ["β is -0.1"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_and_the_message_says_what_came_and_what_was_expected(case):
    action, words = BAD_INPUT[case]
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        action()
    for word in words:
        assert word in str(caught.value)
