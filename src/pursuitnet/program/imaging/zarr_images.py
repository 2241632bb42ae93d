"""Images in zarr arrays and in OME-Zarr, read and written part by part."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pursuitnet.program.imaging.axes import Array, Axes, plain_axes


@dataclass(frozen=True)
class ZarrPages:
    """The images of a zarr array, (pages, H, W, C); ``pages[page, rows, columns]`` reads (h, w, C), and no more.

    Args:
        array: the zarr array.
        axes: of the array.
        multiscales: its description in OME-Zarr; None for an array by itself.
        version: of the description; from 0.5 on it lies under the key ome.
    """

    array: Any
    axes: Axes
    multiscales: dict[str, Any] | None = None
    version: str | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the images, (pages, H, W, C)."""
        return self.axes.pages_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type of the pixels."""
        return np.dtype(self.array.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: tuple[Any, ...]) -> Array:
        page, *box = place
        return self.axes.to_pixels(np.asarray(self.array[self.axes.index(page, tuple(box))]))

    def __setitem__(self, place: tuple[Any, ...], pixels: Array) -> None:
        page, *box = place
        self.array[self.axes.index(page, tuple(box))] = self.axes.from_pixels(pixels)

    def whole(self) -> Array:
        """Return all images, (pages, H, W, C)."""
        return np.stack([self[page, slice(None), slice(None)] for page in range(len(self))])


def open_pages(path: Path, mode: str = "r") -> ZarrPages:
    """Open a zarr array, or the image of an OME-Zarr group at its full resolution.

    Raises:
        ImportError: without zarr.
        ValueError: if it holds no images.
    """
    node = zarr_module(path).open(str(path), mode=mode)
    if hasattr(node, "shape"):
        return ZarrPages(node, plain_axes(node.shape))
    attributes = dict(node.attrs)
    described = attributes.get("ome", attributes)
    if not described.get("multiscales"):
        raise ValueError("it is a group; name one of its arrays, or an OME-Zarr image")
    multiscales = dict(described["multiscales"][0])
    array = node[multiscales["datasets"][0]["path"]]
    names = tuple(a["name"] if isinstance(a, dict) else str(a) for a in multiscales.get("axes", "tczyx"))
    if len(names) != len(array.shape) or not {"y", "x"} <= set(names):
        raise ValueError(f"its axes are {', '.join(names)} for an array of shape {array.shape}; expected y and x")
    version = described.get("version") if "ome" in attributes else None
    return ZarrPages(array, Axes(names, tuple(array.shape)), multiscales, version)


def create_like(path: Path, source: ZarrPages, channels: int, dtype: Any) -> ZarrPages:
    """Create an empty array with the axes, the chunks and, of OME-Zarr, the scales of another; only full resolution.

    Args:
        path: a folder that does not exist.
        source: the images that it is made from.
        channels: of the new images.
        dtype: of the new images.
    """
    axes, zarr = _result_axes(source, channels), zarr_module(path)
    options = _options(source, axes, channels)
    shape = {"shape": axes.shape, "dtype": dtype}
    if source.multiscales is None:
        return ZarrPages(zarr.open(str(path), mode="w", **shape, **options), axes)
    formats = {name: options[name] for name in ("zarr_format",) if name in options}
    group = zarr.open_group(str(path), mode="w", **formats)
    multiscales = _described(source.multiscales, source.axes, axes)
    array = zarr.open(str(path / multiscales["datasets"][0]["path"]), mode="w", **shape, **options)
    described = {"multiscales": [multiscales]}
    group.attrs.update(described if source.version is None else {"ome": {"version": source.version, **described}})
    return ZarrPages(array, axes, multiscales, source.version)


def zarr_module(path: Path) -> Any:
    """Return the module zarr; raise ImportError if it is not installed."""
    try:
        return importlib.import_module("zarr")
    except ImportError:
        raise ImportError(f"{path} needs zarr; install it with: pip install 'pursuitnet[images]'") from None


def _result_axes(source: ZarrPages, channels: int) -> Axes:
    """Return the axes of a result: an axis of channels stays in OME-Zarr, and elsewhere one of several appears last."""
    names = source.axes.names
    if source.multiscales is not None:
        place = 1 if "t" in names else 0
        return source.axes.with_channels(channels, place if "c" in names or channels > 1 else None)
    single = "c" in names and source.shape[3] == 1
    return source.axes.with_channels(channels, len(names) if channels > 1 or single else None)


def _options(source: ZarrPages, axes: Axes, channels: int) -> dict[str, Any]:
    """Return the chunks and the format of the source, for a new array."""
    chunk = {**dict(zip(source.axes.names, source.array.chunks, strict=True))}
    chunk["c"] = min(chunk.get("c", channels), channels)
    options: dict[str, Any] = {"chunks": tuple(chunk[name] for name in axes.names)}
    metadata = getattr(source.array, "metadata", None)  # of zarr 3, which writes both formats
    if (zarr_format := getattr(metadata, "zarr_format", None)) is not None:
        options["zarr_format"] = zarr_format
    if zarr_format == 3 and source.multiscales is not None:
        options["dimension_names"] = axes.names
    if zarr_format != 3:
        separator = getattr(metadata, "dimension_separator", getattr(source.array, "_dimension_separator", None))
        options |= {"dimension_separator": separator} if separator else {}
    return options


def _described(multiscales: dict[str, Any], before: Axes, after: Axes) -> dict[str, Any]:
    """Return the description of a result: axes, scales and translations of the full resolution."""
    axes = multiscales.get("axes", list(before.names))
    channel = {"name": "c", "type": "channel"} if isinstance(axes[0], dict) else "c"
    named = dict(zip(before.names, axes, strict=True))
    first = dict(multiscales["datasets"][0])
    described = {**multiscales, "axes": [named.get(name, channel) for name in after.names]}
    for owner in (first, described):
        if "coordinateTransformations" in owner:
            owner["coordinateTransformations"] = [_moved(t, before, after) for t in owner["coordinateTransformations"]]
    return {**described, "datasets": [first]}


def _moved(transformation: dict[str, Any], before: Axes, after: Axes) -> dict[str, Any]:
    """Return a scale or a translation along the axes of the result."""
    moved = dict(transformation)
    for kind, neutral in (("scale", 1.0), ("translation", 0.0)):
        if isinstance(moved.get(kind), list):
            values = dict(zip(before.names, moved[kind], strict=True))
            moved[kind] = [values.get(name, neutral) for name in after.names]
    return moved
