"""Labeled images as tensors, read from the original files and checked, and their augmentation in batches.

Images are uint8 (N, C, H, W), labels int64 (N,). A data set is one entry of `DATASETS`: its description and its
reader; "folder" is any folder of images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pursuitnet.data import cifar, digits, folder, svhn
from pursuitnet.data.augment import FILLINGS, augment, channel_statistics, divisor, normalize, to_unit
from pursuitnet.data.files import Split
from pursuitnet.data.identity import Identity
from pursuitnet.data.order import stratified
from pursuitnet.data.streamed import Streamed
from pursuitnet.utils.nearest import require_known
from pursuitnet.utils.paths import expanded

__all__ = [
    "DATASETS",
    "FILLINGS",
    "NAMES",
    "SPLITS",
    "Dataset",
    "Identity",
    "Pixels",
    "Streamed",
    "augment",
    "channel_statistics",
    "divisor",
    "in_memory",
    "info",
    "load",
    "normalize",
    "stratified",
    "to_unit",
]

SPLITS = ("train", "test")
Pixels = Tensor | Streamed
"""Images (N, C, H, W), in memory or read on demand."""


def in_memory(images: Pixels) -> Tensor:
    """Return images as a tensor."""
    return images.read() if isinstance(images, Streamed) else images


@dataclass(frozen=True)
class Dataset:
    """Description of a data set (class names by label, channels, height and width) and its reader."""

    classes: tuple[str, ...]
    in_chans: int
    image_size: tuple[int, int]
    read: Callable[[Path | None, str, bool], tuple[Any, Tensor]] = field(repr=False)
    """(root, split, download) -> images, labels."""

    @property
    def num_classes(self) -> int:
        """The number of labels 0..num_classes - 1."""
        return len(self.classes)


def load(
    name: str,
    root: str | Path | None = None,
    split: str = "train",
    *,
    download: bool = False,
    image_size: int | Sequence[int] | None = None,
    skip_broken: bool = False,
    white_level: float | None = None,
    in_memory: bool | None = True,
    workers: int | None = None,
) -> Split:
    """Read one split of a data set: images uint8 (N, C, H, W), values 0..255, and labels int64 (N,).

    `root` contains the original files, packed as they were downloaded or unpacked: "cifar10" takes the folder with
    `cifar-10-batches-bin`, `cifar-10-batches-py`, or an archive of one, or any of these itself; "cifar100" likewise;
    "svhn" the folder of `train_32x32.mat` and `test_32x32.mat`; "folder" the images, with one sub-folder per class;
    "digits" needs none. The default root is the user's cache. `download` fetches missing files.

    For the images of a "folder" only: `image_size`, one number or (H, W), scales and crops them; `skip_broken` leaves
    out the files that are not images, with a warning; `white_level` is the value of white in images of more than 8 bits
    whose file does not contain it, such as 4095 for 12 bits in a 16-bit file. `in_memory` False reads them on demand,
    in `workers` processes, and returns `Streamed` images; None does so if they are large compared with the memory.

    Raises ValueError for an unknown name or split, a data set that is not found, a file that is not the original, and
    images of a folder that are broken or whose scale is not known, FileNotFoundError for a missing file,
    ConnectionError for a failed download, ImportError for "digits" without scikit-learn.

    Example:
        >>> import pursuitnet as pn
        >>> images, labels = pn.data.load("digits", split="test")
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([360, 1, 8, 8]), torch.uint8, torch.Size([360]))
    """
    require_known("data set", name, NAMES)
    require_known("split", split, SPLITS)
    place = None if root is None else expanded(root)
    choices = (image_size, skip_broken, white_level, in_memory, workers)
    read = info(name, root, *choices).read if name in DATASETS else _folder(root, *choices)
    return read(place, split, download)


def info(
    name: str,
    root: str | Path | None = None,
    image_size: int | Sequence[int] | None = None,
    skip_broken: bool = False,
    white_level: float | None = None,
    in_memory: bool | None = True,
    workers: int | None = None,
) -> Dataset:
    """Return the description of a data set without reading it: classes, num_classes, in_chans, image_size (H, W).

    Only "folder" needs `root`, from which its classes are read, and takes the further arguments of `load`.

    Raises ValueError for an unknown name.
    """
    require_known("data set", name, NAMES)
    if name in DATASETS and image_size is not None:
        height, width = DATASETS[name].image_size
        raise ValueError(f"image_size is for a folder of images; those of {name} are {height}x{width}: leave it out")
    if name in DATASETS and (skip_broken or white_level is not None):
        raise ValueError(f"skip_broken and white_level are for a folder of images, not for {name}: leave them out")
    if name in DATASETS:
        return DATASETS[name]
    reader = _folder(root, image_size, skip_broken, white_level, in_memory, workers)
    return Dataset(*reader.about(), reader)


def _folder(
    root: str | Path | None,
    image_size: int | Sequence[int] | None,
    skip_broken: bool,
    white_level: float | None,
    in_memory: bool | None,
    workers: int | None,
) -> folder.Folder:
    if root is None:
        raise ValueError("folder needs root (--data-dir): pass a folder with one sub-folder of images per class")
    if white_level is not None and not 0 < white_level < float("inf"):
        raise ValueError(
            f"white_level is {white_level}: pass the value of white, a number > 0, such as 4095 for 12 bits"
        )
    return folder.Folder(expanded(root), folder.size_of(image_size), skip_broken, white_level, in_memory, workers)


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(digits.CLASSES, 1, (8, 8), digits.read),
    "cifar10": Dataset(cifar.CIFAR10_CLASSES, 3, (32, 32), cifar.CIFAR10),
    "cifar100": Dataset(cifar.CIFAR100_CLASSES, 3, (32, 32), cifar.CIFAR100),
    "svhn": Dataset(svhn.CLASSES, 3, (32, 32), svhn.SVHN),
}
NAMES = (*DATASETS, "folder")
