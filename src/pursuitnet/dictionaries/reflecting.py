"""Filters on a signal that is reflected at its borders, the boundary of the MSDNet of Pelt and Sethian."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries.conv import ConvDictionary, Sizes
from pursuitnet.dictionaries.inputs import takes_weight
from pursuitnet.dictionaries.onednn import adjoint, convolve


class ReflectingDictionary(ConvDictionary):
    """Small filters on a signal that is mirrored at its first and last pixel, which are not repeated.

    Every code has the size of its signal, at stride 1. (DᵀX)[p] = Σ_t w[t]·X[ρ(p + t)] for taps t from −r to r, with
    ρ(−k) = k and ρ(n − 1 + k) = n − 1 − k; D is its exact adjoint. A tap that leaves the signal comes back into it, so
    atoms at the border are larger or smaller than those inside.

    Args:
        weight: (atoms, channels, *kernel) with 1, 2 or 3 kernel axes, which reach to both sides equally: the sizes are
            odd, or the dilations even.
        dilation: distance between two taps, one for all axes or one each.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.ReflectingDictionary(torch.tensor([[[1.0, 2.0, 3.0]]]))
        >>> D.matrix((1, 4)).T.tolist()  # an atom in each row; the first and the last are reflected
        [[2.0, 4.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0], [0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 4.0, 2.0]]
    """

    _remedy = "smaller filters"

    @takes_weight("ReflectingDictionary(torch.randn(atoms, channels, 3, 3))")
    def __init__(self, weight: Float[Tensor, "atoms channels *kernel"], dilation: Sizes = 1) -> None:
        super().__init__(weight, dilation=dilation)
        self.padding = tuple(reach // 2 for reach in self.reach)
        if not self.keeps_size:
            raise ValueError(
                f"weight has shape {tuple(self.weight.shape)} and dilation is {self.dilation}; expected kernels of odd "
                "sizes, or even dilations, which reach to both sides equally"
            )

    def with_weight(self, weight: Tensor) -> "ReflectingDictionary":
        return ReflectingDictionary(weight, self.dilation)

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        size = tuple(signal_shape[-self.dims :])
        if any(n <= p for n, p in zip(size, self.padding, strict=True)):
            raise ValueError(
                f"the signal has size {size}, too small to be reflected by {self.padding}; expected more pixels than "
                "that along each axis"
            )
        return size

    def _correlate(self, signal: Tensor, weight: Tensor) -> Tensor:
        for axis, n in enumerate(self.padding, 2):
            if n:
                last = signal.shape[axis] - 1
                before, after = (signal.narrow(axis, start, n).flip(axis) for start in (1, last - n))
                signal = torch.cat([before, signal, after], dim=axis)
        return convolve(signal, weight, self.stride, (0,) * self.dims, self.dilation)

    def _superpose(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        none = (0,) * self.dims
        signal = adjoint(code, self.weight, self.stride, none, none, self.dilation)
        for axis, (size, n) in enumerate(zip(signal_shape[-self.dims :], self.padding, strict=True), 2):
            if n:
                before, signal, after = signal.split([n, size, n], dim=axis)
                signal = _added(signal, before.flip(axis), axis, 1)
                signal = _added(signal, after.flip(axis), axis, size - 1 - n)
        return signal

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return an upper bound of λmax(DᵀD) for every signal size: 2 for each reflected axis, times the filters' own.

        Up to its borders the reflected signal is one period, 2(n − 1) pixels, of an even signal, with at most twice the
        energy of the signal along each axis, and filters amplify a periodic signal at most as an infinite one. A filter
        that only shifts, such as (1, 0, 0), attains it.
        """
        return super().lipschitz_bound() * 2 ** sum(reach > 0 for reach in self.reach)

    def _place(self, axis: int, place: Tensor, size: int) -> Tensor:
        inside = (place - self.padding[axis]).abs()
        return size - 1 - (size - 1 - inside).abs()

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 atoms *code_size"]:
        # ‖dⱼ‖² = Σ wⱼ[t]·wⱼ[u] over all pairs of taps that fall on the same pixel, which is a product over the axes.
        size = self.code_size((1, *self._example(signal_shape)))
        squares = torch.einsum("ac...,acu->a...u", self.weight, self.weight.flatten(2))
        squares = squares.view(*squares.shape[:-1], *self.weight.shape[2:])
        for axis, n in enumerate(size):
            taps = torch.arange(self.weight.shape[2 + axis], device=squares.device) * self.dilation[axis]
            place = self._place(axis, torch.arange(n, device=squares.device)[:, None] + taps, n)
            same = (place[:, :, None] == place[:, None]).to(squares.dtype)
            squares = torch.tensordot(squares, same, dims=([1, 1 + self.dims - axis], [1, 2]))
        return squares.clamp(min=0).sqrt()[None]


def _added(signal: Tensor, part: Tensor, axis: int, start: int) -> Tensor:
    """Return a signal with a part of it added from ``start`` on along an axis."""
    stop = start + part.shape[axis]
    return torch.slice_scatter(signal, signal.narrow(axis, start, stop - start) + part, axis, start, stop)
