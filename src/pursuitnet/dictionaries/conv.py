"""Shifted copies of small filters, the dictionary of a convolutional layer."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.inputs import as_weight, check_count, check_tensor, takes_weight
from pursuitnet.dictionaries.onednn import CONVOLUTIONS, adjoint, convolve, promote_half, without_autocast

Sizes = int | Sequence[int]


class ConvDictionary(Dictionary):
    """Shifted copies of small filters: Dᵀ is a zero-padded convolution, D its exact adjoint at every signal size.

    Args:
        weight: (atoms, channels/groups, *kernel) with 1, 2 or 3 kernel axes, of any size.
        stride: step between two positions of a filter, one for all axes or one each, as are padding and dilation.
        padding: zeros added on both sides.
        dilation: distance between two taps, the paper's s.
        groups: of channels that each have atoms of their own, in order, as PyTorch's layers have them; as many as
            channels make it depthwise.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D = pn.ConvDictionary(torch.randn(16, 3, 5, 5), stride=2, padding=2)
        >>> code = D.analyze(torch.rand(4, 3, 9, 9))
        >>> code.shape, D.synthesize(code, (4, 3, 9, 9)).shape, D.matrix((3, 9, 9)).shape
        (torch.Size([4, 16, 5, 5]), torch.Size([4, 3, 9, 9]), torch.Size([243, 400]))
    """

    _remedy = "more padding"

    @takes_weight("ConvDictionary(torch.randn(atoms, channels, 3, 3), padding=1)")
    def __init__(
        self,
        weight: Float[Tensor, "atoms channels *kernel"],
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        weight = as_weight(weight, "(atoms, channels, *kernel)")
        if weight.dim() not in (3, 4, 5) or 0 in weight.shape:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; expected (atoms, channels, *kernel) with 1 to 3 kernel axes"
            )
        check_count("groups", groups, 1, "which divides the number of atoms")
        if len(weight) % groups:
            raise ValueError(f"groups is {groups}, which does not divide the {len(weight)} atoms; expected a divisor")
        self.weight, self.groups = nn.Parameter(weight), groups
        self.code_channels, self.channels, self.dims = (len(weight),), groups * weight.shape[1], weight.dim() - 2
        self.stride = _sizes("stride", stride, self.dims, least=1)
        self.padding = _sizes("padding", padding, self.dims, least=0)
        self.dilation = _sizes("dilation", dilation, self.dims, least=1)

    def with_weight(self, weight: Tensor) -> "ConvDictionary":
        """Return a dictionary of the same kind with other filters, (atoms, channels, *kernel)."""
        return ConvDictionary(weight, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        places = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        places += f", groups={self.groups}" if self.groups > 1 else ""
        return f"{self.channels} → {self.code_channels[0]}, kernel={tuple(self.weight.shape[2:])}, {places}"

    @property
    def reach(self) -> tuple[int, ...]:
        """Distance between the first and the last tap along each axis, dilation included."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))

    def dense_weight(self) -> Float[Tensor, "atoms channels *kernel"]:
        """Return the filters over all channels, with zeros in those of other groups."""
        if self.groups == 1:
            return self.weight
        own = torch.eye(self.groups, dtype=self.weight.dtype, device=self.weight.device)
        return torch.einsum("gac...,gh->gahc...", self._grouped(self.weight), own).flatten(0, 1).flatten(1, 2)

    def _grouped(self, weight: Tensor) -> Tensor:
        """Return filters (atoms, …) as (groups, atoms of each, …)."""
        return weight.unflatten(0, (self.groups, -1))

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the code's size along each axis for a signal of the given shape."""
        axes = zip(signal_shape[-self.dims :], self.reach, self.stride, self.padding, strict=True)
        size = tuple((n + 2 * p - r - 1) // s + 1 for n, r, s, p in axes)
        if min(size) < 1:
            raise ValueError(
                f"the signal has size {tuple(signal_shape[-self.dims :])}, too small for filters that reach over "
                f"{tuple(r + 1 for r in self.reach)} with padding {self.padding}; expected larger signals or "
                f"{self._remedy}"
            )
        return size

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B atoms *code_size"]:
        self.check_signal(signal)
        return self._correlate(signal, self.weight)

    def analyze_parts(self, signal: Tensor) -> Code:
        return (self._correlate(signal, self.weight),)

    def synthesize(
        self, code: Float[Tensor, "B atoms *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        self.check_code(code, signal_shape)
        return self._superpose(code, signal_shape)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        return self._superpose(parts[0], signal_shape)

    def check_signal(self, signal: Tensor) -> None:
        check_tensor(signal, self.weight)
        super().check_signal(signal)
        self.code_size(signal.shape)

    def _correlate(self, signal: Tensor, weight: Tensor) -> Tensor:
        """Return Dᵀx for filters (atoms, channels/groups, *kernel): a new tensor."""
        return convolve(signal, weight, self.stride, self.padding, self.dilation, self.groups)

    def _superpose(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ: a new tensor."""
        # A stride leaves 0 to stride − 1 pixels at the end of the signal: all are computed, then cropped to the signal.
        spare = tuple(s - 1 for s in self.stride)
        signal = adjoint(code, self.weight, self.stride, self.padding, spare, self.dilation, self.groups)
        if any(spare):
            for axis, size in enumerate(signal_shape[-self.dims :], 2):
                signal = signal.narrow(axis, 0, size)
        return signal

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return an upper bound of λmax(DᵀD) for every signal size and padding, usually within a quarter of it.

        On an infinite signal DDᵀ is, at each frequency ω, the small matrix Ĝ(ω) = F̂(ω)F̂(ω)ᴴ, and a finite zero-
        padded signal only sees a compression of it. λmax(Ĝ) ≤ (tr Ĝ¹⁶)^(1/16) at each ω of a grid, and a
        trigonometric polynomial of degree m exceeds its largest value on n equidistant points by at most
        1/cos(πm/n) an axis (Ehlich and Zeller, 1964).
        """
        if self.weight.is_meta:  # slow, for no value
            return promote_half(self.weight).new_empty(())
        filters = self._grouped(promote_half(self._polyphase()))  # DDᵀ of each group is a block of its own
        degrees = [k - 1 for k in filters.shape[3:]]
        points = [max(1, 8 * m) for m in degrees]
        with without_autocast(filters.device):
            if filters.shape[1] > filters.shape[2]:
                filters = filters.transpose(1, 2)  # the smaller of F̂F̂ᴴ and F̂ᴴF̂ has the same largest eigenvalue
            # Σ F[a]·F[b] at every shift from −m to m, by one convolution; starting at −m is only a phase in the
            # frequency domain, which does not change a norm
            exact = filters.double() if filters.is_cuda else filters  # TF32 has ten bits there
            rows = exact.transpose(0, 1).flatten(1, 2)
            convolution = CONVOLUTIONS[self.dims - 1]
            products = convolution(rows, exact.flatten(0, 1), None, 1, degrees, 1, self.groups).to(filters.dtype)
            blocks = torch.fft.rfftn(products, points).flatten(2).unflatten(1, (self.groups, -1))
            gram = blocks.permute(1, 3, 0, 2).flatten(0, 1).contiguous()
            scale = _frobenius(gram).clamp(min=torch.finfo(filters.dtype).tiny)
            # of real numbers: PyTorch divides a complex tensor by a real one five times as slowly
            power = torch.view_as_complex(torch.view_as_real(gram) / scale)
            for _ in range(3):
                power = power @ power
            largest = scale * _frobenius(power) ** (1 / 8)
        return largest / math.prod([math.cos(math.pi * m / n) for m, n in zip(degrees, points, strict=True)])

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        shape = self._example(signal_shape)
        corner: list[Tensor] = []
        atom = chosen
        for n in reversed(self.code_size((1, *shape))):
            corner.insert(0, atom % n)
            atom = atom // n
        own = self.channels // self.groups  # the channels of an atom's group
        group = atom // (len(self.weight) // self.groups)
        places = group[:, None] * own + torch.arange(own, device=chosen.device)
        values = self.weight[atom].flatten(1)
        inside = torch.ones_like(places, dtype=torch.bool)
        for axis, (at, n) in enumerate(zip(corner, shape[1:], strict=True)):
            taps = torch.arange(self.weight.shape[2 + axis], device=chosen.device)
            place = self._place(axis, at[:, None] * self.stride[axis] + taps * self.dilation[axis], n)
            inside = (inside[:, :, None] & ((place >= 0) & (place < n))[:, None]).flatten(1)
            places = (places[:, :, None] * n + place.clamp(0, n - 1)[:, None]).flatten(1)
        return places, values * inside

    def _place(self, axis: int, place: Tensor, size: int) -> Tensor:
        """Return the position of a tap along an axis of the signal; positions outside of it are padding."""
        return place - self.padding[axis]

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 atoms *code_size"]:
        # ‖dⱼ‖² is the sum of the squared taps inside the signal: the analysis of ones by squared filters.
        ones = self.weight.new_ones(1, *self._example(signal_shape))
        self.code_size(ones.shape)
        return self._correlate(ones, self.weight.square()).clamp(min=0).sqrt()

    @property
    def keeps_size(self) -> bool:
        """Whether the code has the size of its signal, for every signal size."""
        return max(self.stride) == 1 and all(2 * p == r for p, r in zip(self.padding, self.reach, strict=True))

    def _polyphase(self, weight: Tensor | None = None) -> Tensor:
        """Return filters (atoms, channels·∏stride, *) that have the same spectrum at stride and dilation 1."""
        weight = self.weight if weight is None else weight
        if max(self.stride) == 1:
            return weight  # dilation only repeats the spectrum
        for axis, (dilation, stride, reach) in enumerate(zip(self.dilation, self.stride, self.reach, strict=True), 2):
            length = -(-(reach + 1) // stride) * stride
            taps = torch.arange(weight.shape[axis], device=weight.device) * dilation
            shape = [*weight.shape[:axis], length, *weight.shape[axis + 1 :]]
            spread = weight.new_zeros(shape).index_copy(axis, taps, weight)
            weight = spread.unflatten(axis, (length // stride, stride)).movedim(axis + 1, 1).flatten(1, 2)
        return weight


def _sizes(name: str, value: Sizes, dims: int, least: int) -> tuple[int, ...]:
    sizes = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * dims
    if len(sizes) != dims or any(not isinstance(n, int) or n < least for n in sizes):
        raise ValueError(f"{name} is {value!r}; expected one integer ≥ {least}, or {dims} of them")
    return sizes


def _frobenius(matrices: Tensor) -> Tensor:
    """Return the largest Frobenius norm among complex matrices (n, rows, columns)."""
    return torch.view_as_real(matrices).square().sum(dim=(1, 2, 3)).amax().sqrt()
