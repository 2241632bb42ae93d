"""Factor 2, the dictionary D: a matrix, a convolution in 1 to 3 dimensions, and [I D].

A dictionary is used in two directions, ``analyze`` (Dᵀx, what a network calls a convolution) and ``synthesize``
(DΓ, its exact adjoint). Everything else here is derived from the two.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.solvers import Code

Sizes = int | Sequence[int]


class Dictionary(nn.Module, ABC):
    """What every dictionary promises; a new one writes ``analyze``, ``synthesize`` and ``lipschitz_bound``.

    Attributes:
        channels: rows of the signal, (B, channels, …).
        rows: rows of each part of the code; their sum is the size of the code's second axis.
        dims: number of axes after the second: 0 for vectors, 1 to 3 for convolutions.
    """

    channels: int
    rows: tuple[int, ...]
    dims: int = 0

    @abstractmethod
    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B rows *code_size"]:
        """Return Dᵀx, the correlation of the signal with every atom."""

    @abstractmethod
    def synthesize(
        self, code: Float[Tensor, "B rows *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        """Return DΓ, the sum of atoms weighted by the code; signal_shape is the shape of the result."""

    @abstractmethod
    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return an upper bound of λmax(DᵀD) that holds for every signal size."""

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the code's size along each axis after the second for a signal of the given shape."""
        return ()

    # A code travels through the loop in its parts; these four lines are all that [I D] overrides.
    def split(self, code: Tensor) -> Code:
        """Return the parts of a code: views, not copies."""
        return (code,)

    def join(self, parts: Code) -> Tensor:
        """Return the code (B, rows, …) that the parts make up."""
        return parts[0]

    def analyze_parts(self, signal: Tensor) -> Code:
        """Return Dᵀx in parts."""
        return (self.analyze(signal),)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ of a code in parts."""
        return self.synthesize(parts[0], signal_shape)

    def matrix(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "signal_numel code_numel"]:
        """Return the explicit D of one example, rows and columns in the order of ``flatten``.

        Args:
            signal_shape: (B, channels, …) or (channels, …); B is of no account.
        """
        shape = self._example(signal_shape)
        weight = next(self.parameters())
        basis = torch.eye(math.prod(shape), dtype=weight.dtype, device=weight.device)
        return self.analyze(basis.view(-1, *shape)).flatten(1)

    def lipschitz(self, signal_shape: Sequence[int] | None = None) -> float:
        """Return λmax(DᵀD) at this signal size, in float64: to about 1e-10 relative, 1e-6 for long 1-D signals.

        Args:
            signal_shape: (B, channels, …) or (channels, …); B is of no account.
        """
        shape = (1, *self._example(signal_shape))
        exact = copy.deepcopy(self).double()
        device = next(exact.parameters()).device
        with torch.no_grad():
            if math.prod(shape) <= 512:
                return float(torch.linalg.matrix_norm(exact.matrix(shape), 2) ** 2)
            start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            return _lanczos(lambda x: exact.synthesize(exact.analyze(x), shape), start.to(device))

    def _example(self, signal_shape: Sequence[int] | None) -> tuple[int, ...]:
        """Return the shape of one example, (channels, …), from a shape with or without the batch."""
        shape = (self.channels,) if signal_shape is None and self.dims == 0 else tuple(signal_shape or ())
        shape = shape[1:] if len(shape) == self.dims + 2 else shape
        if len(shape) != self.dims + 1 or shape[0] != self.channels:
            raise ValueError(f"signal_shape is {signal_shape}; expected (B, {self.channels}, and {self.dims} sizes)")
        return shape

    def check_code(self, code: Tensor, signal_shape: Sequence[int], name: str = "the code") -> None:
        """Raise ValueError unless this is the shape of a code of such a signal, (B, channels, …)."""
        shape = tuple(signal_shape)
        if len(shape) != self.dims + 2 or shape[1] != self.channels:
            sizes = f", and {self.dims} sizes" if self.dims else ""
            raise ValueError(f"signal_shape is {shape}; expected (B, {self.channels}{sizes})")
        expected = (shape[0], sum(self.rows), *self.code_size(shape))
        if tuple(code.shape) != expected:
            raise ValueError(
                f"{name} has shape {tuple(code.shape)}; expected {expected}, for a signal of shape {shape}"
            )

    def _check(self, signal: Tensor) -> None:
        if signal.dim() != self.dims + 2 or signal.shape[1] != self.channels:
            raise ValueError(
                f"the signal has shape {tuple(signal.shape)}; this {type(self).__name__} expects "
                f"(B, {self.channels}{f', and {self.dims} sizes' if self.dims else ''})"
            )


class LinearDictionary(Dictionary):
    """A dictionary given by its atoms: D = weightᵀ, signals (B, features), codes (B, atoms).

    Args:
        weight: (atoms, features), one atom a row.
    """

    def __init__(self, weight: Float[Tensor, "atoms features"]) -> None:
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight has shape {tuple(weight.shape)}; expected (atoms, features)")
        self.weight = nn.Parameter(weight)
        self.rows, self.channels = (weight.shape[0],), weight.shape[1]

    def analyze(self, signal: Float[Tensor, "B features"]) -> Float[Tensor, "B atoms"]:
        self._check(signal)
        return F.linear(signal, self.weight)

    def synthesize(
        self, code: Float[Tensor, "B atoms"], signal_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "B features"]:
        self.check_code(code, (len(code), self.channels) if signal_shape is None else signal_shape)
        return F.linear(code, self.weight.mT)

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return λmax(DᵀD) itself: a matrix has one size."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return torch.linalg.matrix_norm(self.weight, 2) ** 2


class ConvDictionary(Dictionary):
    """Shifted copies of small filters: Dᵀ is a zero-padded convolution, D its exact adjoint at every signal size.

    Args:
        weight: (atoms, channels, *kernel) with 1, 2 or 3 kernel axes, of any size.
        stride: step between two positions of a filter, one for all axes or one each, as are padding and dilation.
        padding: zeros added on both sides.
        dilation: distance between two taps, the paper's s.
    """

    def __init__(
        self,
        weight: Float[Tensor, "atoms channels *kernel"],
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
    ) -> None:
        super().__init__()
        if weight.dim() not in (3, 4, 5) or 0 in weight.shape:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; expected (atoms, channels, *kernel) with 1 to 3 kernel axes"
            )
        self.weight = nn.Parameter(weight)
        self.rows, self.channels, self.dims = (weight.shape[0],), weight.shape[1], weight.dim() - 2
        self.stride = _sizes("stride", stride, self.dims, least=1)
        self.padding = _sizes("padding", padding, self.dims, least=0)
        self.dilation = _sizes("dilation", dilation, self.dims, least=1)
        self._conv = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        self._adjoint = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]

    @property
    def reach(self) -> tuple[int, ...]:
        """Distance between the first and the last tap along each axis, dilation included."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the code's size along each axis for a signal of the given shape."""
        axes = zip(signal_shape[-self.dims :], self.reach, self.stride, self.padding, strict=True)
        size = tuple((n + 2 * p - r - 1) // s + 1 for n, r, s, p in axes)
        if min(size) < 1:
            raise ValueError(
                f"the signal has size {tuple(signal_shape[-self.dims :])}, too small for filters that reach over "
                f"{tuple(r + 1 for r in self.reach)} with padding {self.padding}; use larger signals or more padding"
            )
        return size

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B atoms *code_size"]:
        self._check(signal)
        self.code_size(signal.shape)
        return self._conv(signal, self.weight, None, self.stride, self.padding, self.dilation)

    def synthesize(
        self, code: Float[Tensor, "B atoms *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        self.check_code(code, signal_shape)
        # What a stride leaves over at the end of the signal, 0 to stride − 1: derived, never set by hand.
        axes = zip(signal_shape[-self.dims :], self.reach, self.stride, self.padding, strict=True)
        rest = tuple(0 if s == 1 else (n + 2 * p - r - 1) % s for n, r, s, p in axes)
        return self._adjoint(code, self.weight, None, self.stride, self.padding, rest, 1, self.dilation)

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return an upper bound of λmax(DᵀD) for every signal size and padding, usually within a quarter of it.

        On an infinite signal DDᵀ is, at each frequency ω, the small matrix Ĝ(ω) = F̂(ω)F̂(ω)ᴴ, and a finite zero-
        padded signal only sees a compression of it. λmax(Ĝ) ≤ (tr Ĝ¹⁶)^(1/16) at each ω of a grid, and a
        trigonometric polynomial of degree m exceeds its largest value on n equidistant points by at most
        1/cos(πm/n) an axis (Ehlich and Zeller, 1964).
        """
        filters = self._polyphase()
        degrees = [k - 1 for k in filters.shape[2:]]
        points = [max(1, 8 * m) for m in degrees]
        with torch.autocast(filters.device.type, enabled=False):
            symbol = torch.fft.rfftn(filters, points).flatten(2).permute(2, 0, 1)
            tall = symbol.shape[1] > symbol.shape[2]
            gram = symbol.mH @ symbol if tall else symbol @ symbol.mH
            scale = _frobenius(gram).clamp(min=torch.finfo(filters.dtype).tiny)
            power = gram / scale
            for _ in range(3):
                power = power @ power
            largest = scale * _frobenius(power) ** (1 / 8)
        return largest / math.prod([math.cos(math.pi * m / n) for m, n in zip(degrees, points, strict=True)])

    def _polyphase(self) -> Tensor:
        """Return filters (atoms, channels·∏stride, *) that have the same spectrum at stride and dilation 1."""
        weight = self.weight
        if max(self.stride) == 1:
            return weight  # dilation only repeats the spectrum
        for axis, (dilation, stride, reach) in enumerate(zip(self.dilation, self.stride, self.reach, strict=True), 2):
            length = -(-(reach + 1) // stride) * stride
            taps = torch.arange(weight.shape[axis], device=weight.device) * dilation
            shape = [*weight.shape[:axis], length, *weight.shape[axis + 1 :]]
            spread = weight.new_zeros(shape).index_copy(axis, taps, weight)
            weight = spread.unflatten(axis, (length // stride, stride)).movedim(axis + 1, 1).flatten(1, 2)
        return weight


class WithIdentity(Dictionary):
    """[I D], the dictionary of MSDNet and MSD-CSC: the code is the signal's channels, then the atoms (Section V-A).

    Args:
        dictionary: D, whose code has the size of its signal, so that the two stack.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        super().__init__()
        if isinstance(dictionary, ConvDictionary) and (
            max(dictionary.stride) > 1
            or any(2 * p != r for p, r in zip(dictionary.padding, dictionary.reach, strict=True))
        ):
            padding = tuple(r / 2 for r in dictionary.reach)
            raise ValueError(
                f"[I D] needs codes of the signal's size, from stride 1 and padding {padding}; "
                f"got stride {dictionary.stride} and padding {dictionary.padding}"
            )
        self.dictionary = dictionary
        self.channels, self.dims = dictionary.channels, dictionary.dims
        self.rows = (dictionary.channels, sum(dictionary.rows))

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B channels+atoms *size"]:
        return self.join(self.analyze_parts(signal))

    def synthesize(
        self, code: Float[Tensor, "B channels+atoms *size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        self.check_code(code, signal_shape)
        return self.synthesize_parts(self.split(code), signal_shape)

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        return self.dictionary.code_size(signal_shape)

    def split(self, code: Tensor) -> Code:
        return tuple(code.split(self.rows, dim=1))

    def join(self, parts: Code) -> Tensor:
        return torch.cat(parts, dim=1)

    def analyze_parts(self, signal: Tensor) -> Code:
        return signal, self.dictionary.analyze(signal)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        return parts[0] + self.dictionary.synthesize(parts[1], signal_shape)

    def lipschitz(self, signal_shape: Sequence[int] | None = None) -> float:
        """Return 1 + λmax(DᵀD), by Lemma 3."""
        return 1 + self.dictionary.lipschitz(signal_shape)

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        return 1 + self.dictionary.lipschitz_bound()


def _sizes(name: str, value: Sizes, dims: int, least: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(sizes) != dims or any(not isinstance(n, int) or n < least for n in sizes):
        raise ValueError(f"{name} is {value}; expected one integer ≥ {least}, or {dims} of them")
    return sizes


def _frobenius(matrices: Tensor) -> Tensor:
    """Return the largest Frobenius norm among complex matrices (n, rows, columns)."""
    return torch.view_as_real(matrices).square().sum(dim=(1, 2, 3)).amax().sqrt()


def _lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, most: int = 1000) -> float:
    """Return the largest eigenvalue of a positive semi-definite operator (Lanczos without storing the basis).

    Lost orthogonality only repeats eigenvalues that have converged already; the largest one stays right.
    """
    vector, last = start / start.norm(), torch.zeros_like(start)
    diagonal: list[float] = []
    off: list[float] = []
    best, due = 0.0, 10  # the tridiagonal matrix is solved ever more rarely: its cost grows with step³
    for step in range(1, most + 1):
        image = operator(vector) - (off[-1] if off else 0.0) * last
        diagonal.append(float((image * vector).sum()))
        image = image - diagonal[-1] * vector
        off.append(float(image.norm()))
        exhausted = off[-1] <= 1e-12 * max(diagonal)
        if step == due or exhausted:
            due += max(10, step // 4)
            ritz = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
            beside = torch.diag(torch.tensor(off[:-1], dtype=torch.float64), 1)
            value = float(torch.linalg.eigvalsh(ritz + beside + beside.T)[-1])
            if exhausted or value - best < 1e-12 * value:
                return value
            best = value
        last, vector = vector, image / off[-1]
    return best
