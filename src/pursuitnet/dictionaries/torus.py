"""A convolution on a torus, where the Fourier transform turns it into one small matrix at each frequency."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def spectrum(
    weight: Float[Tensor, "atoms channels *kernel"], dilation: Sequence[int], size: Sequence[int]
) -> Complex[Tensor, "channels atoms *frequencies"]:
    """Return D̂, of which x̂ = D̂Γ̂ at each frequency that ``rfftn`` keeps.

    Args:
        weight: the filters.
        dilation: distance between two taps along each axis.
        size: of the torus, along each axis no less than the filters reach over.
    """
    taps = [slice(0, d * (k - 1) + 1, d) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    spread = weight.new_zeros(weight.shape[1], weight.shape[0], *size)
    spread[(slice(None), slice(None), *taps)] = weight.transpose(0, 1)
    return torch.fft.rfftn(spread, dim=tuple(range(2, weight.dim())))


class Torus:
    """Dᵀ and D of stride 1 between signals and codes of one size, both periodic.

    Args:
        weight: (atoms, channels, *kernel).
        dilation: distance between two taps along each axis.
        size: of signals and codes.
    """

    def __init__(self, weight: Tensor, dilation: Sequence[int], size: Sequence[int]) -> None:
        self.size, self.axes = tuple(size), tuple(range(2, weight.dim()))
        self.spectrum = spectrum(weight, dilation, size)

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B atoms *size"]:
        """Return Dᵀx."""
        transformed = self._forward(signal)
        code = self.spectrum[0].conj() * transformed[:, :1]
        for c in range(1, len(self.spectrum)):
            code.addcmul_(self.spectrum[c].conj(), transformed[:, c : c + 1])
        return self._backward(code)

    def synthesize(self, code: Float[Tensor, "B atoms *size"]) -> Float[Tensor, "B channels *size"]:
        """Return DΓ."""
        transformed = self._forward(code)
        return self._backward(torch.stack([(d * transformed).sum(1) for d in self.spectrum], dim=1))

    def eigen(self) -> tuple[Tensor, Tensor]:
        """Return eigenvalues, (channels, F), and eigenvectors, (channels, channels, F), of D̂D̂ᴴ at all F frequencies.

        With one channel these are Σ|D̂|² and 1.
        """
        flat = self.spectrum.flatten(2)
        if len(flat) == 1:
            return flat.abs().square().sum(1), torch.ones_like(flat[:, :1])
        values, vectors = torch.linalg.eigh(torch.einsum("cmf,dmf->fcd", flat, flat.conj()))
        return values.clamp(min=0).T, vectors.permute(1, 2, 0)

    def rotate(self, signal: Tensor, eigen: tuple[Tensor, Tensor], factor: Tensor) -> Tensor:
        """Return the signal with its parts along the eigenvectors multiplied by a factor (B or 1, channels, F)."""
        transformed = self._forward(signal)
        flat, vectors = transformed.flatten(2), eigen[1]
        if len(vectors) == 1:
            return self._backward((factor * flat).view_as(transformed))
        along = torch.einsum("cdf,bcf->bdf", vectors.conj(), flat)
        return self._backward(torch.einsum("cdf,bdf->bcf", vectors, factor * along).view_as(transformed))

    def _forward(self, values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, dim=self.axes)

    def _backward(self, values: Tensor) -> Tensor:
        return torch.fft.irfftn(values, s=self.size, dim=self.axes)


def fast_length(n: int) -> int:
    """Return the least length from n on that has no prime factor above 5, of which transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def transform_costs(channels: int, atoms: int, size: Sequence[int]) -> tuple[float, float]:
    """Return about how many steps Dᵀ and D take in the frequency domain, as ``direct_costs`` counts them.

    Dᵀ transforms all atoms back, into real numbers, which is slower than D's way there.
    """
    places = math.prod(size)
    transformed = (channels + atoms) * places * math.log2(max(places, 2))
    products = 60 * channels * atoms * places
    return 28 * transformed + products, 7 * transformed + products
