"""Image files as learning takes them: gray or in color, and with their low frequencies taken out."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.data.pixels import FULL, decoded, head

NAMES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm", ".webp"}
"""What files of images are called in a folder; any other file may be named itself."""
DEVIATION = 3.0
"""Of the Gaussian window whose mean and deviation are local, in pixels."""


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and those of images in folders, in order.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: where there is no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in NAMES and not p.name.startswith("."))
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist; name image files, or folders of them")
    if not found:
        known = ", ".join(sorted(NAMES))
        raise ValueError(f"{', '.join(map(str, paths))} holds no image; expected files that end in {known}")
    return found


def read(path: Path, color: bool, prepare: str) -> Tensor:
    """Return one image, prepared, (1, channels, H, W) in float32."""
    about = head(path)
    white = about.white or {"8 bits": 255.0, "16 bits": float(FULL), "16-bit colors": float(FULL)}.get(about.depth)
    if white is None:
        raise ValueError(f"{path} has {about.depth} a pixel, whose scale is not known; save it with 8 or 16 bits")
    pixels = decoded(path, 3 if color else 1, about.size, False, white)
    return prepared(torch.tensor(pixels)[None].float() / 255, prepare)


def prepared(image: Tensor, prepare: str) -> Tensor:
    """Return an image in [0, 1] without its local mean ("highpass"), and of local deviation 1 ("contrast").

    Where the local deviation is below its mean over the image, it is divided by that, so that noise is not raised.
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
    """Return batches of the images of each size."""
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for image in images:
        sizes.setdefault(tuple(image.shape), []).append(image)
    return [torch.cat(some) for some in sizes.values()]


def one_by_one(files: Sequence[Path], color: bool, prepare: str, device: torch.device) -> Iterator[Tensor]:
    """Yield the images of files, each when it is asked for."""
    for path in files:
        yield read(path, color, prepare).to(device)
