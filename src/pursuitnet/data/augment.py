"""Augmentation and normalization of batches of images."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pursuitnet.data.identity import PART
from pursuitnet.data.streamed import Streamed
from pursuitnet.utils.nearest import require_known

FILLINGS = ("zeros", "reflect")
ROUNDING = 1 / (255 * math.sqrt(12))
"""Standard deviation of the error of rounding to 8 bits, on the [0, 1] scale."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # pixels of any type are moved as these


def augment(
    images: Tensor, generator: torch.Generator, shift: int = 4, flip: bool = True, mode: str = "zeros"
) -> Tensor:
    """Move each image by its own -shift..shift pixels along H and W, and mirror it with probability 1/2.

    (B, C, H, W) -> (B, C, H, W), same dtype, device and memory format. New pixels are 0 (mode "zeros": black before
    normalization, the mean after it) or the image mirrored at its edge pixel (mode "reflect"). The draws are uniform,
    come only from `generator`, on its own device, and are the same with and without `flip`.

    Raises ValueError for another number of dimensions, an unknown mode, a negative shift, and "reflect" with
    a shift not below H and W. Source: He et al., Deep residual learning for image recognition (2016), 4.2.
    """
    _require_batch(images)
    _require_shift(images, shift, mode)

    def draw(low: int, high: int) -> Tensor:
        drawn = torch.randint(low, high + 1, (len(images), 1), generator=generator, device=generator.device)
        return drawn.to(images.device)

    down, right, mirrored = draw(-shift, shift), draw(-shift, shift), draw(0, 1) == 1
    mirrored &= flip
    if images.device.type == "cpu" and not images.requires_grad and images.element_size() in _BITS:
        return _windowed(images, shift - down, shift - right, mirrored, shift, mode)
    return _gathered(images, down, right, mirrored, mode)


def to_unit(images: Tensor) -> Tensor:
    """Return uint8 images 0..255, of any shape, as float32 in [0, 1]; raises TypeError for another dtype."""
    _require_uint8(images)
    return images.to(torch.float32).div_(255)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (images/255 − mean) / std, channel by channel, in the memory format channels_last.

    uint8 (B, C, H, W), or float32 in [0, 1], which are not divided by 255; mean (C,), std (C,) -> float32 (B, C, H, W);
    faster if the images are channels_last already.

    Raises TypeError for another dtype, ValueError for another number of dimensions.
    """
    _require_batch(images)
    unit = images.clone() if images.dtype == torch.float32 else to_unit(images)
    if not _channels_last(images):
        unit.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))
        return unit.contiguous(memory_format=torch.channels_last)
    rows = unit.permute(0, 2, 3, 1).flatten(2)  # a view with long rows: broadcasting over 3 channels is slow
    rows.sub_(mean.repeat(images.shape[3])).div_(std.repeat(images.shape[3]))
    return unit


def channel_statistics(images: Tensor | Streamed) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (dividing by the count) of each channel on the [0, 1] scale.

    uint8 (N, C, H, W) -> float32 (C,), float32 (C,). The sums are exact integers over a histogram: no float copy of the
    images is made and no rounding errors accumulate; for float32 images in [0, 1] they are in float64. The deviation of
    a constant channel is 0.

    Raises TypeError for another dtype, ValueError for another number of dimensions and for no pixels.
    """
    if images.dtype != torch.float32:
        _require_uint8(images)
    _require_batch(images)
    if images.shape.numel() == 0:
        raise ValueError(f"images of shape {tuple(images.shape)} hold no pixels: pass at least one image")
    if isinstance(images, Streamed):
        none = torch.empty(0)
        moments = torch.tensor(images.remembered("moments", none, lambda: {"of": _statistics(images).tolist()})["of"])
    else:
        moments = _statistics(images)
    return moments[0].to(images.device, torch.float32), moments[1].to(images.device, torch.float32)


def _statistics(images: Tensor | Streamed) -> Tensor:
    """Mean and standard deviation of each channel in float64, (2, C)."""
    n, white = images.shape.numel() // images.shape[1], 1 if images.dtype == torch.float32 else 255
    channels = zip(*([_sums(channel) for channel in part.unbind(1)] for part in images.split(PART)), strict=True)
    moments = [_moments(n, sum(s for s, _ in sums), sum(q for _, q in sums), white) for sums in channels]
    return torch.tensor(moments, dtype=torch.float64).T


def divisor(std: Tensor) -> Tensor:
    """Return the divisor of each channel: its standard deviation, or 1 for a channel that is constant up to rounding.

    (C,) on the [0, 1] scale -> (C,). Dividing by the tiny deviation of a constant channel would turn one gray level of
    a later image into thousands. In images of 8 bits a deviation below `ROUNDING` is rounding error. scikit-learn's
    StandardScaler does the same, with the rounding of its own floats.
    """
    return torch.where(std > ROUNDING, std, torch.ones_like(std))


