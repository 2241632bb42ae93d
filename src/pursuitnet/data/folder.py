"""Any folder of images, with one sub-folder per class."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pursuitnet.data import cache
from pursuitnet.data.files import Split
from pursuitnet.data.pixels import FOURTEEN_BITS, FULL, BrokenImageError, Depth, Head, Size, decoded, extremes, head
from pursuitnet.data.progress import counted, progress
from pursuitnet.data.streamed import Streamed

T = TypeVar("T")

TRAIN, TEST, VALID = ("train", "training"), ("test", "testing"), ("val", "valid", "validation", "eval", "evaluation")
"""Names of the folders of the splits, in upper or lower case; without one of `TEST`, one of `VALID` is for testing."""
NAMED = 10
"""Maximum number of files in a message."""
Broken = dict[Path, BrokenImageError]
"""Files that cannot be used, with the error."""


@dataclass(frozen=True)
class ImageTree:
    """The image files of a folder by split, each with the index of its class."""

    root: Path
    classes: tuple[str, ...]
    files: dict[str, tuple[tuple[Path, int], ...]]

    def paths(self, *splits: str) -> list[Path]:
        """The files of these splits, in order; of all without an argument."""
        return [path for split in splits or self.files for path, _ in self.files[split]]


@dataclass(frozen=True)
class Folder:
    """Reads a folder of images.

    `image_size` (H, W) scales and crops them, None keeps their size; `skip_broken` leaves out files that are not
    images; `white_level` is the value of white in images of more than 8 bits whose file does not contain it.
    `in_memory` False returns images that are read on demand, by `workers` processes; None does so if they take more
    than a quarter of the memory.
    """

    root: Path
    image_size: Size | None
    skip_broken: bool = False
    white_level: float | None = None
    in_memory: bool | None = True
    workers: int | None = None

    def __call__(self, root: Path | None, split: str, fetch: bool = False) -> Split:
        """Return one split, through the cache."""
        tree = tree_of(self.root)
        if not self.in_memory and (images := self._streamed(tree, split)):
            return images  # type: ignore[return-value]
        return cache.cached(self._name(split), tree.paths(), lambda: self._read(tree, split))

    def about(self) -> tuple[tuple[str, ...], int, Size]:
        """Classes, channels and size, from the cache's metadata or from the images' headers."""
        tree = tree_of(self.root)
        try:
            cached_value = cache.about(self._name("train"), tree.paths())
            if cached_value is not None:
                _, channels, height, width = cached_value["shape"]
                return tree.classes, channels, (height, width)
        except (OSError, ValueError, KeyError):
            pass  # damaged metadata: load warns when it rebuilds the entry
        return tree.classes, *self._shape(self._survey(tree))

    def _name(self, split: str) -> str:
        size = "" if self.image_size is None else "-{}x{}".format(*self.image_size)
        white = "" if self.white_level is None else f"-white{self.white_level:g}"
        return f"folder-{split}{size}{white}{'-skip' if self.skip_broken else ''}"

    def _survey(self, tree: ImageTree) -> dict[Path, Head]:
        """The headers of all images."""
        heads, broken = _attempted(head, tree.paths())
        if broken and (not self.skip_broken or not heads):
            raise self._broken_error(tree, broken)
        return heads

    def _shape(self, heads: dict[Path, Head]) -> tuple[int, Size]:
        """Channels and size that all images share."""
        channels = 1 if all(about.gray for about in heads.values()) else 3
        if self.image_size is not None:
            return channels, self.image_size
        (first, size), *others = ((path, about.size) for path, about in heads.items())
        for path, other in others:
            if other != size:
                raise ValueError(
                    f"{path} has {other[0]}x{other[1]} pixels and {first} has {size[0]}x{size[1]}: "
                    "pass image_size (--image-size) to scale and crop all images to one size"
                )
        return channels, size

    def _streamed(self, tree: ImageTree, split: str) -> "tuple[Streamed, Tensor] | None":
        """Return a split that is read on demand; None if ``in_memory`` is None and it fits into memory."""
        channels, size, decode, _ = self._decoding(tree)
        if self.in_memory is None and len(tree.paths()) * channels * math.prod(size) <= memory() / 4:
            return None
        files = tree.files[split]
        workers = min(os.cpu_count() or 1, 8) if self.workers is None else self.workers
        load = partial(_loaded, [path for path, _ in files], decode)
        source = self._name(split), tuple(path for path, _ in files)
        images = Streamed(load, (channels, *size), torch.uint8, torch.arange(len(files)), workers, source=source)
        labels = torch.tensor([label for _, label in files])
        if not self.skip_broken:
            return images, labels
        broken = {files[k][0]: error for k, error in images.unusable() if isinstance(error, BrokenImageError)}
        kept = torch.tensor([k for k, (path, _) in enumerate(files) if path not in broken], dtype=torch.long)
        if broken:
            _warn_broken(tree, split, broken, labels[kept].tolist())
        return images[kept], labels[kept]

    def _decoding(self, tree: ImageTree) -> tuple[int, Size, Callable[[Path], NDArray[np.uint8]], float]:
        """Channels and size of all images, the function that decodes one, and the value of white."""
        heads = self._survey(tree)
        channels, size = self._shape(heads)
        white = self._white(tree, heads)
        decode = partial(decoded, channels=channels, size=size, fit=self.image_size is not None, white=white)
        return channels, size, decode, white

    def _read(self, tree: ImageTree, split: str) -> Split:
        channels, size, decode, white = self._decoding(tree)
        images = torch.empty(len(tree.files[split]), channels, *size, dtype=torch.uint8)
        labels: list[int] = []
        broken: Broken = {}
        with progress(f"images to {split} on", len(images)) as advance:
            pixels = counted(results(decode, tree.paths(split)), advance)
            for (path, label), image in zip(tree.files[split], pixels, strict=True):
                if isinstance(image, BrokenImageError):
                    broken[path] = image
                else:
                    images.numpy()[len(labels)] = image
                    labels.append(label)
        if broken and not self.skip_broken:
            raise self._broken_error(tree, broken, white)
        if broken:
            _warn_broken(tree, split, broken, labels)
        return images[: len(labels)], torch.tensor(labels)

    def _white(self, tree: ImageTree, heads: dict[Path, Head]) -> float:
        """The value of white in images of more than 8 bits whose file does not contain it.

        Raises ValueError if it is not given and cannot be determined.
        """
        by_depth: dict[Depth, list[Path]] = {}
        for path, about in heads.items():
            if about.white is None:
                by_depth.setdefault(about.depth, []).append(path)
        for depth, paths in by_depth.items():
            if self.white_level is None or depth == "16-bit colors":
                self._require_scale(tree, depth, paths)
        return FULL if self.white_level is None else self.white_level

    def _require_scale(self, tree: ImageTree, depth: Depth, paths: list[Path]) -> None:
        values, broken = _attempted(extremes, paths)
        if broken and not self.skip_broken:
            raise self._broken_error(tree, broken)
        if not values:
            return
        path = max(values, key=lambda path: values[path][1])
        if problem := question(depth, *values[path], self.white_level):
            raise ValueError(f"{path} {problem}" + (f" ({len(values)} files are like it)" if len(values) > 1 else ""))

    def _broken_error(self, tree: ImageTree, known: Broken, white: float = float("inf")) -> ValueError:
        """The error for all broken files, not only the first one; decodes all files."""
        check = partial(decoded, channels=3, size=self.image_size or (1, 1), fit=True, white=white)
        broken = known | _attempted(check, [path for path in tree.paths() if path not in known])[1]
        if len(broken) == 1:
            return ValueError(f"{next(iter(broken.values()))}, or pass skip_broken (--skip-broken) to leave it out")
        return ValueError(
            f"{tree.root} has {len(broken)} files that cannot be read as images, {_listed(tree.root, broken)}: repair "
            "or remove them, or pass skip_broken (--skip-broken) to leave them out"
        )


def _loaded(paths: Sequence[Path], decode: Callable[[Path], NDArray[np.uint8]], index: int) -> Tensor | ValueError:
    """Return an image as a tensor, or the error if it cannot be used."""
    try:
        return torch.from_numpy(decode(paths[index]).copy())
    except BrokenImageError as error:
        return error


def memory() -> int:
    """Bytes of memory of this machine; 8 GiB where the system does not report it."""
    if not hasattr(os, "sysconf"):
        return 2**33
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _warn_broken(tree: ImageTree, split: str, broken: Broken, labels: list[int]) -> None:
    """Warn of broken files that are left out; raise ValueError if a class has no image without them."""
    listed = _listed(tree.root, broken)
    if empty := [name for k, name in enumerate(tree.classes) if k not in labels]:
        raise ValueError(f"class {empty[0]!r} has no image to {split} on but broken ones: {listed}")
    warnings.warn(f"broken files left out of those to {split} on: {len(broken)}, {listed}", stacklevel=2)


def question(depth: Depth, least: float, most: float, white: float | None) -> str:
    """Return the end of a message that asks for the scale of images with more than 8 bits; "" if it is known."""
    way_out = "pass white_level (--white-level), the value of white"
    if depth == "floats":
        return (
            f"has floating-point numbers, whose scale is not known, {least:g}..{most:g}: save it with 8 or 16 bits, or "
            f"{way_out}, such as 1"
        )
    if depth == "32 bits" and not 0 <= least <= most <= FULL:
        return f"cannot be used as it is, its pixels are {least:.0f}..{most:.0f}, expected 8 or 16 bits: {way_out}"
    if depth == "32 bits":
        return f"has numbers of 32 bits, whose scale is not known, {least:.0f}..{most:.0f}: {way_out}, such as 255"
    if depth == "16-bit colors" and most <= FOURTEEN_BITS >> 8 and white != FULL:
        return (
            f"has 16 bits a channel, of which 8 are read, but no value above {256 * most + 255:.0f}: save it with 8 "
            f"bits, or pass white_level (--white-level) {FULL} if it is that dark"
        )
    if depth == "16 bits" and most <= FOURTEEN_BITS:
        return f"has 16 bits but no value above {most:.0f}: {way_out}, 4095 for 12 bits, {FULL} if it is that dark"
    return ""


def results(function: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[T | BrokenImageError]:
    """Yield ``function`` of each file, in order, or the error if the file cannot be used."""

    def one(path: Path) -> T | BrokenImageError:
        try:
            return function(path)
        except BrokenImageError as error:
            return error

    with ThreadPoolExecutor() as pool:
        yield from pool.map(one, paths)


def _attempted(function: Callable[[Path], T], paths: Sequence[Path]) -> tuple[dict[Path, T], Broken]:
    """Return ``function`` of all usable files, and the errors of the others."""
    attempts = dict(zip(paths, results(function, paths), strict=True))
    broken = {path: result for path, result in attempts.items() if isinstance(result, BrokenImageError)}
    return {path: result for path, result in attempts.items() if not isinstance(result, BrokenImageError)}, broken


def _listed(root: Path, broken: Broken) -> str:
    """The first few files with the reason of each, and the number of further ones."""
    named = [f"{path.relative_to(root)} ({error.reason})" for path, error in sorted(broken.items())[:NAMED]]
    return ", ".join(named) + (f" and {len(broken) - NAMED} more" if len(broken) > NAMED else "")


def size_of(image_size: int | Sequence[int] | None) -> Size | None:
    """(H, W) from one number or two; raises ValueError for anything else."""
    if image_size is None:
        return None
    numbers = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(numbers) != 2 or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ValueError(f"image_size is {image_size!r}: pass a number of pixels, or (height, width)")
    return numbers[0], numbers[1]


def tree_of(root: Path) -> ImageTree:
    """The files of root/train/CLASS/ and root/test/CLASS/, by any of the names above, or of root/CLASS/.

    In the latter every fifth file of each class, from the first in sorted order, is for testing.

    Raises ValueError for an empty class, fewer than two classes, splits of different classes, and where splits cannot
    be told from classes.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root} is not a folder: pass root (--data-dir), a folder with one sub-folder per class"
        )
    splits = _splits(root)
    if splits is not None:
        return _tree(root, *map(_classes, splits))
    parts = {name: [(i % 5 == 0, file) for i, file in enumerate(files)] for name, files in _classes(root).items()}
    train, test = ({k: [f for t, f in part if t == tested] for k, part in parts.items()} for tested in (False, True))
    return _tree(root, train, test)


