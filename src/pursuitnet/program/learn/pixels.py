"""Read image files for dictionary learning: gray or in color, and without their low frequencies."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.data.pixels import FULL, decoded, head

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
            files += sorted(p for p in path.rglob("*") if p.suffix.lower() in NAMES and not p.name.startswith("."))
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


def one_by_one(files: Sequence[Path], color: bool, prepare: str, device: torch.device) -> Iterator[Tensor]:
    """Yield the images of files, each read when it is needed."""
    for path in files:
        yield read(path, color, prepare).to(device)
