"""The interface of every dictionary, and what follows from its two directions."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pursuitnet.dictionaries.hooks import float64_copy
from pursuitnet.dictionaries.inputs import check_shape, check_tensor, kind_of
from pursuitnet.utils.inplace import reusable

Code = tuple[Tensor, ...]
"""A code in its parts: (atoms,) for a dictionary D, (identity, atoms) for [I D]. Each is (B, code_channels, …)."""


class Dictionary(nn.Module, ABC):
    """Base class of dictionaries; a new one implements ``analyze``, ``synthesize`` and ``lipschitz_bound``.

    Attributes:
        channels: of the signal, (B, channels, …).
        code_channels: channels of each part of the code; their sum is the size of the code's second axis.
        dims: number of axes after the second: 0 for vectors, 1 to 3 for convolutions.
    """

    channels: int
    code_channels: tuple[int, ...]
    dims: int = 0

    @abstractmethod
    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B code_channels *code_size"]:
        """Return Dᵀx, the correlation of the signal with every atom."""

    @abstractmethod
    def synthesize(
        self, code: Float[Tensor, "B code_channels *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        """Return DΓ, the sum of atoms weighted by the code; signal_shape is the shape of the result."""

    @abstractmethod
    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return an upper bound of λmax(DᵀD) that holds for every signal size."""

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the code's size along each axis after the second for a signal of the given shape."""
        return ()

    # Solvers and layers iterate on a code in its parts, which has been checked before.
    def split(self, code: Tensor) -> Code:
        """Return the parts of a code: views, not copies."""
        return (code,)

    def join(self, parts: Code) -> Tensor:
        """Return the code (B, code_channels, …) of these parts."""
        return parts[0]

    def analyze_parts(self, signal: Tensor) -> Code:
        """Return Dᵀx in parts, for a signal that has been checked.

        The caller may overwrite the parts: they are new tensors, except an identity part, which is the signal itself.
        """
        return self.split(_new(self.analyze(signal)))

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ of a code in parts that has been checked: a new tensor, which the caller may overwrite."""
        return _new(self.synthesize(self.join(parts), signal_shape))

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Make ``analyze_parts`` and ``synthesize_parts`` follow an overridden ``analyze`` or ``synthesize``."""
        super().__init_subclass__(**arguments)
        for name in ("analyze", "synthesize"):
            parts, owner = f"{name}_parts", next(c for c in cls.__mro__ if name in vars(c))
            if parts not in vars(cls) and parts not in vars(owner):
                setattr(cls, parts, getattr(Dictionary, parts))

    def matrix(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "signal_numel code_numel"]:
        """Return the explicit D of one example, rows and columns in the order of ``flatten``.

        Args:
            signal_shape: (B, channels, …) or (channels, …); B is ignored.
        """
        shape = self._example(signal_shape)
        weight = self._reference_tensor()
        basis = torch.eye(math.prod(shape), dtype=weight.dtype, device=weight.device)
        return self.analyze(basis.view(-1, *shape)).flatten(1)

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        """Return the chosen columns of ``matrix(signal_shape)`` in sparse form: their row indices and their values.

        Args:
            chosen: which columns, in the order of ``flatten``.
            signal_shape: (B, channels, …) or (channels, …); B is ignored.
        """
        values = self.matrix(signal_shape)[:, chosen].T
        return torch.arange(values.shape[1], device=values.device).expand_as(values), values

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 code_channels *code_size"]:
        """Return ‖dⱼ‖₂ of every column of D, in the shape of the code of one example.

        Args:
            signal_shape: (B, channels, …) or (channels, …); B is ignored.
        """
        shape = self._example(signal_shape)
        size = self.code_size((1, *shape)) if self.dims else ()
        return self.matrix(shape).norm(dim=0).view(1, sum(self.code_channels), *size)

    def lipschitz(self, signal_shape: Sequence[int] | None = None) -> float:
        """Return λmax(DᵀD) at this signal size, in float64, to about 1e-10 relative (1e-6 for long 1-D signals).

        Args:
            signal_shape: (B, channels, …) or (channels, …); B is ignored.
        """
        shape = (1, *self._example(signal_shape))
        exact = float64_copy(self)
        device = exact._reference_tensor().device
        with torch.no_grad():
            if math.prod(shape) <= 512:
                return float(torch.linalg.matrix_norm(exact.matrix(shape), 2) ** 2)
            start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
            return _lanczos(lambda x: exact.synthesize(exact.analyze(x), shape), start.to(device))

    def _reference_tensor(self) -> Tensor:
        """Return any tensor of the dictionary, for its dtype and device."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0, device="cpu"))

    def _example(self, signal_shape: Sequence[int] | None) -> tuple[int, ...]:
        """Return the shape of one example, (channels, …), from a shape with or without the batch."""
        check_shape(signal_shape or ())
        shape = (self.channels,) if signal_shape is None and self.dims == 0 else tuple(signal_shape or ())
        shape = shape[1:] if len(shape) == self.dims + 2 else shape
        if len(shape) != self.dims + 1 or shape[0] != self.channels:
            raise ValueError(f"signal_shape is {signal_shape}; expected (B, {self.channels}, and {self.dims} sizes)")
        return shape

    def check_code(self, code: Tensor, signal_shape: Sequence[int], name: str = "the code") -> None:
        """Raise TypeError or ValueError unless this has the shape of a code of such a signal, (B, channels, …)."""
        if not isinstance(code, Tensor):
            raise TypeError(f"{name} is {kind_of(code)}; expected a tensor: for an array, torch.as_tensor(array)")
        check_shape(signal_shape)
        shape = tuple(signal_shape)
        if len(shape) != self.dims + 2 or shape[1] != self.channels:
            sizes = f", and {self.dims} sizes" if self.dims else ""
            raise ValueError(f"signal_shape is {shape}; expected (B, {self.channels}{sizes})")
        expected = (shape[0], sum(self.code_channels), *self.code_size(shape))
        if tuple(code.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(code.shape)}; expected {expected}, for a signal of shape {shape}"
            )

    def check_signal(self, signal: Tensor) -> None:
        """Raise TypeError or ValueError unless this is a batch of signals, (B, channels, …)."""
        check_tensor(signal)
        if signal.dim() != self.dims + 2 or signal.shape[1] != self.channels:
            raise ValueError(
                f"the signal has shape {tuple(signal.shape)}; this {type(self).__name__} expects "
                f"(B, {self.channels}{f', and {self.dims} sizes' if self.dims else ''})"
            )


def _new(tensor: Tensor) -> Tensor:
    """Return the result of a dictionary, copied where the caller may overwrite it: it may be the argument itself."""
    return tensor if reusable(tensor) is None else tensor.clone()


def _lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, most: int = 1000) -> float:
    """Return the largest eigenvalue of a positive semi-definite operator (Lanczos without storing the basis).

    Lost orthogonality only repeats eigenvalues that have converged already; the largest one stays right.
    """
    vector, last = start / start.norm(), torch.zeros_like(start)
    diagonal: list[float] = []
    off: list[float] = []
    best, due = 0.0, 10  # the tridiagonal matrix is solved less and less often: its cost grows with step³
    for step in range(1, most + 1):
        image = operator(vector) - (off[-1] if off else 0.0) * last
        diagonal.append(float((image * vector).sum()))
        image = image - diagonal[-1] * vector
        off.append(float(image.norm()))
        exhausted = off[-1] <= 1e-12 * max(diagonal)
        if step == due or exhausted:
            due += max(10, step // 4)
            ritz = torch.diag(torch.tensor(diagonal, dtype=torch.float64, device="cpu"))
            upper = torch.diag(torch.tensor(off[:-1], dtype=torch.float64, device="cpu"), 1)
            value = float(torch.linalg.eigvalsh(ritz + upper + upper.T)[-1])
            if exhausted or value - best < 1e-12 * value:
                return value
            best = value
        last, vector = vector, image / off[-1]
    return best
