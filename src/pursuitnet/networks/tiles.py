"""Applying a network to an image tile by tile, with the same result as on the whole image."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet.dictionaries.inputs import check_tensor, kind_of
from pursuitnet.networks.image import ImageNetwork

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Tile:
    """A tile of an image, and the window that it is computed from.

    Attributes:
        inner: the tile.
        window: the tile with its halo, cut off at the border of the image.
        crop: position of the tile in its window.
    """

    inner: Box
    window: Box
    crop: Box


def tiles(size: Sequence[int], side: int, halo: int, grid: int = 1) -> Iterator[Tile]:
    """Yield the tiles of an image, row by row.

    A window ends a halo beyond its tile, or at the border of the image. At the border, layers pad with zeros as they do
    for the whole image; where a window ends inside the image, the padding affects only the halo, which is cropped.

    Args:
        size: size of the image.
        side: side of a tile, in pixels; the last ones may be smaller.
        halo: radius of the receptive field of an output pixel.
        grid: windows begin at its multiples: the stride of the network.
    """
    for starts in itertools.product(*(range(0, n, side) for n in size)):
        inner = [slice(a, min(a + side, n)) for a, n in zip(starts, size, strict=True)]
        window = [
            slice(max(0, part.start - halo) // grid * grid, min(n, part.stop + halo))
            for part, n in zip(inner, size, strict=True)
        ]
        crop = [slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, window, strict=True)]
        yield Tile(tuple(inner), tuple(window), tuple(crop))


@torch.no_grad()
def apply(
    model: ImageNetwork, image: Tensor, tile: int | None = None, *, sigma: Tensor | float | None = None
) -> Tensor:
    """Return the output of a network for an image, computed at once or tile by tile; the two are equal.

    They are equal up to the rounding of convolutions at different sizes, about 1e-7 of the largest value. Memory is
    that of the result and of one tile with its halo.

    Args:
        model: an image network or a denoiser, in evaluation mode.
        image: (B, C, *size) or (C, *size).
        tile: side in pixels; None for the whole image at once.
        sigma: of a denoiser, the standard deviation of the noise, a number or (B,); estimated from the whole image if
            left out.

    Returns:
        (B, out_chans, *size), or (out_chans, *size).

    Raises:
        ValueError: for a network whose output pixels depend on the whole image.
    """
    if not isinstance(model, ImageNetwork):
        raise TypeError(
            f"model is {kind_of(model)}, which returns no images; expected an image network or a "
            "denoiser, such as create_model('msd_csc_30', task='image') or create_model('csc_denoiser')"
        )
    check_tensor(image)
    if image.dim() not in (model.dims + 1, model.dims + 2):
        raise ValueError(
            f"image has shape {tuple(image.shape)}; expected (B, C, and {model.dims} sizes), or the same without B"
        )
    batch = image if image.dim() == model.dims + 2 else image[None]
    given = model.given(batch, sigma)
    result = model(batch, **given) if tile is None else _tiled(model, batch, tile, given)
    return result if image.dim() == model.dims + 2 else result[0]


def _tiled(model: ImageNetwork, batch: Tensor, side: int, given: dict[str, Tensor]) -> Tensor:
    if not isinstance(side, int) or side < 1:
        raise ValueError(f"tile is {side!r}; expected an integer ≥ 1, its side in pixels, or None for the whole image")
    result: Tensor | None = None
    for tile in tiles(batch.shape[2:], side, model.halo, model.grid):
        part = model(cut(batch, tile.window), **given)
        if result is None:  # a denoiser of one channel returns as many as it is given
            result = part.new_empty(*part.shape[:2], *batch.shape[2:])
        cut(result, tile.inner).copy_(cut(part, tile.crop))
    return batch if result is None else result


def cut(image: Tensor, box: Box) -> Tensor:
    """Return a part of (B, C, *size): a view."""
    return image[(slice(None), slice(None), *box)]
