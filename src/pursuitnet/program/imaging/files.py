"""Read and write image files as arrays of their own number types: PNG, TIFF, NPY, zarr."""

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pursuitnet.data.pixels import FOREIGN, unidentified
from pursuitnet.program.imaging.axes import MOST_CHANNELS, Array, plain_axes
from pursuitnet.program.imaging.png16 import is_png16, read_png16, write_png16
from pursuitnet.program.imaging.zarr_images import ZarrPages, open_pages, zarr_module

Pages = Array | ZarrPages
"""Images, (pages, H, W, C), of which ``pages[page, rows, columns]`` is a part."""

KINDS = (".png", ".tif", ".tiff", ".npy", ".zarr", ".jpg", ".jpeg", ".bmp")
"""Endings of the files that are read."""
WHITE = {"uint8": 255.0, "uint16": 65_535.0, "bool": 1.0}
"""Value of white by number type; floats are not scaled."""


def image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, also those in a format that cannot be read."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one of images: {', '.join(KINDS)}")
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    paths = sorted(path for path in shown if path.suffix.lower() in {*KINDS, *FOREIGN})
    if not paths:
        raise FileNotFoundError(f"{folder} holds no images; expected files with {', '.join(KINDS)}")
    return paths


def read(path: Path) -> Array:
    """Return the images in a file, (pages, H, W, C), memory-mapped if the file is an uncompressed NPY or TIFF.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds no images.
    """
    pages, _ = read_lazily(path)
    return pages.whole() if isinstance(pages, ZarrPages) else pages


