"""Which axes of an array are those of an image, which its channels, and which its pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Box = tuple[slice, ...]
MOST_CHANNELS = 4
"""A last axis of at most this size holds channels, if there are three axes or more."""


@dataclass(frozen=True)
class Axes:
    """The axes of an array: y and x are those of an image, c its channels; along all others lie pages.

    Args:
        names: of the axes, in order.
        shape: their sizes.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def pages_shape(self) -> tuple[int, int, int, int]:
        """Shape of the array as images, (pages, H, W, C)."""
        size = dict(zip(self.names, self.shape, strict=True))
        return math.prod(self._pages), size["y"], size["x"], size.get("c", 1)

    @property
    def _pages(self) -> tuple[int, ...]:
        return tuple(n for name, n in zip(self.names, self.shape, strict=True) if name not in "yxc")

    def index(self, page: int, box: Box) -> tuple[Any, ...]:
        """Return the index of a part of a page, with all its channels."""
        pages = iter(np.unravel_index(page, self._pages) if self._pages else ())
        parts = {"y": box[0], "x": box[1], "c": slice(None)}
        return tuple(parts[name] if name in parts else int(next(pages)) for name in self.names)

    def to_pixels(self, part: Array) -> Array:
        """Return a part of a page, with its axes in the order of the array, as (h, w, C): a view."""
        order = [name for name in self.names if name in "yxc"]
        part, order = (part, order) if "c" in order else (part[..., None], [*order, "c"])
        return part.transpose([order.index(name) for name in "yxc"])

    def from_pixels(self, pixels: Array) -> Array:
        """Return (h, w, C) with the axes in the order of the array: a view."""
        order = [name for name in self.names if name in "yxc"]
        pixels = pixels if "c" in order else pixels[..., 0]
        return pixels.transpose(["yxc".index(name) for name in order])

    def with_channels(self, channels: int, place: int | None) -> "Axes":
        """Return axes with this number of channels; they lie at ``place`` if there were none, None: no axis of them."""
        if "c" in self.names and place is not None:
            return Axes(
                self.names, tuple(channels if k == "c" else n for k, n in zip(self.names, self.shape, strict=True))
            )
        kept = [(name, n) for name, n in zip(self.names, self.shape, strict=True) if name != "c"]
        if place is not None:
            kept.insert(place, ("c", channels))
        return Axes(tuple(name for name, _ in kept), tuple(n for _, n in kept))


def plain_axes(shape: Sequence[int]) -> Axes:
    """Return the axes of an array without names: (H, W), (H, W, C), (pages, H, W) or (pages, H, W, C)."""
    channels = len(shape) == 4 or (len(shape) == 3 and shape[2] <= MOST_CHANNELS)
    names = ("y", "x", "c") if channels else ("y", "x")
    names = names if len(shape) == len(names) else ("z", *names)
    if len(names) != len(shape) or (channels and shape[-1] > MOST_CHANNELS) or 0 in shape:
        raise ValueError(
            f"an array of shape {tuple(shape)}; expected (H, W), (H, W, C) or pages of these, with one pixel at least"
        )
    return Axes(names, tuple(shape))
