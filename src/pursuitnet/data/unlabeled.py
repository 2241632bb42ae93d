"""Image files without labels: listed from names and patterns, and decoded as those of a folder for training."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pursuitnet.data.folder import files_in, question, results
from pursuitnet.data.pixels import FOREIGN, FULL, BrokenImageError, Head, Size, decoded, extremes, head
from pursuitnet.utils.paths import expanded

Pixels = NDArray[np.uint8]
"""One image, uint8 (C, H, W)."""


@dataclass(frozen=True)
class Decoder:
    """Decodes image files for a network.

    Attributes:
        channels: 1 or 3.
        size: height and width that images are scaled and cropped to; None to keep the size of each.
        white: the value of white in images of more than 8 bits whose file does not contain it.
    """

    channels: int
    size: Size | None
    white: float = FULL

    def __call__(self, path: Path) -> Pixels:
        """Return a writable uint8 (C, H, W), upright; raises BrokenImageError, which names the file."""
        size = head(path).size if self.size is None else self.size
        return decoded(path, self.channels, size, self.size is not None, self.white).copy()

    def each(self, paths: Sequence[Path]) -> Iterator[Pixels | BrokenImageError]:
        """Yield the image of each file, in order, or the error if it cannot be used; decoded in threads."""
        return results(self, paths)


def find_images(names: Iterable[str | Path]) -> list[Path]:
    """Return the files of these names, each once, in order.

    A folder gives all images in it and below it, also those in a format that cannot be read, a pattern such as
    ``scans/*.png`` all files that match it. A name that matches nothing is returned unchanged, so that reading it
    raises the error.
    """
    files = (file for name in names for file in _matching(expanded(name)))
    return list(dict.fromkeys(files))


def white_of(paths: Sequence[Path], white_level: float | None = None) -> float:
    """Return the value of white in images of more than 8 bits whose file does not contain it.

    Raises:
        ValueError: if it is not given and cannot be determined.
    """
    heads = {path: about for path, about in zip(paths, results(head, paths), strict=True) if isinstance(about, Head)}
    unknown = [path for path, about in heads.items() if about.white is None]
    for depth in {heads[path].depth for path in unknown if white_level is None or _colored(heads[path])}:
        same = [path for path in unknown if heads[path].depth == depth]
        values = {p: v for p, v in zip(same, results(extremes, same), strict=True) if not isinstance(v, ValueError)}
        brightest = max(values, key=lambda path: values[path][1], default=None)
        if brightest is not None and (problem := question(depth, *values[brightest], white_level)):
            raise ValueError(f"{brightest} {problem}")
    return FULL if white_level is None else white_level


def _colored(about: Head) -> bool:
    return about.depth == "16-bit colors"


def _matching(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in files_in(path) if _may_be_image(file))
        return
    matches = [] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    for match in matches:
        yield from _matching(Path(match))
    if not matches:
        yield path


def _may_be_image(path: Path) -> bool:
    """Return whether a file may be an image by its suffix: folders of images also contain lists and notes.

    Photographs in a format that cannot be read count, so that each is named instead of left out silently.
    """
    from PIL import Image

    suffix = path.suffix.lower()
    return not suffix or suffix in FOREIGN or suffix in Image.registered_extensions()