def read_lazily(path: Path) -> tuple[Pages, tuple[int, ...]]:
    """Return the images in a file as ``read`` does, but those of zarr unread, and the shape of the array in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds no images.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    try:
        content = _reader(path)(path)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything for damaged files
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise ValueError(f"{path} cannot be read as an image ({reason:.200}): repair or remove it") from error
    pages: Pages = content if isinstance(content, ZarrPages) else as_pages(content, path)
    shape = content.axes.shape if isinstance(content, ZarrPages) else content.shape
    if pages.dtype.name not in WHITE and pages.dtype.kind != "f":
        raise ValueError(f"{path} holds {pages.dtype}; expected uint8, uint16, bool or floats: convert it")
    return pages, shape


def as_pages(array: Array, path: Path) -> Array:
    """Return (H, W), (H, W, C), (pages, H, W) or (pages, H, W, C) as (pages, H, W, C): a view."""
    try:
        names = plain_axes(array.shape).names
    except ValueError as error:
        raise ValueError(f"{path} holds {error}") from None
    array = array if "c" in names else array[..., None]
    return array if "z" in names else array[None]


def write(path: Path, pages: Array, like: tuple[int, ...]) -> None:
    """Write pages (pages, H, W, C) to a new file: whole or not at all, and never over an existing one.

    Args:
        path: the file; its suffix gives the format.
        pages: of a number type that the format supports.
        like: shape of the array that was read; the file gets the same axes.

    Raises:
        FileExistsError: if the file exists.
        ValueError: if the format cannot hold them.
    """
    temporary = path.with_name(f".{path.stem}.new{path.suffix}")
    array = squeezed(pages, like)
    writers: dict[str, Callable[[Path, Array], None]] = {".npy": np.save, ".tif": _to_tiff, ".tiff": _to_tiff}
    writer = {**writers, ".zarr": _to_zarr}.get(path.suffix.lower(), _to_picture)
    try:
        writer(temporary, array)
        rename_new(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        raise FileExistsError(f"{path} cannot be written ({error.strerror}): name another --out") from None
    finally:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def rename_new(temporary: Path, path: Path) -> None:
    """Give a file or a folder its name; raise FileExistsError if that is taken."""
    try:
        if temporary.is_dir():
            temporary.rename(path)  # which fails if there is a folder that is not empty
        else:
            os.link(temporary, path)  # which, unlike a move, does not replace a file
            temporary.unlink()
    except OSError as error:
        raise FileExistsError(f"{path} cannot be written ({error.strerror}): name another --out") from None


def squeezed(pages: Array, like: tuple[int, ...]) -> Array:
    """Return pages with the axes of the array that was read."""
    channels = len(like) == 4 or (len(like) == 3 and like[2] <= MOST_CHANNELS)
    pages = pages if len(like) == 4 or (len(like) == 3 and not channels) else pages[0]
    return pages[..., 0] if pages.shape[-1] == 1 and (not channels or like[-1] != 1) else pages


def unit(array: Array) -> NDArray[np.float32]:
    """Return pixels as floats, with white at 1 if the number type has a value of white."""
    return array.astype(np.float32) / np.float32(WHITE.get(array.dtype.name, 1.0))


def to_dtype(values: NDArray[np.float32], dtype: str) -> Array:
    """Return floats in the number type and range of an image, rounded and clipped."""
    if dtype not in WHITE:
        return values.astype(dtype)
    white = WHITE[dtype]
    return np.clip(np.rint(values.astype(np.float64) * white), 0, white).astype(dtype)


def shape_of(path: Path) -> tuple[int, ...]:
    """Return the shape of the array stored in a file."""
    return read_lazily(path)[1]


def _reader(path: Path) -> Callable[[Path], Array | ZarrPages]:
    """Return the function that reads files with the suffix of this one."""
    readers: dict[str, Callable[[Path], Array | ZarrPages]] = {".npy": _npy, ".tif": _tiff, ".tiff": _tiff}
    return {**readers, ".zarr": open_pages}.get(path.suffix.lower(), _picture)


def _npy(path: Path) -> Array:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _tiff(path: Path) -> Array:
    if (tifffile := _optional_module("tifffile")) is None:
        return _picture(path)
    try:
        return tifffile.memmap(path, mode="r")
    except ValueError:  # compressed
        return tifffile.imread(path)


def _picture(path: Path) -> Array:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        raise ValueError(unidentified(path)[1]) from None
    with path.open("rb") as file, Image.open(file) as image:
        if is_png16(image):
            return read_png16(path)
        tile = getattr(image, "tile", None)
        if image.mode.startswith("RGB") and tile and ";16" in str(tile[0][3]):
            raise ValueError("it has colors of 16 bits, which need tifffile: pip install 'pursuitnet[images]'")
        frames = [_frame(frame) for frame in ImageSequence.Iterator(image)]
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _frame(image: Any) -> Array:
    if image.mode in ("P", "LA", "PA", "RGBA", "CMYK", "YCbCr"):
        image = image.convert("L" if image.mode == "LA" else "RGB")
    pixels = np.array(image)
    return pixels.astype(np.uint16) if image.mode.startswith("I;16") else pixels


def _to_tiff(path: Path, array: Array) -> None:
    if (tifffile := _optional_module("tifffile")) is not None:
        rgb = array.ndim >= 3 and array.shape[-1] in (3, 4)
        tifffile.imwrite(path, array, photometric="rgb" if rgb else "minisblack", bigtiff=array.nbytes > 2**31)
        return
    from PIL import Image

    color = array.ndim == 3 and array.shape[-1] in (3, 4)
    frames = [Image.fromarray(part) for part in ([array] if array.ndim == 2 or color else array)]
    frames[0].save(path, save_all=len(frames) > 1, append_images=frames[1:])


def _to_zarr(path: Path, array: Array) -> None:
    shutil.rmtree(path, ignore_errors=True)
    zarr_module(path).save_array(str(path), array)


def _to_picture(path: Path, array: Array) -> None:
    from PIL import Image

    color = array.ndim == 3 and array.shape[2] == 3 and array.dtype.name in ("uint8", "bool")
    if path.suffix.lower() == ".png" and array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint16:
        write_png16(path, array)
        return
    if array.dtype.kind == "f" or not (array.ndim == 2 or color):
        raise ValueError(f"{path} cannot hold {array.dtype} of shape {array.shape}; expected a TIFF or NPY")
    Image.fromarray(array).save(path)


def _optional_module(name: str) -> Any:
    """Return a module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