def has_splits(root: Path) -> bool:
    """Whether a folder has separate sub-folders for training and testing."""
    return _splits(root) is not None


def _splits(root: Path) -> tuple[Path, Path] | None:
    """The folders for training and testing; None if all sub-folders are classes, even one with the name of a split.

    A split has sub-folders, a class has images.
    """
    train, test, valid = (_called(names, root) for names in (TRAIN, TEST, VALID))
    tested = test or valid
    named = [folder for folder in (train, test, valid) if folder]
    parents = [folder for folder in named if _folders(folder)]
    if train and tested and {train, tested} <= set(parents):
        return train, tested
    others = set(_folders(root)) - set(named)
    if not parents and (others or not (train and tested)):
        return None
    if not (train and tested):
        lacks, add = ("neither test nor val", "test") if train else ("no train", "train")
        raise FileNotFoundError(
            f"{named[0]} exists but {lacks} next to it: add {root / add}; if {named[0].name} is a class, put its "
            "images into it directly"
        )
    odd = next(folder for folder in (train, tested) if folder not in parents)
    raise ValueError(f"{odd} has no sub-folders: sort its images into one sub-folder per class")


def _called(names: Sequence[str], root: Path) -> Path | None:
    """The folder with one of these names, in upper or lower case; raises ValueError if there are two."""
    matches = [folder for folder in _folders(root) if folder.name.casefold() in names]
    if len(matches) > 1:
        raise ValueError(f"{matches[0]} and {matches[1].name} are names of the same split: keep one of them")
    return matches[0] if matches else None


