"""Common corruptions of images at five strengths, after Hendrycks and Dietterich (2019).

The strengths are theirs for 32 × 32 images (CIFAR-10-C). Ours differ in that pixels are rounded to the nearest of 256
values instead of truncated, that every blur replicates the border pixels, and in the random numbers, so results are
near those on the published files but not equal. On smaller images, such as the digits, a blur of the same width in
pixels is stronger than on theirs.
"""

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.nn import functional as F

from pursuitnet import data
from pursuitnet.utils.nearest import require_known

SEVERITIES = (1, 2, 3, 4, 5)

Level = tuple[float, ...]
Apply = Callable[[Tensor, Level, Generator], Tensor]


@dataclass(frozen=True)
class Corruption:
    """One corruption of images: uint8 (B, C, H, W) → uint8 (B, C, H, W).

    Attributes:
        name: its name in the program.
        levels: arguments of ``apply`` at severity 1 to 5.
        apply: (images in [0, 1], level, generator) → images, which may leave [0, 1].
    """

    name: str
    levels: tuple[Level, ...]
    apply: Apply = field(repr=False)

    def __call__(self, images: Tensor, severity: int, generator: Generator) -> Tensor:
        """Return the images at a severity from 1 to 5; all random numbers come from the generator, on the CPU.

        Raises:
            ValueError: for images of another type or shape, or another severity.
        """
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; expected uint8 (B, C, H, W)")
        if severity not in SEVERITIES:
            raise ValueError(f"severity is {severity}; expected 1, 2, 3, 4 or 5")
        unit = data.to_unit(images.cpu())
        corrupted = self.apply(unit, self.levels[severity - 1], generator) if len(images) else unit
        return corrupted.clamp(0, 1).mul(255).round().to(torch.uint8).to(images.device)

    def seeded(self, images: Tensor, severity: int, seed: int) -> Tensor:
        """Return the images with random numbers that depend only on seed and name: the same at every severity."""
        own_seed = (zlib.crc32(self.name.encode()) + 1_000_003 * seed) % 2**32  # the CPU's generator takes 32 bits
        return self(images, severity, torch.Generator().manual_seed(own_seed))


def named(names: Sequence[str]) -> tuple[Corruption, ...]:
    """Return corruptions by name, each once; all of them if no name is given.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.
    """
    for name in names:
        require_known("corruption", name, CORRUPTIONS)
    return tuple(CORRUPTIONS[name] for name in dict.fromkeys(names or CORRUPTIONS))


def _gaussian_noise(x: Tensor, level: Level, generator: Generator) -> Tensor:
    return x + level[0] * torch.randn(x.shape, generator=generator, device=x.device)


def _shot_noise(x: Tensor, level: Level, generator: Generator) -> Tensor:
    return torch.poisson(x * level[0], generator) / level[0]


def _impulse_noise(x: Tensor, level: Level, generator: Generator) -> Tensor:
    hit, white = (torch.rand(x.shape, generator=generator, device=x.device) for _ in range(2))
    return torch.where(hit < level[0], (white < 0.5).to(x), x)


def _gaussian_blur(x: Tensor, level: Level, generator: Generator) -> Tensor:
    line = _gaussian_window(round(4 * level[0]), level[0]).to(x.device)
    return _filtered(x, line[:, None] * line)


def _defocus_blur(x: Tensor, level: Level, generator: Generator) -> Tensor:
    """Average over a disk of radius level[0], itself smoothed by 3 × 3 weights of width level[1]."""
    radius, smoothing = level
    grid = torch.arange(-2, 3, device=x.device)
    disk = (grid[:, None] ** 2 + grid**2 <= radius**2).float()
    line = _gaussian_window(1, smoothing).to(x.device)
    kernel = F.conv2d(disk[None, None], (line[:, None] * line)[None, None], padding=2)
    return _filtered(x, kernel[0, 0] / disk.sum())


def _contrast(x: Tensor, level: Level, generator: Generator) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + level[0] * (x - mean)


def _jpeg(x: Tensor, level: Level, generator: Generator) -> Tensor:
    """Compress images of three channels as color images, and each channel of others as a gray image."""
    channels = 3 if x.shape[1] == 3 else 1
    pixels = x.mul(255).round().to(torch.uint8).reshape(-1, channels, *x.shape[2:])
    coded = np.stack([_jpeg_round_trip(image, int(level[0])) for image in pixels.movedim(1, -1).numpy()])
    return data.to_unit(torch.from_numpy(coded).movedim(-1, 1)).reshape(x.shape)


def _jpeg_round_trip(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return (H, W, 1 or 3) after compression."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file)).reshape(image.shape)


def _gaussian_window(reach: int, sigma: float) -> Tensor:
    """Return Gaussian weights at −reach … reach, which sum to 1."""
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device="cpu") / sigma) ** 2)
    return weights / weights.sum()


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Return every channel filtered with one odd square kernel; border pixels are replicated."""
    reach = len(kernel) // 2
    padded = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(padded, kernel[None, None]).view(x.shape)


def _levels(*values: float) -> tuple[Level, ...]:
    return tuple((value,) for value in values)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("gaussian_noise", _levels(0.04, 0.06, 0.08, 0.09, 0.10), _gaussian_noise),
        Corruption("shot_noise", _levels(500, 250, 100, 75, 50), _shot_noise),
        Corruption("impulse_noise", _levels(0.01, 0.02, 0.03, 0.05, 0.07), _impulse_noise),
        Corruption("gaussian_blur", _levels(0.4, 0.6, 0.7, 0.8, 1.0), _gaussian_blur),
        Corruption("defocus_blur", ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)), _defocus_blur),
        Corruption("contrast", _levels(0.75, 0.5, 0.4, 0.3, 0.15), _contrast),
        Corruption("jpeg", _levels(80, 65, 58, 50, 40), _jpeg),
    )
}
"""By name. Levels: noise σ; photons at white; fraction of pixels; blur σ; (radius, smoothing); factor; quality."""
