"""A convolution at one signal size, computed in the frequency domain where that is faster."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries import blocks
from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.circular import CircularDictionary
from pursuitnet.dictionaries.conv import ConvDictionary
from pursuitnet.dictionaries.identity import WithIdentity
from pursuitnet.dictionaries.torus import Torus, fast_length, transform_costs


class FourierDictionary(Dictionary):
    """The same D, with Dᵀ and D computed on a torus that holds the signal and its padding: equal to rounding.

    A corner of an atom at q covers the torus from q·stride on, and the signal begins at ``padding``. The filters are
    those of the moment at which it is made, without gradients.

    Args:
        dictionary: D.
        size: of the signals, along each axis.
        analysis: whether Dᵀ is computed in the frequency domain.
        synthesis: whether D is.
    """

    def __init__(
        self, dictionary: ConvDictionary, size: Sequence[int], analysis: bool = True, synthesis: bool = True
    ) -> None:
        super().__init__()
        self.dictionary, self.analysis, self.synthesis = dictionary, analysis, synthesis
        self.channels, self.code_channels, self.dims = dictionary.channels, dictionary.code_channels, dictionary.dims
        D = dictionary
        self.periodic = isinstance(D, CircularDictionary)
        code = D.code_size((1, D.channels, *size))
        self.torus = Torus(D.dense_weight().detach(), D.dilation, torus_size(D, size))
        self.corners = tuple(slice(0, s * (m - 1) + 1, s) for m, s in zip(code, D.stride, strict=True))
        self.window = tuple(slice(p, p + n) for n, p in zip(size, D.padding, strict=True))

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B atoms *code_size"]:
        self.check_signal(signal)
        return self.analyze_parts(signal)[0]

    def synthesize(
        self, code: Float[Tensor, "B atoms *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        self.check_code(code, signal_shape)
        return self.synthesize_parts((code,), signal_shape)

    def analyze_parts(self, signal: Tensor) -> Code:
        if not self.analysis:
            return self.dictionary.analyze_parts(signal)
        return (self.cut(self.torus.analyze(self.place(signal, self.window)), self.corners),)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        if not self.synthesis:
            return self.dictionary.synthesize_parts(parts, signal_shape)
        return self.cut(self.torus.synthesize(self.place(parts[0], self.corners)), self.window)

    def place(self, values: Tensor, slices: Sequence[slice]) -> Tensor:
        """Return values (B, channels, …) at their places on the torus, and zeros elsewhere."""
        if self.periodic:
            return values
        if all(s.step in (None, 1) for s in slices):
            sides = [(s.start, n - s.stop) for s, n in zip(slices, self.torus.size, strict=True)]
            return F.pad(values, [side for pair in reversed(sides) for side in pair])
        whole = values.new_zeros(*values.shape[:2], *self.torus.size)
        whole[(slice(None), slice(None), *slices)] = values
        return whole

    def cut(self, values: Tensor, slices: Sequence[slice]) -> Tensor:
        """Return what lies at some places of the torus."""
        return values if self.periodic else values[(slice(None), slice(None), *slices)].contiguous()

    def check_signal(self, signal: Tensor) -> None:
        self.dictionary.check_signal(signal)

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        return self.dictionary.code_size(signal_shape)

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        return self.dictionary.columns(chosen, signal_shape)

    def atom_norms(self, signal_shape: Sequence[int] | None = None) -> Float[Tensor, "1 atoms *code_size"]:
        return self.dictionary.atom_norms(signal_shape)

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        return self.dictionary.lipschitz_bound()


@torch.no_grad()
def in_fourier_domain(dictionary: Dictionary, signal_shape: Sequence[int]) -> Dictionary:
    """Return a dictionary that computes in the frequency domain where that is faster at this size, or D itself.

    Which is faster is estimated from the sizes alone, for the processors that PyTorch's convolutions and MKL run on;
    on other devices D stays as it is. The synthesis of few channels gains most, since its convolution is the slowest.

    Args:
        dictionary: D, or [I D].
        signal_shape: (B, channels, …).
    """
    if isinstance(dictionary, WithIdentity):
        inner = in_fourier_domain(dictionary.dictionary, signal_shape)
        return dictionary if inner is dictionary.dictionary else WithIdentity(inner)
    known = type(dictionary) in (ConvDictionary, CircularDictionary)  # a class of one's own computes in its own way
    if not isinstance(dictionary, ConvDictionary) or not known or dictionary.weight.device.type != "cpu":
        return dictionary
    if dictionary.groups > 1:  # its direct convolution does less than the torus, which has all channels at once
        return dictionary
    there = transform_costs(dictionary.channels, dictionary.code_channels[0], torus_size(dictionary, signal_shape[2:]))
    here = direct_costs(dictionary, dictionary.code_size(signal_shape))
    analysis, synthesis = (t < h for t, h in zip(there, here, strict=True))
    return FourierDictionary(dictionary, signal_shape[2:], analysis, synthesis) if analysis or synthesis else dictionary


def direct(dictionary: Dictionary) -> Dictionary:
    """Return the dictionary that ``in_fourier_domain`` was given."""
    if isinstance(dictionary, WithIdentity) and isinstance(dictionary.dictionary, FourierDictionary):
        return WithIdentity(dictionary.dictionary.dictionary)
    return dictionary.dictionary if isinstance(dictionary, FourierDictionary) else dictionary


def torus_size(D: ConvDictionary, size: Sequence[int]) -> list[int]:
    """Return the size of a torus that holds a signal and its padding: that of the signal where D is periodic."""
    if isinstance(D, CircularDictionary):
        return list(size)
    return [fast_length(n + 2 * p) for n, p in zip(size, D.padding, strict=True)]


def direct_costs(D: ConvDictionary, code_size: Sequence[int]) -> tuple[float, float]:
    """Return about how many products Dᵀ and D take as convolutions of an example.

    In single precision 16 channels of the result are computed at a time, so that one costs as much as 16, unless
    ``blocks`` has a faster way; in double precision there is no such thing, and a product takes about ten times as
    long.
    """
    atoms, channels, *kernel = D.weight.shape
    each = math.prod(kernel) * math.prod(code_size)
    if D.weight.dtype != torch.float32:
        return (5 * channels * atoms * each,) * 2
    synthesis: float = 16 * -(-channels // 16) * atoms * each
    if blocks.fit(D.weight, D.stride, D.dilation, D.groups):
        synthesis = blocks.products(D.weight, math.prod(code_size))
    return channels * 16 * -(-atoms // 16) * each, synthesis
