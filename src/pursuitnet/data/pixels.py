"""One image file: its header, and its pixels as bytes, upright and on a known scale."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""Height and width."""
Depth = Literal["8 bits", "16 bits", "16-bit colors", "32 bits", "floats"]
"""How the pixels of a file are stored; signed integers count as 32 bits."""

FULL = 65_535
"""White in 16 bits."""
FOURTEEN_BITS = 2**14 - 1
"""The largest value that cameras and scanners of fewer than 16 bits write into 16-bit files."""
_GREY = {"1", "L", "LA", "F", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION, _ROTATED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that exchange height and width
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _MAX_SAMPLE, _SAMPLE_FORMAT = 256, 257, 258, 262, 281, 339  # tags of TIFF
FOREIGN = {
    *(".heic", ".heif", ".avif", ".jxl"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef"),
}
"""Suffixes of photographs of phones and cameras that Pillow does not read, or not in every release."""
_SCALED = {"PPM", "JPEG2000"}  # Pillow scales these to 16 bits itself, by the maximum in the file


class BrokenImageError(ValueError):
    """A file that cannot be used as an image.

    Attributes:
        reason: what is wrong with it, in short.
    """

    def __init__(self, path: Path, what: str, reason: str) -> None:
        super().__init__(f"{path} {what}")
        self.reason, self._arguments = reason, (path, what, reason)

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        """Make the error picklable, so that a worker process can return it."""
        return type(self), self._arguments


@dataclass(frozen=True)
class Head:
    """The header of an image.

    Attributes:
        gray: whether it has one channel.
        size: height and width when upright.
        depth: how its pixels are stored.
        white: the value of white, if the file contains it.
        inverted: whether 0 is white instead.
    """

    gray: bool
    size: Size
    depth: Depth
    white: float | None
    inverted: bool = False


@contextmanager
def opened(path: Path) -> "Iterator[Image]":
    """Open an image file; every error names its path."""
    from PIL import Image, UnidentifiedImageError

    try:
        # given a path, Pillow maps an uncompressed TIFF into memory, and then rotates it wrongly
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except UnidentifiedImageError as error:
        raise BrokenImageError(path, *unidentified(path)) from error
    except (BrokenImageError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise BrokenImageError(path, "is missing: check the name, or the pattern", "missing") from error
    except Exception as error:  # decoders of damaged images may raise anything
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise BrokenImageError(path, f"cannot be read as an image ({reason}): repair or remove it", reason) from error


def unidentified(path: Path) -> tuple[str, str]:
    """Return what is wrong with a file that Pillow does not know, in a sentence and in short."""
    if path.suffix.lower() in FOREIGN:
        kind = path.suffix[1:].upper()
        return (
            f"is a photograph in the format {kind}, which is not read: convert it to JPEG or PNG",
            f"{kind} is not read",
        )
    return "is not an image that can be read: remove it from the folder", "not an image"


def head(path: Path) -> Head:
    """Read the header of an image, without decoding it."""
    with opened(path) as image:
        return _head(image)


def _head(image: "Image") -> Head:
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    # Pillow's releases differ in whether the size of a TIFF is that before or after rotation
    width, height = (tags[_WIDTH], tags[_HEIGHT]) if tags else image.size
    rotated = image.getexif().get(_ORIENTATION) in _ROTATED
    depth, size = _depth(image, tags), (width, height) if rotated else (height, width)
    inverted = tags.get(_PHOTOMETRIC) == 0 and depth in ("16 bits", "32 bits")  # Pillow inverts 8 bits itself
    return Head(image.mode in _GREY, size, depth, _white(image, tags, depth), inverted)


def _tag(tags: Mapping[int, Any], number: int, default: int) -> int:
    """The value of a tag of TIFF, the largest where there is one for each channel."""
    value = tags.get(number, default)
    return int(max(value) if isinstance(value, tuple) else value)


def _depth(image: "Image", tags: Mapping[int, Any]) -> Depth:
    signed = _tag(tags, _SAMPLE_FORMAT, 1) == 2
    if image.mode == "F":
        return "floats"
    if image.mode.startswith("I"):
        return "32 bits" if signed or _tag(tags, _BITS, 1) == 32 else "16 bits"
    if signed:
        raise ValueError("its pixels are signed numbers of 8 bits, whose scale is not known: save it with 8 or 16 bits")
    tile = getattr(image, "tile", None)
    return "16-bit colors" if tile and ";16" in str(tile[0][3]) else "8 bits"


def _white(image: "Image", tags: Mapping[int, Any], depth: Depth) -> float | None:
    """The value of white if the file contains it: from its number of bits, or from a maximum that is 2ⁿ − 1."""
    if depth == "8 bits" or image.format in _SCALED:
        return 255 if depth == "8 bits" else FULL
    bits, most = _tag(tags, _BITS, 0), _tag(tags, _MAX_SAMPLE, 0)
    if depth == "16 bits" and 8 < bits < 16:
        return 2**bits - 1
    # a maximum such as 3,071 is a statistic of this image, and not a scale
    return most if depth == "16 bits" and 255 < most < FULL and (most & (most + 1)) == 0 else None


def extremes(path: Path) -> tuple[float, float]:
    """The smallest and the largest value in an image as it is stored."""
    with opened(path) as image:
        pixels = np.asarray(_single(image))
        return float(pixels.min()), float(pixels.max())


def decoded(path: Path, channels: int, size: Size, fit: bool, white: float) -> NDArray[np.uint8]:
    """One image, uint8 (C, H, W), upright.

    Args:
        path: the file.
        channels: 1 or 3.
        size: height and width of the result.
        fit: scale it, with antialiasing, until it covers `size`, and crop its center; otherwise it must have that size.
        white: the value of white in more than 8 bits, if the file does not contain it.

    Raises BrokenImageError, which names the file.
    """
    from PIL import Image, ImageOps

    with opened(path) as image:
        about = _head(image)
        upright = _eight_bits(ImageOps.exif_transpose(_single(image)), about, white)
        upright = upright.convert("L" if channels == 1 else "RGB")
        if fit:
            upright = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BICUBIC)
        if upright.size != size[::-1]:
            raise ValueError(f"it has {upright.height}x{upright.width} pixels, expected {size[0]}x{size[1]}")
        return np.asarray(upright).reshape(*size, channels).transpose(2, 0, 1)


def _single(image: "Image") -> "Image":
    """Return the image; raise ValueError if it has several frames."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # the second frame of an MPO is a preview
        raise ValueError(f"it has {getattr(image, 'n_frames', 'several')} frames, expected one")
    return image


def _eight_bits(image: "Image", about: Head, white: float) -> "Image":
    """Return an image scaled to 8 bits, with transparency on black."""
    from PIL import Image

    if about.depth in ("16 bits", "32 bits", "floats"):
        return Image.fromarray(_scaled(np.asarray(image), about, white if about.white is None else about.white))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image


def _scaled(pixels: NDArray[Any], about: Head, white: float) -> NDArray[np.uint8]:
    values = pixels.astype(np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # also true for NaN
        raise ValueError(f"its pixels are {low:g}..{high:g}, expected 0..{white:g}, which is white")
    scaled = np.floor(values * (255 / white) + 0.5)
    return (255 - scaled if about.inverted else scaled).astype(np.uint8)
