"""Sufficient statistics of the codes for the filters: two sums, whose size does not depend on the number of images.

½Σ‖x − DΓ‖² = ½⟨W, HW⟩ − ⟨B, W⟩ + const, where (HW)ⱼ[t] = Σₖ Σ_u Aⱼₖ[t − u] Wₖ[u] has the correlations of the code
with itself, Aⱼₖ[δ] = Σ_p Γⱼ[p]Γₖ[p + δ], and B the correlations of the code with the signal. For a matrix, A = ΓᵀΓ.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, LinearDictionary
from pursuitnet.problems.learning.filters import Filters

_WEIGHTS = (grad.conv1d_weight, grad.conv2d_weight, grad.conv3d_weight)
MOST_PAIRS = 2**21
"""Pairs of non-zeros that are processed at a time."""


@dataclass(frozen=True)
class SufficientStatistics:
    """A and B; a matrix counts as filters of one tap.

    Attributes:
        gram: A, (atoms, atoms, *lags), lag 0 in the middle.
        cross: B, (atoms, channels, *kernel).
    """

    gram: Float[Tensor, "atoms atoms *lags"]
    cross: Float[Tensor, "atoms channels *kernel"]

    @staticmethod
    def none(filters: Filters) -> "SufficientStatistics":
        """Return the sums over zero images."""
        weight = with_taps(filters.weight)
        atoms, lags = len(weight), [2 * k - 1 for k in weight.shape[2:]]
        try:
            return SufficientStatistics(weight.new_zeros(atoms, atoms, *lags), torch.zeros_like(weight))
        except RuntimeError as error:
            size = atoms**2 * math.prod(lags) * weight.element_size() / 2**30
            raise ValueError(
                f"the correlations of {atoms} atoms take {size:,.0f} GiB, which cannot be allocated; expected fewer or "
                "smaller atoms"
            ) from error

    @staticmethod
    @torch.no_grad()
    def of(filters: Filters, code: Tensor, signal: Tensor) -> "SufficientStatistics":
        """Return the sums over some signals.

        Args:
            filters: D without padding (see ``unpadded``).
            code: Γ, (B, atoms, …).
            signal: x, padded as far as the atoms reach (see ``completed``).
        """
        if isinstance(filters, LinearDictionary):
            return SufficientStatistics((code.mT @ code)[..., None], (code.mT @ signal)[..., None])
        return SufficientStatistics(_gram(filters, code), _cross(filters, code, signal))

    def plus(self, other: "SufficientStatistics", keep: float = 1.0) -> "SufficientStatistics":
        """Return keep·self + other: the sums over both, the earlier ones weighted by ``keep``."""
        return SufficientStatistics(
            torch.add(other.gram, self.gram, alpha=keep), torch.add(other.cross, self.cross, alpha=keep)
        )

    @property
    def energies(self) -> Float[Tensor, " atoms"]:
        """Return ‖Γⱼ‖² of each atom."""
        lags = self.gram.flatten(2)
        return lags[:, :, lags.shape[2] // 2].diagonal().clamp(min=0)

    def without(self, atoms: Tensor) -> "SufficientStatistics":
        """Return the sums as if some atoms, given by their indices, had never been used."""
        gram, cross = self.gram.clone(), self.cross.clone()
        gram[atoms], gram[:, atoms], cross[atoms] = 0, 0, 0
        return SufficientStatistics(gram, cross)


class Quadratic:
    """½⟨W, HW⟩ − ⟨B, W⟩ of filters W, (atoms, channels, *kernel), with H in the Fourier domain.

    The lags from −(k − 1) to k − 1 do not overlap on a circle of length 2k − 1.
    """

    def __init__(self, sums: SufficientStatistics) -> None:
        self.cross, self.lags = sums.cross, sums.gram.shape[2:]
        self.start = self.cross[:, :1]  # H treats all channels alike
        self.axes = tuple(range(2, 2 + len(self.lags)))
        rolled = torch.roll(sums.gram, [-(n // 2) for n in self.lags], self.axes)
        self.symbol = torch.fft.rfftn(rolled, dim=self.axes).flatten(2).permute(2, 0, 1).contiguous()

    def times(self, weight: Tensor) -> Tensor:
        """Return HW."""
        spectrum = torch.fft.rfftn(weight, self.lags, dim=self.axes)
        product = self.symbol @ spectrum.flatten(2).permute(2, 0, 1)
        image = torch.fft.irfftn(product.permute(1, 2, 0).reshape(spectrum.shape), self.lags, dim=self.axes)
        return image[(..., *(slice(k) for k in weight.shape[2:]))]

    def gradient(self, weight: Tensor) -> Tensor:
        """Return HW − B."""
        return self.times(weight) - self.cross


def with_taps(weight: Tensor) -> Tensor:
    """Return filters with at least one kernel axis."""
    return weight[..., None] if weight.dim() == 2 else weight


def _cross(filters: ConvDictionary, code: Tensor, signal: Tensor) -> Tensor:
    """Return Σ_p Γⱼ[p] x[p + t], which is the gradient of ⟨Dᵀx, Γ⟩ with respect to the filters."""
    if isinstance(filters, CircularDictionary):
        signal = F.pad(signal, [n for r in reversed(filters.reach) for n in (0, r)], mode="circular")
    correlate = _WEIGHTS[filters.dims - 1]
    return correlate(signal, filters.weight.shape, code, filters.stride, 0, filters.dilation)  # type: ignore[no-untyped-call]


def _gram(filters: ConvDictionary, code: Tensor) -> Tensor:
    """Return Aⱼₖ[δ] from the pairs of non-zeros that are close to each other, or by FFT where these are many."""
    near = _CloseNonZeros(filters, code)
    transformed = len(filters.weight) ** 2 * near.places * (0.3 + 0.02 * len(code))
    return by_fourier(filters, code) if code.is_cuda or near.pairs > transformed else near.gram()


class _CloseNonZeros:
    """The pairs of non-zeros whose distance is at most that of two taps of a filter.

    Places are numbered in a grid whose rows are padded at the end, so that two places whose numbers differ by the
    offset of a lag are exactly that lag apart.
    """

    def __init__(self, filters: ConvDictionary, code: Tensor) -> None:
        self.filters, self.code = filters, code
        self.circular = isinstance(filters, CircularDictionary)
        self.atom, self.place, self.value = self._numbered(code, before=self.circular)
        padded = code
        if self.circular:
            padded = F.pad(code, [r for r in reversed(filters.reach) for _ in range(2)], mode="circular")
        self.other_atom, self.other_place, self.other_value = self._numbered(padded, before=False)
        reach = [range(-r, r + 1, d) for r, d in zip(filters.reach[:-1], filters.dilation[:-1], strict=True)]
        self.outer = list(itertools.product(*reach))  # lags along all axes but the last
        self.kept = self.outer[len(self.outer) // 2 :]  # A[k, j, −δ] = A[j, k, δ] gives the others
        self.ranges = [self._range(lag) for lag in self.kept]
        self.pairs = sum(int((high - low).sum()) for low, high in self.ranges)

    @property
    def sizes(self) -> list[int]:
        """Return the sizes of the grid."""
        axes = zip(self.code.shape[2:], self.filters.stride, self.filters.reach, strict=True)
        return [s * (n - 1) + 1 + (2 if self.circular else 1) * r for n, s, r in axes]

    @property
    def places(self) -> int:
        return math.prod(self.sizes)

    def _numbered(self, code: Tensor, before: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return atom, number of the place and value of each non-zero, sorted by number."""
        example, atom, *at = code.nonzero(as_tuple=True)
        value = code[(example, atom, *at)]
        axes = zip(at, self.sizes, self.filters.stride, self.filters.reach, strict=True)
        number = example
        for place, size, stride, reach in axes:
            number = number * size + place * stride + (reach if before else 0)
        number, order = number.sort(stable=True)
        return atom[order], number, value[order]

    def _offset(self, lag: tuple[int, ...]) -> int:
        """Return the difference of the numbers of two places that are a lag apart."""
        offset = 0
        for step, size in zip((*lag, 0), self.sizes, strict=True):
            offset = offset * size + step
        return offset

    def _range(self, lag: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return for each non-zero the range of those that are a lag away, with any lag along the last axis."""
        middle, reach = self.place + self._offset(lag), self.filters.reach[-1]
        low = torch.searchsorted(self.other_place, middle - reach)
        return low, torch.searchsorted(self.other_place, middle + reach, right=True)

    def gram(self) -> Tensor:
        """Return A."""
        atoms, dilation = len(self.filters.weight), self.filters.dilation[-1]
        lags = [2 * k - 1 for k in self.filters.weight.shape[2:]]
        A = self.code.new_zeros(atoms, atoms, math.prod(lags[:-1]), lags[-1])
        for i, (lag, (low, high)) in enumerate(zip(self.kept, self.ranges, strict=True), len(self.outer) // 2):
            for one, other in _pairs(low, high):
                distance = self.other_place[other] - self.place[one] - self._offset(lag)
                on = distance % dilation == 0
                one, other, distance = (one, other, distance) if dilation == 1 else (one[on], other[on], distance[on])
                index = (self.atom[one] * atoms + self.other_atom[other]) * A.shape[2] + i
                index = index * A.shape[3] + distance.div(dilation, rounding_mode="floor") + lags[-1] // 2
                A.view(-1).index_add_(0, index, self.value[one] * self.other_value[other])
        half = len(self.outer) // 2
        A[:, :, :half] = A[:, :, half + 1 :].flip(2, 3).transpose(0, 1)
        return A.view(atoms, atoms, *lags)


def _pairs(low: Tensor, high: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all (i, k) with low[i] ≤ k < high[i], about ``MOST_PAIRS`` at a time."""
    ends = (high - low).cumsum(0)
    begin, done = 0, 0
    while begin < len(ends):
        end = max(begin + 1, int(torch.searchsorted(ends, done + MOST_PAIRS, right=True)))
        count = (high - low)[begin:end]
        one = torch.repeat_interleave(torch.arange(begin, end, device=low.device), count)
        first = ends[begin:end] - count - done  # index of the first pair of each i in this piece
        other = torch.arange(len(one), device=low.device) - first[one - begin] + low[one]
        if len(one):
            yield one, other
        begin, done = end, int(ends[end - 1])


def by_fourier(filters: ConvDictionary, code: Tensor) -> Tensor:
    """Return Aⱼₖ[δ] of a code with any number of non-zeros."""
    dims, circular = filters.dims, isinstance(filters, CircularDictionary)
    axes, atoms = tuple(range(2, 2 + dims)), code.shape[1]
    spread = [s * (n - 1) + 1 for n, s in zip(code.shape[2:], filters.stride, strict=True)]
    on_grid = code.new_zeros(*code.shape[:2], *spread)
    on_grid[(slice(None), slice(None), *(slice(None, None, s) for s in filters.stride))] = code
    sizes = [n + (0 if circular else r) for n, r in zip(spread, filters.reach, strict=True)]
    spectrum = torch.fft.rfftn(on_grid, sizes, dim=axes)
    rows = []
    at_a_time = max(1, 2**23 // (atoms * math.prod(sizes)))
    for part in spectrum.split(at_a_time, dim=1):
        product = torch.einsum("bj...,bk...->jk...", part.conj(), spectrum)
        lagged = torch.fft.irfftn(product, sizes, dim=axes)
        for axis, (size, reach, dilation) in enumerate(zip(sizes, filters.reach, filters.dilation, strict=True), 2):
            lags = torch.arange(-reach, reach + 1, dilation, device=code.device) % size
            lagged = lagged.index_select(axis, lags)
        rows.append(lagged)
    return torch.cat(rows)
