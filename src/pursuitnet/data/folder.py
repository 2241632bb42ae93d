"""Any folder of images, one sub-folder a class."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pursuitnet.data import cache
from pursuitnet.data.files import Split

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]
"""Height and width."""

_GREY = {"1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values that exchange height and width


@dataclass(frozen=True)
class Tree:
    """The image files of a folder by split, each with the number of its class."""

    root: Path
    classes: tuple[str, ...]
    files: dict[str, tuple[tuple[Path, int], ...]]

    def paths(self, *splits: str) -> list[Path]:
        """The files of these splits, in order; of all without an argument."""
        return [path for split in splits or self.files for path, _ in self.files[split]]


@dataclass(frozen=True)
class Folder:
    """Reads a folder of images; `image_size` (H, W) scales and crops them, None takes them as they are."""

    root: Path
    image_size: Size | None

    def __call__(self, root: Path | None, split: str, fetch: bool = False) -> Split:
        """Return one split, through the cache."""
        tree = tree_of(self.root)
        return cache.through(self._name(split), tree.paths(), lambda: self._read(tree, split))

    def about(self) -> tuple[tuple[str, ...], int, Size]:
        """Classes, channels and size, from the cache's note or from the images' headers."""
        tree = tree_of(self.root)
        try:
            noted = cache.about(self._name("train"), tree.paths())
            if noted is not None:
                _, channels, height, width = noted["shape"]
                return tree.classes, channels, (height, width)
        except (OSError, ValueError, KeyError):
            pass  # a damaged note: load says so when it rebuilds it
        return tree.classes, *self._survey(tree)

    def _name(self, split: str) -> str:
        size = "" if self.image_size is None else "-{}x{}".format(*self.image_size)
        return f"folder-{split}{size}"

    def _survey(self, tree: Tree) -> tuple[int, Size]:
        """Channels and size that all images share, from their headers."""
        with ThreadPoolExecutor() as pool:
            heads = dict(zip(tree.paths(), pool.map(_head, tree.paths()), strict=True))
        channels = 1 if all(grey for grey, _ in heads.values()) else 3
        if self.image_size is not None:
            return channels, self.image_size
        (first, (_, size)), *others = heads.items()
        for path, (_, other) in others:
            if other != size:
                raise ValueError(
                    f"{path} has {other[0]}x{other[1]} pixels and {first} has {size[0]}x{size[1]}: "
                    "pass image_size (--image-size) to scale and crop all images to one size"
                )
        return channels, size

    def _read(self, tree: Tree, split: str) -> Split:
        channels, size = self._survey(tree)
        decode = partial(_decoded, channels=channels, size=self.image_size)
        images = torch.empty(len(tree.files[split]), channels, *size, dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:
            for image, pixels in zip(images.numpy(), pool.map(decode, tree.paths(split)), strict=True):
                image[:] = pixels
        return images, torch.tensor([label for _, label in tree.files[split]])


def size_of(image_size: int | Sequence[int] | None) -> Size | None:
    """(H, W) from one number or two; raises ValueError for anything else."""
    if image_size is None:
        return None
    numbers = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(numbers) != 2 or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ValueError(f"image_size is {image_size!r}: pass a number of pixels, or (height, width)")
    return numbers[0], numbers[1]


def tree_of(root: Path) -> Tree:
    """The files of root/train/CLASS/ and root/test/CLASS/ (or val), or of root/CLASS/, where every fifth of each class,
    from the first in sorted order, is for testing.

    Raises ValueError for an empty class, fewer than two classes, and splits of different classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: pass root (--data-dir), a folder with one sub-folder a class")
    if not (root / "train").is_dir():
        classes = _classes(root)
        parts = {name: [(i % 5 == 0, file) for i, file in enumerate(files)] for name, files in classes.items()}
        train, test = (
            {k: [f for t, f in part if t == tested] for k, part in parts.items()} for tested in (False, True)
        )
        return _tree(root, train, test)
    tested = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if tested is None:
        raise FileNotFoundError(f"{root / 'train'} is there but neither test nor val beside it: add {root / 'test'}")
    return _tree(root, _classes(root / "train"), _classes(tested))


def _tree(root: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> Tree:
    if odd := sorted(set(train) ^ set(test)):
        raise ValueError(f"{root} has class {odd[0]!r} in one of train and test only: every class is needed in both")
    if len(train) < 2:
        raise ValueError(f"{root} has {len(train)} classes: expected at least two sub-folders of images")
    if few := [name for name in train if not train[name]]:
        raise ValueError(f"{root / few[0]} has one image: expected at least two, one to train on and one to test on")
    splits = {"train": train, "test": test}
    files = {s: tuple((f, k) for k, name in enumerate(sorted(by)) for f in by[name]) for s, by in splits.items()}
    return Tree(root, tuple(sorted(train)), files)


def _classes(root: Path) -> dict[str, list[Path]]:
    """The files of each class in sorted order, those deeper down too; hidden ones (.DS_Store) are no images."""
    classes = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        classes[folder.name] = sorted(_files(folder))
        if not classes[folder.name]:
            raise ValueError(f"class {folder} is empty: put images into it, or remove it")
    return classes


def _files(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield from _files(Path(entry.path)) if entry.is_dir() else (Path(entry.path),)


@contextmanager
def _opened(path: Path) -> "Iterator[Image]":
    """An image file; whatever is wrong with it or with what is done to it, its path is named."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that can be read: remove it from the folder") from error
    except Exception as error:  # decoders of damaged images raise anything
        raise ValueError(f"{path} cannot be read as an image ({error}): repair or remove it") from error


def _head(path: Path) -> tuple[bool, Size]:
    """Whether an image is grey, and its height and width when upright, without decoding it."""
    with _opened(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        return image.mode in _GREY, (width, height) if turned else (height, width)


def _decoded(path: Path, channels: int, size: Size | None) -> NDArray[np.uint8]:
    """One image, uint8 (C, H, W), upright; scaled with antialiasing until it covers `size`, and cropped around its
    centre.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's MPO carries a preview
            raise ValueError(f"it has {getattr(image, 'n_frames', 'several')} frames, expected one")
        upright = _eight_bits(ImageOps.exif_transpose(image)).convert("L" if channels == 1 else "RGB")
        if size is not None:
            upright = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BICUBIC)
        return np.asarray(upright).reshape(*upright.size[::-1], channels).transpose(2, 0, 1)


def _eight_bits(image: "Image") -> "Image":
    """16-bit grey scaled to 0..255, and transparency laid on black; floats have no scale and are refused."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose scale is not known: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"its pixels are {values.min()}..{values.max()}, expected 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image
