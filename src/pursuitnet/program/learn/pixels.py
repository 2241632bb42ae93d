"""Read image files for dictionary learning: gray or in color, and without their low frequencies."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.data.pixels import FOREIGN, FULL, decoded, head

NAMES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".webp"}
"""Suffixes of the image files that are used of a folder; other files can be named one by one."""
DEVIATION = 3.0
"""Standard deviation in pixels of the Gaussian window of the local mean and deviation."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files among the paths, and the image files in the folders among them, in order.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no image.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            shown = sorted(p for p in path.rglob("*") if not p.name.startswith("."))
            files += (p for p in shown if p.suffix.lower() in {*NAMES, *FOREIGN})  # foreign ones are named when read
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist; name image files, or folders of them")
    if not files:
        suffixes = ", ".join(sorted(NAMES))
        raise ValueError(f"{', '.join(map(str, paths))} holds no image; expected files that end in {suffixes}")
    return files


def read(path: Path, color: bool, prepare: str) -> Tensor:
    """Return one image, prepared, (1, channels, H, W) in float32."""
    header = head(path)
    white = header.white or {"8 bits": 255.0, "16 bits": float(FULL), "16-bit colors": float(FULL)}.get(header.depth)
    if white is None:
        raise ValueError(f"{path} has {header.depth} a pixel, whose scale is not known; save it with 8 or 16 bits")
    pixels = decoded(path, 3 if color else 1, header.size, False, white)
    return prepared(torch.tensor(pixels)[None].float() / 255, prepare)


def prepared(image: Tensor, prepare: str) -> Tensor:
    """Return an image in [0, 1] without its local mean ("highpass"), and also with local deviation 1 ("contrast").

    Where the local deviation is below its mean over the image, that mean divides, so that noise is not amplified.
    """
    if prepare == "none":
        return image
    high = image - smoothed(image)
    if prepare == "highpass":
        return high
    local = smoothed(high.square()).mean(1, keepdim=True).clamp(min=0).sqrt()
    least = local.mean((2, 3), keepdim=True).clamp(min=1e-3)
    return high / local.maximum(least)


def smoothed(image: Tensor) -> Tensor:
    """Return the local mean under a Gaussian window, mirrored at the border."""
    for axis in (2, 3):
        reach = min(math.ceil(3 * DEVIATION), image.shape[axis] - 1)
        window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / DEVIATION) ** 2)
        window = (window / window.sum()).to(image)
        shape = [1, 1, 1, 1]
        shape[axis] = len(window)
        sides = [0, 0, reach, reach] if axis == 2 else [reach, reach, 0, 0]
        rows = F.pad(image, sides, mode="reflect").flatten(0, 1)[:, None]
        image = F.conv2d(rows, window.view(shape)).view(*image.shape)
    return image


def by_size(images: Sequence[Tensor]) -> list[Tensor]:
    """Return one batch of the images of each size."""
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for image in images:
        sizes.setdefault(tuple(image.shape), []).append(image)
    return [torch.cat(group) for group in sizes.values()]


@dataclass
class Reader:
    """Reads the files that hold an image large enough for the atoms, and leaves out the others.

    Attributes:
        color: whether to keep three channels.
        prepare: preprocessing; see ``prepared``.
        least: smallest height and width: that of the atoms.
        report: called with a sentence about each file that is left out.
        failures: these sentences by file.
    """

    color: bool
    prepare: str
    least: int
    report: Callable[[str], None] = lambda message: None
    failures: dict[Path, str] = field(default_factory=dict)

    def each(self, files: Iterable[Path], device: torch.device | str = "cpu") -> Iterator[Tensor]:
        """Yield the images of the files in order, (1, channels, H, W), each read when it is needed."""
        for path in files:
            try:
                image = self._read(path)
            except (ValueError, OSError, MemoryError) as error:
                self._leave_out(path, " ".join(str(error).split()) or f"{path}: {type(error).__name__}")
                continue
            yield image.to(device)

    def some(self, files: Sequence[Path]) -> list[Tensor]:
        """Return the images of files.

        Raises:
            ValueError: if there is none among them.
        """
        silent = replace(self, report=lambda message: None, failures={})
        images = list(silent.each(files))
        if not images:
            more = f"; the other {len(files) - 1} files cannot be used either" if len(files) > 1 else ""
            raise ValueError(f"{silent.failures[files[0]]}{more}")
        for path, message in silent.failures.items():
            self._leave_out(path, message)
        return images

    def _read(self, path: Path) -> Tensor:
        image = read(path, self.color, self.prepare)
        if min(image.shape[2:]) < self.least:
            height, width = image.shape[2:]
            raise ValueError(
                f"{path} has {height} x {width} pixels; expected at least the size of the atoms, {self.least}"
            )
        return image

    def _leave_out(self, path: Path, message: str) -> None:
        """Report a file once, however often it is read."""
        if path not in self.failures:
            self.failures[path] = message
            self.report(message)
