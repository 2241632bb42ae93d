"""Image files without labels, one by one: found by name, and decoded as those of a folder are for training."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pursuitnet.data.folder import files_in, question, results
from pursuitnet.data.pixels import FULL, BrokenImageError, Head, Size, decoded, extremes, head
from pursuitnet.utils.paths import expanded

Pixels = NDArray[np.uint8]
"""One image, uint8 (C, H, W)."""


@dataclass(frozen=True)
class Decoder:
    """Decodes image files for a network.

    Attributes:
        channels: 1 or 3.
        size: height and width that images are scaled and cropped to; None for each its own.
        white: the value of white in images of more than 8 bits that do not say it.
    """

    channels: int
    size: Size | None
    white: float = FULL

    def __call__(self, path: Path) -> Pixels:
        """Return uint8 (C, H, W), upright, to be written to; raises BrokenImageError, which names the file."""
        size = head(path).size if self.size is None else self.size
        return decoded(path, self.channels, size, self.size is not None, self.white).copy()

    def each(self, paths: Sequence[Path]) -> Iterator[Pixels | BrokenImageError]:
        """Yield what each file holds, in order, or why it cannot be used; decoded in threads."""
        return results(self, paths)


def found(names: Iterable[str | Path]) -> list[Path]:
    """Return the files that these names stand for, each once, in order.

    A folder stands for all images in it and below it, a pattern such as ``scans/*.png`` for what fits it. A name that
    nothing is called stands for itself, so that whoever reads the file says so.
    """
    files = (file for name in names for file in _meant(expanded(name)))
    return list(dict.fromkeys(files))


def white_of(paths: Sequence[Path], white_level: float | None = None) -> float:
    """Return the value of white in images of more than 8 bits that do not say it themselves.

    Raises:
        ValueError: if it is not given and cannot be known.
    """
    heads = {path: about for path, about in zip(paths, results(head, paths), strict=True) if isinstance(about, Head)}
    unsaid = [path for path, about in heads.items() if about.white is None]
    for depth in {heads[path].depth for path in unsaid if white_level is None or _colored(heads[path])}:
        like = [path for path in unsaid if heads[path].depth == depth]
        values = {p: v for p, v in zip(like, results(extremes, like), strict=True) if not isinstance(v, ValueError)}
        brightest = max(values, key=lambda path: values[path][1], default=None)
        if brightest is not None and (asked := question(depth, *values[brightest], white_level)):
            raise ValueError(f"{brightest} {asked}")
    return FULL if white_level is None else white_level


def _colored(about: Head) -> bool:
    return about.depth == "16-bit colors"


def _meant(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in files_in(path) if _perhaps_image(file))
        return
    fitting = [] if path.exists() else sorted(glob.glob(str(path), recursive=True))
    for fit in fitting:
        yield from _meant(Path(fit))
    if not fitting:
        yield path


def _perhaps_image(path: Path) -> bool:
    """Return whether a file may be an image by its suffix: beside images lie lists and notes."""
    from PIL import Image

    return not path.suffix or path.suffix.lower() in Image.registered_extensions()