def _tree(root: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> ImageTree:
    if odd := sorted(set(train) ^ set(test)):
        raise ValueError(f"{root} has class {odd[0]!r} in only one of train and test: every class is needed in both")
    if len(train) < 2:
        raise ValueError(f"{root} has {len(train)} classes: expected at least two sub-folders of images")
    if few := [name for name in train if not train[name]]:
        raise ValueError(f"{root / few[0]} has one image: expected at least two, one to train on and one to test on")
    splits = {"train": train, "test": test}
    files = {s: tuple((f, k) for k, name in enumerate(sorted(by)) for f in by[name]) for s, by in splits.items()}
    return ImageTree(root, tuple(sorted(train)), files)


def _classes(root: Path) -> dict[str, list[Path]]:
    """The files of each class in sorted order, including sub-folders; hidden files (.DS_Store) are left out."""
    classes, folders = {}, _folders(root)
    _require_clear(folders)
    for folder in folders:
        classes[folder.name] = sorted(files_in(folder))
        if not classes[folder.name]:
            raise ValueError(f"class {folder} is empty: put images into it, or remove it")
    return classes


def _require_clear(folders: Sequence[Path]) -> None:
    """Raise ValueError if classes contain folders of the same names, which may be the actual classes, or splits.

    A single common name that is not that of a split, such as images/ in each of them, is unambiguous.
    """
    inside = {folder: {inner.name.casefold() for inner in _folders(folder)} for folder in folders}
    deep = {folder: names for folder, names in inside.items() if names}
    for (one, names), (other, others) in combinations(deep.items(), 2):
        shared = names & others
        if len(shared) > 1 or shared & {*TRAIN, *TEST, *VALID}:
            raise ValueError(
                f"{one} and {other.name} both have the sub-folders {', '.join(sorted(shared)[:3])}, so that it is not "
                "clear which are the classes: call splits train and test, or put the images of a class into one folder"
            )


def _folders(root: Path) -> list[Path]:
    """The sub-folders of a folder, sorted, without hidden ones and the __MACOSX of archives made on macOS."""
    inside = sorted(path for path in root.iterdir() if path.is_dir())
    return [path for path in inside if not path.name.startswith(".") and path.name != "__MACOSX"]


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it, except hidden ones."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                yield from files_in(Path(entry.path)) if entry.is_dir() else (Path(entry.path),)
