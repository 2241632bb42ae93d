"""Convolutional sparse coding as a denoiser: each layer starts at the code of the one before, on one noisy signal."""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet import starts
from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.dictionaries.inputs import check_tensor
from pursuitnet.iterations.checkpointing import recompute
from pursuitnet.layer import PursuitLayer
from pursuitnet.networks.choices import SOLVERS, known
from pursuitnet.networks.halo import steps_of
from pursuitnet.networks.image import ImageNetwork
from pursuitnet.prox.noise import NoiseThreshold
from pursuitnet.prox.step_size import BoundedStep
from pursuitnet.utils.limits import check_weights

GRAY = 0.5
"""Subtracted from an image in [0, 1], so that zero padding is middle gray."""

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class Denoiser(ImageNetwork):
    """Pursuits of the code of one noisy signal, each started at the previous code, and D·Γ of the last one.

        Γₖ = S_θ( Γₖ₋₁ − c·Dₖᵀ(Dₖ·Γₖ₋₁ − y) ),    θ = c·(β₀ + σ·β₁),    Γ₀ = 0

    A code extends beyond the border of the image by the size of a filter, so that every pixel is covered by all shifts
    of every atom, and the data fit is over the pixels of the image only. With one layer the map from y to D·Γ is the
    proximal map of a convex function: with one step because it is the gradient of a convex function and c ≤ 1/L makes
    it nonexpansive (Moreau, 1965), in the limit of many steps because it is y minus a projection; a mean over shifts
    keeps this property.

    Args:
        layers: of one geometry, the first with the start zero, the others with ``res_csc``; thresholds are
            ``NoiseThreshold``.
        synthesis: D of the final D·Γ, of the same geometry.
        average_shifts: with a stride, denoise at each of its shifts and return the mean.
    """

    def __init__(
        self, layers: Sequence[PursuitLayer], synthesis: ConvDictionary, *, average_shifts: bool = True
    ) -> None:
        channels = synthesis.channels
        super().__init__(
            nn.Sequential(*layers), synthesis.code_channels[0], channels, synthesis.dims, head=nn.Identity()
        )
        self.synthesis, self.average_shifts = synthesis, average_shifts
        self.grid = max(synthesis.stride)

    def forward(self, y: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Return the denoised images, (B, C, *size) → (B, C, *size), both in [0, 1].

        A network of one channel denoises each channel as a separate image.

        Args:
            y: noisy images in [0, 1], not clipped.
            sigma: standard deviation of the noise on that scale, a number or (B,); estimated from each image if left
                out.
        """
        noise, channels = self.given(y, sigma)["sigma"], self.out_chans
        x, noise = y.reshape(-1, channels, *y.shape[2:]), noise.repeat_interleave(y.shape[1] // channels)
        denoised = [self._denoised(x, noise, shift) for shift in self._shifts()]
        return (denoised[0] if len(denoised) == 1 else torch.stack(denoised).mean(0)).reshape(y.shape)

    def forward_features(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Return the last code, (B, C, *size) → (B, atoms, *code_size), at the first of the shifts."""
        return self._code(x - GRAY, self.given(x, sigma)["sigma"], self.pursuits())

    def _denoised(self, x: Tensor, noise: Tensor, shift: tuple[int, ...]) -> Tensor:
        """Return D·Γ, with the positions of all atoms shifted by ``shift`` pixels."""
        layers = [_shifted_layer(layer, shift) for layer in self.pursuits()] if any(shift) else self.pursuits()
        synthesis = _shifted(self.synthesis, shift) if any(shift) else self.synthesis
        return synthesis.synthesize(self._code(_channels_last(x) - GRAY, noise, layers), x.shape) + GRAY

    def _code(self, x: Tensor, noise: Tensor, layers: Sequence[PursuitLayer]) -> Tensor:
        checkpointing = self.grad_checkpointing and self.training
        code: Tensor | None = None
        for layer in layers:
            code = recompute(layer, layer, x, code, noise) if checkpointing else layer(x, code, noise)
        return self.head(code)

    def given(self, image: Tensor, sigma: Tensor | float | None = None) -> dict[str, Tensor]:
        """Return the standard deviation of the noise of each image, (B,), estimated where it is not known."""
        check_tensor(image, self.synthesis.weight)
        channels = self.out_chans
        if image.dim() != self.dims + 2 or (channels > 1 and image.shape[1] != channels):
            expected = channels if channels > 1 else "C"
            raise ValueError(f"y has shape {tuple(image.shape)}; expected (B, {expected}, and {self.dims} sizes)")
        if sigma is None:
            return {"sigma": estimated_noise(image)}
        noise = torch.as_tensor(sigma, dtype=image.dtype, device=image.device).reshape(-1)
        if len(noise) not in (1, len(image)):
            raise ValueError(f"sigma has {len(noise)} values; expected one, or one for each of {len(image)} images")
        if not bool(((noise >= 0) & noise.isfinite()).all()):
            raise ValueError(f"sigma is {noise.tolist()}; expected numbers ≥ 0, on the scale of images in [0, 1]")
        return {"sigma": noise.expand(len(image))}

    @property
    def halo(self) -> int:
        """Radius of the receptive field of an output pixel, in pixels, for known σ: k−1 for each step of each layer."""
        steps = sum(1 + steps_of(layer) for layer in self.pursuits())
        return max(self.synthesis.reach) * steps

    def _shifts(self) -> list[tuple[int, ...]]:
        """Return the shifts to average over: all within a stride, or only zero."""
        each = [range(s) if self.average_shifts else range(1) for s in self.synthesis.stride]
        return list(itertools.product(*each))


def _channels_last(x: Tensor) -> Tensor:
    """Return a signal in channels_last, on which convolutions of few channels are two or three times as fast."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _shifted(dictionary: ConvDictionary, shift: Sequence[int]) -> ConvDictionary:
    """Return a dictionary whose positions lie ``shift`` pixels earlier; it shares the weights."""
    other = copy.copy(dictionary)
    other.padding = tuple(p + n for p, n in zip(dictionary.padding, shift, strict=True))
    return other


def _shifted_layer(layer: PursuitLayer, shift: Sequence[int]) -> PursuitLayer:
    """Return a layer with a shifted dictionary; everything else is shared."""
    other = copy.copy(layer)
    other._modules = {**layer._modules, "dictionary": _shifted(cast(ConvDictionary, layer.dictionary), shift)}
    return other


def csc_denoiser(
    *,
    in_chans: int = 1,
    layers: int = 8,
    width: int = 49,
    kernel: int = 7,
    stride: int = 1,
    average_shifts: bool = True,
    shared_dictionary: bool = False,
    unfolding: int = 0,
    solver: str = "ista",
    dims: int = 2,
) -> Denoiser:
    """Build a denoiser of convolutional sparse coding, an unrolled pursuit with thresholds that depend on the noise.

    The atoms begin as a slightly perturbed cosine basis, with which one layer is thresholding in all shifted windows.

    Args:
        in_chans: channels of the image; a denoiser of one channel takes the channels of an image one by one.
        layers: number of pursuits, each started at the previous code.
        width: number of atoms.
        kernel: side of an atom in pixels.
        stride: step between two positions of an atom.
        average_shifts: with a stride, return the mean over all shifts of the image within the stride, at the cost of
            stride 1.
        shared_dictionary: use one dictionary for all layers and for D·Γ, instead of one each.
        unfolding: further steps of each layer.
        solver: of the further steps, "ista" or "fista".
        dims: axes of the image, 1 to 3.

    Raises:
        ValueError: for a choice that does not exist.
    """
    own = not shared_dictionary and layers > 1
    pursuit = SOLVERS[known("solver", solver, SOLVERS)]
    if dims not in (1, 2, 3):
        raise ValueError(f"dims is {dims!r}; expected 1, 2 or 3, the number of the image's axes")
    if stride > kernel:
        raise ValueError(f"stride is {stride}; expected at most kernel, {kernel}, so that atoms cover all pixels")
    check_weights((layers if own else 1) * width * in_chans * kernel**dims, width)
    atoms = cosine_atoms(width, in_chans, kernel, dims)
    count = layers + 1 if own else 1
    dictionaries = [
        ConvDictionary(atoms + 0.01 * torch.randn_like(atoms), stride=stride, padding=kernel - 1) for _ in range(count)
    ]
    pursuits = []
    for number in range(layers):
        dictionary = dictionaries[number if own else 0]
        slope = torch.full((width,), 1.5)
        slope[0] = 0.1  # the constant atom codes the brightness of the image
        start = starts.res_csc if number else starts.zero
        threshold = NoiseThreshold(dictionary.code_channels, 0.0, slope)
        pursuits.append(PursuitLayer(dictionary, start, pursuit, unfolding, step=BoundedStep(), threshold=threshold))
    denoiser = Denoiser(pursuits, dictionaries[-1], average_shifts=average_shifts)
    return denoiser.to(memory_format=torch.channels_last) if dims == 2 else denoiser  # type: ignore[call-overload]


def cosine_atoms(width: int, channels: int, kernel: int, dims: int = 2) -> Tensor:
    """Return atoms of norm 1, (width, channels, *kernel): products of cosines, low frequencies first.

    There are channels·kernelᵈⁱᵐˢ of them, which are orthogonal; atoms beyond these are random.
    """
    bases = [_cosines(n) for n in (channels, *[kernel] * dims)]
    atoms = bases[0]
    for basis in bases[1:]:
        atoms = torch.einsum("i...,jk->ij...k", atoms, basis).flatten(0, 1)
    orders = [sum(order) for order in itertools.product(*(range(len(basis)) for basis in bases))]
    atoms = atoms[sorted(range(len(atoms)), key=orders.__getitem__)][:width]
    extra = torch.randn(width - len(atoms), *atoms.shape[1:])
    return torch.cat([atoms, extra / extra.flatten(1).norm(dim=1).clamp(min=1e-9).view(-1, *[1] * (dims + 1))])


def _cosines(size: int) -> Tensor:
    """Return the orthonormal cosine basis of length ``size``, (size, size), the constant first."""
    grid = torch.arange(size)
    basis = torch.cos(math.pi / size * (grid + 0.5) * grid[:, None])
    return basis / basis.norm(dim=1, keepdim=True)


def estimated_noise(image: Tensor) -> Tensor:
    """Return the standard deviation of white noise in images, (B, C, *size) → (B,).

    The median of |y ∗ m| over 0.6745·‖m‖, for m the product of second differences [1, −2, 1] along every axis, whose
    response to smooth images is small: the mask of Immerkær (1996) with the robust scale of Donoho and Johnstone
    (1994). The finest texture counts as noise.

    Raises:
        ValueError: for images of fewer than 3 pixels along an axis.
    """
    dims = image.dim() - 2
    if min(image.shape[2:]) < 3:
        raise ValueError(f"y has size {tuple(image.shape[2:])}, too small to estimate its noise from; give sigma")
    second = image.new_tensor([1.0, -2.0, 1.0])
    mask = second
    for _ in range(dims - 1):
        mask = mask[..., None] * second
    planes = image.reshape(-1, 1, *image.shape[2:])
    response = CONVOLUTIONS[dims - 1](planes, mask[None, None]).reshape(len(image), -1)
    return response.abs().median(dim=1).values / (0.6745 * mask.norm())
