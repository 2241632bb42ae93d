"""Filters on a torus, the dictionary that the Fourier transform diagonalizes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries.conv import ConvDictionary, Sizes
from pursuitnet.dictionaries.inputs import takes_weight
from pursuitnet.dictionaries.onednn import adjoint
from pursuitnet.dictionaries.torus import spectrum


class CircularDictionary(ConvDictionary):
    """Shifted copies of small filters that wrap around: every code has the size of its signal, at stride 1.

    The boundary condition of solvers in the frequency domain. (DΓ)[p] = Σ_t w[t]·Γ[p − t], indices modulo the size.

    Args:
        weight: (atoms, channels/groups, *kernel) with 1, 2 or 3 kernel axes, of any size.
        dilation: distance between two taps, one for all axes or one each.
        groups: of channels that each have atoms of their own, as in ConvDictionary.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.CircularDictionary(torch.tensor([[[1.0, 2.0]]]))
        >>> D.matrix((1, 4)).tolist()  # the last atom wraps around
        [[1.0, 0.0, 0.0, 2.0], [2.0, 1.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0], [0.0, 0.0, 2.0, 1.0]]
    """

    _remedy = "smaller filters"

    @takes_weight("CircularDictionary(torch.randn(atoms, channels, 3, 3))")
    def __init__(self, weight: Float[Tensor, "atoms channels *kernel"], dilation: Sizes = 1, groups: int = 1) -> None:
        super().__init__(weight, dilation=dilation, groups=groups)

    def with_weight(self, weight: Tensor) -> "CircularDictionary":
        return CircularDictionary(weight, self.dilation, self.groups)

    @property
    def keeps_size(self) -> bool:
        return True

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        super().code_size(signal_shape)  # a filter wraps around at most once
        return tuple(signal_shape[-self.dims :])

    def _correlate(self, signal: Tensor, weight: Tensor) -> Tensor:
        after = [n for reach in reversed(self.reach) for n in (0, reach)]
        return super()._correlate(F.pad(signal, after, mode="circular"), weight)

    def _superpose(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        signal = adjoint(
            code, self.weight, self.stride, self.padding, self.padding, self.dilation, self.groups
        )  # of padding 0
        for axis, (size, reach) in enumerate(zip(signal_shape[-self.dims :], self.reach, strict=True), 2):
            signal, wrapped = signal.split([size, reach], dim=axis)
            signal = torch.cat(
                [signal.narrow(axis, 0, reach) + wrapped, signal.narrow(axis, reach, size - reach)], dim=axis
            )
        return signal

    def lipschitz(self, signal_shape: Sequence[int] | None = None) -> float:
        """Return λmax(DᵀD) at this signal size, exactly: DDᵀ is one small matrix at each frequency."""
        size = self._example(signal_shape)[1:]
        with torch.no_grad():
            symbol = spectrum(self.dense_weight().double(), self.dilation, size).flatten(2).permute(2, 0, 1)
            tall = symbol.shape[1] > symbol.shape[2]
            gram = symbol.mH @ symbol if tall else symbol @ symbol.mH
            return float(torch.linalg.eigvalsh(gram).max())

    def _place(self, axis: int, place: Tensor, size: int) -> Tensor:
        return place % size