def _sums(pixels: Tensor) -> tuple[float, float]:
    """Sum and sum of squares of pixels; those of uint8 ones are exact integers."""
    if pixels.dtype != torch.uint8:
        return float(pixels.double().sum()), float(pixels.double().square().sum())
    counts, values = torch.bincount(pixels.flatten(), minlength=256), torch.arange(256, device=pixels.device)
    return int((counts * values).sum()), int((counts * values**2).sum())


def _moments(n: int, total: float, squares: float, white: int) -> tuple[float, float]:
    """Mean and standard deviation of n pixels on the [0, 1] scale, from their sums."""
    return total / (white * n), math.sqrt(max(n * squares - total**2, 0)) / (white * n)


def _windowed(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, shift: int, mode: str) -> Tensor:
    """Windows of the padded images, each at its own (top, left), cropped in one step.

    By NumPy, which copies windows row by row; channels may come last, as long rows are fastest.
    """
    last = _channels_last(images)
    order, back = ((0, 2, 3, 1), (0, 3, 1, 2)) if last else ((0, 1, 2, 3), (0, 1, 2, 3))
    bits = images.detach().permute(order).view(_BITS[images.element_size()])
    source, chosen = np.array(bits.numpy(), order="C"), mirrored[:, 0].numpy()
    source[chosen] = torch.from_numpy(source[chosen]).permute(back).flip(3).permute(order).numpy()
    rows, columns = (1, 2) if last else (2, 3)
    padded = _padded(source, rows, columns, shift, mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, tuple(images.shape[2:]), axis=(rows, columns))
    at, y, x = np.arange(len(source)), top[:, 0].numpy(), left[:, 0].numpy()
    cut = np.moveaxis(windows, 3, 5)[at, y, x] if last else windows[at, :, y, x]
    return torch.from_numpy(cut).view(images.dtype).permute(back)


def _padded(pixels: NDArray[Any], rows: int, columns: int, shift: int, mode: str) -> NDArray[Any]:
    """The images with `shift` pixels around them."""
    around = [(shift if axis in (rows, columns) else 0) for axis in range(4)]
    padded = np.zeros([n + 2 * k for n, k in zip(pixels.shape, around, strict=True)], pixels.dtype)
    padded[tuple(slice(k, k + n) for n, k in zip(pixels.shape, around, strict=True))] = pixels
    if mode == "reflect":
        last = columns == 2
        for part in np.moveaxis(padded, -1, 0) if last else (padded,):
            _mirror_ends(part, columns, shift)
        _mirror_ends(padded, rows, shift)
    return padded


def _mirror_ends(padded: NDArray[Any], axis: int, shift: int) -> None:
    """Fill the first and the last `shift` entries of an axis by reflection, one at a time.

    NumPy's inner loop then runs along the other axes, which are longer.
    """
    line = np.moveaxis(padded, axis, 0)
    for k in range(shift):
        line[k], line[-1 - k] = line[2 * shift - k], line[k - 1 - 2 * shift]


def _gathered(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor, mode: str) -> Tensor:
    """The same by gathering pixels, for any device and with gradients."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - down
    columns = torch.arange(width, device=images.device) - right
    columns = torch.where(mirrored, width - 1 - columns, columns)
    if mode == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    outside = ~(inside_rows[:, None, :, None] & inside_columns[:, None, None, :])
    pixel = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    pixels = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, pixels).view(images.shape).masked_fill(outside, 0)
    return moved.contiguous(memory_format=torch.channels_last) if _channels_last(images) else moved


def _channels_last(images: Tensor) -> bool:
    """Whether images are channels_last, and not also contiguous."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices in -(size-1)..2(size-1) folded back into 0..size-1, the edge pixel not repeated."""
    return size - 1 - (size - 1 - index.abs()).abs()


def _require_shift(images: Tensor, shift: int, mode: str) -> None:
    require_known("mode", mode, FILLINGS)
    height, width = images.shape[-2:]
    if shift < 0 or (mode == "reflect" and shift >= min(height, width)):
        limit = f"0..{min(height, width) - 1}" if mode == "reflect" else "0 or more"
        raise ValueError(f"shift is {shift}: pass {limit} pixels for {height}x{width} images, mode {mode!r}")


def _require_batch(images: Tensor | Streamed) -> None:
    if len(images.shape) != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: pass a batch (B, C, H, W)")


def _require_uint8(images: Tensor | Streamed) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: pass uint8, 0..255, as load returns them")
