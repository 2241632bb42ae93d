"""What tests are made of: seeded draws in float64, and the one list of dictionaries that they choose from."""

import itertools
import math
from dataclasses import dataclass, field

import torch
from sklearn.linear_model import Lasso

import pursuitnet as pn


def generator(seed=0):
    return torch.Generator("cpu").manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64, device="cpu")


def uniform(low, high, *shape, seed=0):
    return low + (high - low) * torch.rand(shape, generator=generator(seed), dtype=torch.float64, device="cpu")


def unit(*shape, seed=0):
    """Filters of length one."""
    return torch.nn.functional.normalize(normal(*shape, seed=seed).flatten(1)).view(shape)


# A kind of dictionary: `of` takes filters of any shape, `make` those of `weight_shape`; `matrix` is the explicit one of
# `make`, written down by another route than the library's.


@dataclass(frozen=True)
class Linear:
    weight_shape: tuple

    def of(self, weight):
        return pn.LinearDictionary(weight)

    def make(self, dtype=torch.float64):
        return self.of(normal(*self.weight_shape).to(dtype))

    def matrix(self, shape):
        return normal(*self.weight_shape).T


@dataclass(frozen=True)
class Conv:
    weight_shape: tuple
    options: dict = field(default_factory=dict)

    def of(self, weight):
        return pn.ConvDictionary(weight, **self.options)

    def make(self, dtype=torch.float64):
        return self.of(normal(*self.weight_shape).to(dtype))

    def matrix(self, shape):
        return tap_by_tap(normal(*self.weight_shape), shape[1:], **self.options)


@dataclass(frozen=True)
class Circular:
    weight_shape: tuple
    dilation: int | tuple = 1
    groups: int = 1

    def of(self, weight):
        return pn.CircularDictionary(weight, dilation=self.dilation, groups=self.groups)

    def make(self, dtype=torch.float64):
        return self.of(normal(*self.weight_shape).to(dtype))

    def matrix(self, shape):
        """Folds the valid positions of a signal that is continued periodically."""
        weight = block_diagonal(normal(*self.weight_shape), self.groups)
        kernel = weight.shape[2:]
        dilation = (self.dilation,) * len(kernel) if isinstance(self.dilation, int) else self.dilation
        longer = [n + d * (k - 1) for n, k, d in zip(shape[1:], kernel, dilation, strict=True)]
        D = tap_by_tap(weight, longer, dilation=dilation).unflatten(0, (shape[0], *longer))
        for axis, n in enumerate(shape[1:], 1):
            wrapped = torch.arange(D.shape[axis]) % n
            folded = torch.zeros(*D.shape[:axis], n, *D.shape[axis + 1 :], dtype=D.dtype)
            D = folded.index_add(axis, wrapped, D)
        return D.flatten(0, -2)


