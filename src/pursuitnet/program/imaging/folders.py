"""Folders of images to denoise, and of pairs to segment or regress."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pursuitnet.data.identity import SplitIdentity
from pursuitnet.program.imaging.axes import Array
from pursuitnet.program.imaging.files import image_files, read

TESTED = 6
"""Without folders train/ and test/, every sixth image is a test image, and one at least."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ImagePair:
    """An image and its target, (H, W, C) each, and the name of their file; a target of None is the image itself."""

    image: Array
    target: Array | None
    name: str


def splits(folder: Path, *, paired: bool, gray: bool) -> tuple[list[ImagePair], list[ImagePair]]:
    """Return the images to train on and to test on.

    Args:
        folder: of images, or of folders train/ and test/ of images; pairs are in images/ and targets/, with equal names
            except for their suffixes.
        paired: whether there are targets.
        gray: convert colors to gray.

    Raises:
        FileNotFoundError: if there are no images, or an image has no target.
        ValueError: if a file is damaged, or images differ in channels or from the size of their targets.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one of images")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = (_pairs(folder / part, paired, gray) for part in ("train", "test"))
    else:
        pairs = _pairs(folder, paired, gray)
        if len(pairs) < 2:
            raise ValueError(f"{folder} holds one image; expected two at least, one of them to test on")
        held_out = range(len(pairs))[TESTED - 1 :: TESTED] or range(len(pairs) - 1, len(pairs))
        test = [pairs[i] for i in held_out]
        train = [pair for i, pair in enumerate(pairs) if i not in held_out]
    if len(kinds := {(pair.image.shape[2], pair.image.dtype.name) for pair in train + test}) > 1:
        listing = " and ".join(f"{channels} channels of {dtype}" for channels, dtype in sorted(kinds))
        raise ValueError(f"the images of {folder} have {listing}; expected all alike: convert them")
    return train, test


def _pairs(folder: Path, paired: bool, gray: bool) -> list[ImagePair]:
    inside = folder / "images"
    if not paired:
        paths = image_files(inside if inside.is_dir() else folder)
        return [ImagePair(page, None, path.name) for path in paths for page in _pages(path, gray)]
    targets = {path.stem: path for path in image_files(folder / "targets")}
    pairs = []
    for path in image_files(inside):
        if path.stem not in targets:
            raise FileNotFoundError(f"{path} has no target: {folder / 'targets'} holds no file named {path.stem}")
        image, target = _pages(path, gray), read(targets[path.stem])
        if image.shape[:3] != target.shape[:3]:
            raise ValueError(
                f"{path} holds {image.shape[0]} images of {image.shape[1:3]} pixels, {targets[path.stem]} "
                f"{target.shape[0]} of {target.shape[1:3]}; expected equal numbers and sizes"
            )
        pairs += [ImagePair(a, b, path.name) for a, b in zip(image, target, strict=True)]
    return pairs


def _pages(path: Path, gray: bool) -> Array:
    pages = read(path)
    if not gray or pages.shape[3] == 1:
        return pages
    luma = pages[..., :3] @ np.asarray(LUMA[: pages.shape[3]]) if pages.shape[3] >= 3 else pages[..., 0]
    if pages.dtype.kind != "f":
        luma = np.rint(luma)
    return luma.astype(pages.dtype)[..., None]


def split_identity(pairs: Sequence[ImagePair]) -> SplitIdentity:
    """Return the number and the checksum of images and targets, in order."""
    checksum = hashlib.sha256()
    for array in (array for pair in pairs for array in (pair.image, pair.target) if array is not None):
        checksum.update(f"{array.shape} {array.dtype}".encode())
        checksum.update(np.ascontiguousarray(array).data)
    return SplitIdentity(len(pairs), checksum.hexdigest())


def labels_of(pairs: Sequence[ImagePair], most: int = 256) -> Array:
    """Return the values of the targets, sorted: the labels of segmentation.

    Raises:
        ValueError: if they are not labels: several channels, or very many values.
    """
    targets = [pair.target for pair in pairs if pair.target is not None]
    if any(target.shape[2] != 1 for target in targets):
        raise ValueError(f"{pairs[0].name} has a target of several channels; expected one channel of labels")
    values = np.unique(np.concatenate([np.unique(target) for target in targets]))
    if len(values) > most or values.dtype.kind == "f":
        raise ValueError(
            f"the targets have {len(values)} values of {values.dtype}; expected whole numbers, at most {most} "
            "different ones: to learn values, use --task regress"
        )
    if len(values) < 2:
        raise ValueError(f"all pixels of the targets are {values[0]}; expected two labels at least")
    return values
