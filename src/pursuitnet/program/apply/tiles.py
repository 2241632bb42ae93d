"""The tiles of an image file: cut, computed several at a time on a GPU, and converted to the type of the result."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pursuitnet.networks.image import ImageNetwork
from pursuitnet.networks.tiles import Tile, cut, tiles
from pursuitnet.program.imaging import files
from pursuitnet.program.imaging.axes import Array
from pursuitnet.program.sharing.loading import Trained

SIDES = (256, 1024)
"""Smallest and largest side of an automatic tile."""
HALOS = 21
"""Side of an automatic tile in halos, within SIDES: loaded a fifth more arithmetic than for the whole image."""
GPU_PIXELS = 4_000_000
"""Pixels that are computed at a time on a GPU, so that small tiles keep it busy."""


class TileInput(NamedTuple):
    """What the result of a tile is computed from: the pixels of its window (h, w, C), and the noise of its page."""

    window: Array
    tile: Tile
    noise: dict[str, Tensor]
    dtype: Any


def tiles_of(network: ImageNetwork, size: tuple[int, ...], side: int | str) -> Iterator[Tile]:
    """Return the tiles of an image, or the whole image as one tile."""
    if side == "auto":
        chosen = min(max(HALOS * network.halo, SIDES[0]), SIDES[1])
        side = chosen if max(size) > 1.5 * chosen else "none"
    if isinstance(side, str):
        return tiles(size, max(size), 0)
    return tiles(size, side, network.halo, network.grid)


def batches(inputs: Iterable[TileInput], pixels: int) -> Iterator[list[TileInput]]:
    """Yield consecutive tiles of one page and window size, as many as have so many pixels, at least one."""
    batch: list[TileInput] = []
    for one in inputs:
        area = one.window.shape[0] * one.window.shape[1]
        alike = batch and batch[0].window.shape == one.window.shape and batch[0].noise is one.noise
        if batch and not (alike and (len(batch) + 1) * area <= pixels):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


@torch.inference_mode()
def results_of(loaded: Trained, batch: list[TileInput]) -> list[Array]:
    """Return the results of tiles of one page, (h, w, channels) each, in the number type of the result."""
    images = [image_of(loaded, one.window) for one in batch]
    output = loaded.network(torch.cat(images), **batch[0].noise)
    return [
        _pixels(loaded, cut(part, one.tile.crop), one.dtype)
        for one, part in zip(batch, output.split(len(images[0])), strict=True)
    ]


def image_of(loaded: Trained, pixels: Array) -> Tensor:
    """Return pixels (H, W, C) as input: (1, C, H, W), or (C, 1, H, W) if the network has one channel."""
    image = torch.from_numpy(files.unit(np.ascontiguousarray(pixels))).movedim(-1, 0).to(loaded.mean.device)
    image = image[None] if len(image) == len(loaded.mean) else image[:, None]
    return (image - loaded.mean.view(-1, 1, 1)) / loaded.std.view(-1, 1, 1)


def labels_of(loaded: Trained) -> list[int]:
    """Return the label of each class of a segmentation."""
    return [{"False": 0, "True": 1}.get(name) if name in ("False", "True") else int(name) for name in loaded.classes]  # type: ignore[misc]


def _pixels(loaded: Trained, output: Tensor, dtype: Any) -> Array:
    if loaded.recipe.task == "segment":
        labels = torch.tensor(labels_of(loaded), device=output.device)
        return labels[output.argmax(1)].movedim(0, -1).cpu().numpy().astype(dtype)
    if loaded.recipe.task == "denoise":
        output = output * loaded.std.view(-1, 1, 1) + loaded.mean.view(-1, 1, 1)
    if loaded.recipe.task == "regress":
        output = output * (loaded.targets["high"] - loaded.targets["low"]) + loaded.targets["low"]
    return files.to_dtype(output.flatten(0, 1).movedim(0, -1).float().cpu().numpy(), np.dtype(dtype).name)