@dataclass(frozen=True)
class Reflecting:
    weight_shape: tuple
    dilation: int | tuple = 1

    def of(self, weight):
        return pn.ReflectingDictionary(weight, dilation=self.dilation)

    def make(self, dtype=torch.float64):
        return self.of(normal(*self.weight_shape).to(dtype))

    def matrix(self, shape):
        """Folds the valid positions of a signal that is longer by its mirror images, pixel by pixel."""
        weight = normal(*self.weight_shape)
        kernel = weight.shape[2:]
        dilation = (self.dilation,) * len(kernel) if isinstance(self.dilation, int) else self.dilation
        sides = [d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
        longer = [n + 2 * r for n, r in zip(shape[1:], sides, strict=True)]
        D = tap_by_tap(weight, longer, dilation=dilation).unflatten(0, (shape[0], *longer))
        for axis, (n, r) in enumerate(zip(shape[1:], sides, strict=True), 1):
            mirror = [*range(r, 0, -1), *range(n), *range(n - 2, n - 2 - r, -1)]
            folded = torch.zeros(*D.shape[:axis], n, *D.shape[axis + 1 :], dtype=D.dtype)
            for position, pixel in enumerate(mirror):
                folded.select(axis, pixel).add_(D.select(axis, position))
            D = folded
        return D.flatten(0, -2)


@dataclass(frozen=True)
class Identity:
    inner: Linear | Conv | Circular | Reflecting

    @property
    def weight_shape(self):
        return self.inner.weight_shape

    def of(self, weight):
        return pn.WithIdentity(self.inner.of(weight))

    def make(self, dtype=torch.float64):
        return pn.WithIdentity(self.inner.make(dtype))

    def matrix(self, shape):
        return torch.cat([torch.eye(math.prod(shape), dtype=torch.float64), self.inner.matrix(shape)], dim=1)


@dataclass(frozen=True)
class Scaled:
    inner: Linear | Conv | Circular | Reflecting

    @property
    def weight_shape(self):
        return self.inner.weight_shape

    def of(self, weight):
        return pn.ScaledDictionary(self.inner.of(weight))

    def make(self, dtype=torch.float64):
        return pn.ScaledDictionary(self.inner.make(dtype))

    def matrix(self, shape):
        D = self.inner.matrix(shape)
        scale = self.make().scale().detach()
        return D * scale.repeat_interleave(D.shape[1] // len(scale))


@dataclass(frozen=True)
class Composed:
    """D₁·D₂ with a fixed D₁, so that the filters of one's own are those of the last layer."""

    first: Linear | Conv | Circular | Reflecting
    last: Linear | Conv | Circular | Reflecting | Identity

    @property
    def weight_shape(self):
        return self.last.weight_shape

    def of(self, weight):
        return pn.ComposedDictionary([self.first.make(weight.dtype), self.last.of(weight)])

    def make(self, dtype=torch.float64):
        return pn.ComposedDictionary([self.first.make(dtype), self.last.make(dtype)])

    def matrix(self, shape):
        D = self.first.make()
        between = (sum(D.code_channels), *(D.code_size((1, *shape)) if D.dims else ()))
        return self.first.matrix(shape) @ self.last.matrix(between)


def block_diagonal(weight, groups):
    """Filters of all channels, from those (atoms, channels/groups, …) that have the channels of their group only."""
    atoms, own = weight.shape[:2]
    whole = torch.zeros(atoms, groups * own, *weight.shape[2:], dtype=weight.dtype)
    for j in range(atoms):
        first = j * groups // atoms * own
        whole[j, first : first + own] = weight[j]
    return whole


def tap_by_tap(weight, size, stride=1, padding=0, dilation=1, groups=1):
    """D of one example: at every corner of every atom, one entry for each tap that lands on the signal."""
    weight = block_diagonal(weight, groups)
    atoms, channels, *kernel = weight.shape
    stride, padding, dilation = ((v,) * len(kernel) if isinstance(v, int) else v for v in (stride, padding, dilation))
    corners = [
        range(-p, n + p - d * (k - 1), s) for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    D = torch.zeros(channels, *size, atoms, *map(len, corners), dtype=weight.dtype)
    for index in itertools.product(*(range(len(c)) for c in corners)):
        for tap in itertools.product(*map(range, kernel)):
            at = [c[i] + d * t for c, i, d, t in zip(corners, index, dilation, tap, strict=True)]
            if all(0 <= a < n for a, n in zip(at, size, strict=True)):
                D[(slice(None), *at, slice(None), *index)] = weight[(..., *tap)].T
    return D.flatten(0, len(size)).flatten(1)


# name: (kind, the signal shapes to try it on; the first is tiny, the last exceeds 512 entries)
DICTIONARIES = {
    "scaled matrix": (Scaled(Linear((9, 4))), [(4,)]),
    "scaled 1-D": (Scaled(Conv((4, 2, 3), {"stride": 2, "padding": 1})), [(2, 3), (2, 8), (2, 11)]),
    "scaled circular": (Scaled(Circular((2, 1, 3))), [(1, 5), (1, 9)]),
    "tall matrix": (Linear((3, 7)), [(7,)]),
    "wide matrix": (Linear((9, 4)), [(4,)]),
    "long matrix": (Linear((5, 600)), [(600,)]),
    "1-D": (Conv((4, 2, 3)), [(2, 3), (2, 8), (2, 11), (2, 280)]),
    "1-D / 2, even": (
        Conv((3, 2, 4), {"stride": 2, "padding": 1}),
        [(2, 2), (2, 8), (2, 9), (2, 281)],
    ),
    "1-D / 2, dilated": (
        Conv((4, 2, 3), {"stride": 2, "padding": 2, "dilation": 2}),
        [(2, 1), (2, 14), (2, 17), (2, 280)],
    ),
    "1-D / 3, dilated": (
        Conv((2, 1, 3), {"stride": 3, "padding": 2, "dilation": 2}),
        [(1, 5), (1, 6), (1, 7), (1, 550)],
    ),
    "2-D": (Conv((4, 1, 3, 3)), [(1, 3, 3), (1, 7, 8), (1, 24, 23)]),
    "2-D same": (Conv((5, 3, 3, 3), {"padding": 1}), [(3, 1, 2), (3, 6, 5), (3, 7, 7), (3, 14, 13)]),
    "2-D / 2, padded": (
        Conv((4, 3, 4, 4), {"stride": 2, "padding": 1}),
        [(3, 2, 3), (3, 7, 7), (3, 8, 6), (3, 15, 14)],
    ),
    "2-D / 3, with gaps": (
        Conv((2, 1, 2, 2), {"stride": 3}),
        [(1, 2, 2), (1, 6, 7), (1, 8, 8), (1, 24, 25)],
    ),
    "2-D dilated": (Conv((3, 1, 3, 3), {"padding": 2, "dilation": 2}), [(1, 1, 2), (1, 7, 6), (1, 24, 23)]),
    "2-D padding beyond the filter": (
        Conv((3, 2, 1, 2), {"padding": 3}),
        [(2, 1, 2), (2, 4, 5), (2, 18, 17)],
    ),
    "2-D one size per axis": (
        Conv((3, 2, 3, 2), {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 3)}),
        [(2, 3, 1), (2, 6, 5), (2, 7, 4), (2, 17, 18)],
    ),
    "3-D": (Conv((2, 1, 3, 3, 3), {"padding": 1}), [(1, 2, 1, 2), (1, 4, 3, 5), (1, 9, 8, 9)]),
    "3-D one size per axis": (
        Conv((2, 2, 2, 3, 1), {"stride": (1, 2, 3), "padding": (1, 1, 0), "dilation": (2, 1, 1)}),
        [(2, 1, 2, 1), (2, 3, 4, 5), (2, 4, 5, 3), (2, 7, 7, 8)],
    ),
    "1-D in groups": (Conv((6, 2, 3), {"groups": 3, "padding": 1}), [(6, 1), (6, 8), (6, 90)]),
    "2-D depthwise, same": (Conv((3, 1, 3, 3), {"groups": 3, "padding": 1}), [(3, 1, 2), (3, 6, 5), (3, 14, 13)]),
    "2-D / 2 in groups, dilated": (
        Conv((8, 2, 2, 3), {"groups": 2, "stride": 2, "padding": (1, 2), "dilation": (1, 2)}),
        [(4, 2, 1), (4, 5, 6), (4, 12, 13)],
    ),
    "2-D circular, depthwise": (Circular((6, 1, 3, 2), 1, 3), [(3, 3, 3), (3, 5, 4), (3, 14, 13)]),
    "scaled in groups": (Scaled(Conv((4, 2, 3), {"groups": 2})), [(4, 3), (4, 8), (4, 11)]),
    "[I 2-D depthwise]": (
        Identity(Conv((4, 1, 3, 3), {"groups": 2, "padding": 1})),
        [(2, 1, 2), (2, 5, 6), (2, 17, 16)],
    ),
    "1-D circular, even": (Circular((3, 2, 4)), [(2, 4), (2, 9), (2, 260)]),
    "2-D circular": (Circular((4, 1, 3, 3)), [(1, 3, 3), (1, 7, 6), (1, 24, 23)]),
    "2-D circular, dilated": (Circular((4, 2, 3, 2), (2, 1)), [(2, 5, 2), (2, 6, 7), (2, 17, 16)]),
    "3-D circular": (Circular((2, 1, 2, 3, 1)), [(1, 2, 3, 1), (1, 4, 3, 5), (1, 9, 8, 9)]),
    "1-D reflecting": (Reflecting((3, 2, 5)), [(2, 3), (2, 4), (2, 9), (2, 260)]),
    "1-D reflecting, even": (Reflecting((2, 1, 4), 2), [(1, 4), (1, 9), (1, 520)]),
    "2-D reflecting": (Reflecting((4, 1, 3, 3)), [(1, 2, 2), (1, 7, 6), (1, 24, 23)]),
    "2-D reflecting, dilated": (Reflecting((3, 2, 3, 1), (3, 1)), [(2, 4, 1), (2, 6, 7), (2, 17, 16)]),
    "3-D reflecting": (Reflecting((2, 1, 3, 3, 1), (1, 2, 1)), [(1, 2, 3, 1), (1, 4, 3, 5), (1, 9, 8, 9)]),
    "scaled reflecting": (Scaled(Reflecting((2, 1, 3))), [(1, 2), (1, 9)]),
    "[I 2-D reflecting]": (Identity(Reflecting((4, 2, 3, 3), 2)), [(2, 3, 3), (2, 5, 6), (2, 17, 16)]),
    "composed matrix": (Composed(Linear((9, 4)), Linear((6, 9))), [(4,)]),
    "composed 1-D": (
        Composed(Conv((3, 2, 4), {"stride": 2, "padding": 3, "dilation": 2}), Conv((4, 3, 3), {"dilation": 2})),
        [(2, 9), (2, 10), (2, 19), (2, 280)],
    ),
    "composed 2-D / 2 / 3": (
        Composed(Conv((3, 1, 3, 2), {"stride": 2, "padding": 1}), Conv((4, 3, 2, 2), {"stride": (3, 1)})),
        [(1, 4, 3), (1, 9, 8), (1, 10, 7), (1, 24, 23)],
    ),
    "composed 2-D, padded twice": (
        Composed(Conv((3, 2, 3, 3), {"padding": 1}), Conv((4, 3, 3, 3), {"padding": 1})),
        [(2, 2, 1), (2, 5, 6), (2, 17, 16)],
    ),
    "composed circular": (
        Composed(Circular((3, 1, 3, 2), (1, 2)), Circular((2, 3, 2, 2))),
        [(1, 3, 3), (1, 7, 6), (1, 24, 23)],
    ),
    "composed reflecting": (Composed(Reflecting((3, 2, 3)), Circular((2, 3, 3))), [(2, 4), (2, 9), (2, 260)]),
    "composed [I D]": (
        Composed(Conv((2, 1, 3), {"padding": 1}), Identity(Conv((3, 2, 3), {"padding": 1}))),
        [(1, 3), (1, 9), (1, 520)],
    ),
    "[I matrix]": (Identity(Linear((6, 4))), [(4,)]),
    "[I 1-D]": (Identity(Conv((3, 2, 3), {"padding": 1})), [(2, 2), (2, 7), (2, 270)]),
    "[I 1-D circular]": (Identity(Circular((2, 2, 3))), [(2, 3), (2, 10), (2, 260)]),
    "[I 2-D]": (Identity(Conv((4, 2, 3, 3), {"padding": 1})), [(2, 1, 2), (2, 5, 6), (2, 17, 16)]),
    "[I 2-D], dilated": (
        Identity(Conv((3, 2, 3, 3), {"padding": 2, "dilation": 2})),
        [(2, 1, 2), (2, 4, 5), (2, 17, 16)],
    ),
    "[I 2-D], dilated, one size per axis": (
        Identity(Conv((3, 2, 3, 5), {"padding": (3, 4), "dilation": (3, 2)})),
        [(2, 2, 1), (2, 6, 5), (2, 16, 17)],
    ),
    "[I 2-D circular]": (Identity(Circular((4, 2, 2, 2))), [(2, 2, 2), (2, 5, 6), (2, 17, 16)]),
}


def dictionary_of(name, weight):
    """A dictionary of a kind of the list with filters of one's own."""
    return DICTIONARIES[name][0].of(weight)


def by_coordinate_descent(matrix, x, beta, nonnegative):
    """scikit-learn's Lasso, one example at a time; different β are carried by the length of the columns."""
    codes = []
    for one, weights in zip(x.flatten(1), beta, strict=True):
        mean = float(weights.mean())
        scale = (mean / weights).numpy()
        peer = Lasso(mean / len(one), fit_intercept=False, positive=nonnegative, tol=1e-14, max_iter=500_000)
        codes.append(torch.as_tensor(peer.fit(matrix.numpy() * scale, one.numpy()).coef_ * scale))
    return torch.stack(codes)
