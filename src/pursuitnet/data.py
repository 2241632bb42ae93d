"""Labelled images as tensors, read from the original files and checked, and their augmentation in batches.

Images are uint8 (N, C, H, W), labels int64 (N,). A data set is one entry of `DATASETS`: what it holds and how
it is read.
"""

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

SPLITS = ("train", "test")
FILLINGS = ("zeros", "reflect")

_CIFAR10_FOLDER = "cifar-10-batches-bin"
_CIFAR10_RECORDS = 10_000  # in each file
_CIFAR10_SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}


@dataclass(frozen=True)
class Dataset:
    """What a data set holds (class names by label, channels, height and width) and how it is read."""

    classes: tuple[str, ...]
    in_chans: int
    image_size: tuple[int, int]
    read: Callable[[Path | None, str], tuple[Tensor, Tensor]] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """How many labels there are: 0..num_classes - 1."""
        return len(self.classes)


def load(name: str, root: str | Path | None = None, split: str = "train") -> tuple[Tensor, Tensor]:
    """Read one split of a data set: images uint8 (N, C, H, W), values 0..255, and labels int64 (N,).

    `root` is the folder of the original files; "digits" needs none. "cifar10" takes the folder that holds
    `cifar-10-batches-bin`, or that folder itself.

    Raises ValueError for an unknown name or split, a `root` not given and a file that is not the original,
    FileNotFoundError for a file that is not there, ImportError for "digits" without scikit-learn.
    """
    dataset = info(name)
    _require_known("split", split, SPLITS)
    return dataset.read(None if root is None else Path(root).expanduser(), split)


def info(name: str) -> Dataset:
    """The description of a data set, without reading it: classes, num_classes, in_chans, image_size (H, W).

    Raises ValueError for an unknown name.
    """
    _require_known("data set", name, DATASETS)
    return DATASETS[name]


def augment(
    images: Tensor, generator: torch.Generator, shift: int = 4, flip: bool = True, mode: str = "zeros"
) -> Tensor:
    """Move each image by its own -shift..shift pixels along H and W, and mirror it with probability 1/2.

    (B, C, H, W) -> (B, C, H, W), same dtype and device. What moves in is 0 (mode "zeros": black before
    normalisation, the mean after it) or the image mirrored at its edge pixel (mode "reflect"). The draws are
    uniform, come from `generator` alone, on its own device, and are the same with and without `flip`.

    Raises ValueError for another number of dimensions, an unknown mode, a negative shift, and "reflect" with
    a shift not below H and W. Source: He et al., Deep residual learning for image recognition (2016), 4.2.
    """
    _require_batch(images)
    _require_shift(images, shift, mode)
    batch, _, height, width = images.shape

    def draw(low: int, high: int) -> Tensor:
        drawn = torch.randint(low, high + 1, (batch, 1), generator=generator, device=generator.device)
        return drawn.to(images.device)

    rows = torch.arange(height, device=images.device) - draw(-shift, shift)
    columns = torch.arange(width, device=images.device) - draw(-shift, shift)
    mirrored = draw(0, 1) == 1
    if flip:
        columns = torch.where(mirrored, width - 1 - columns, columns)
    return _sample(images, rows, columns, mode)


def to_unit(images: Tensor) -> Tensor:
    """uint8 images 0..255, any shape, as float32 in [0, 1]; raises TypeError for another dtype."""
    _require_uint8(images)
    return images.to(torch.float32) / 255


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (dividing by the count) of each channel on the [0, 1] scale.

    uint8 (N, C, H, W) -> float32 (C,), float32 (C,). The sums are exact integers over a histogram: no float
    copy of the images is made and no rounding builds up. The deviation of a constant channel is 0.

    Raises TypeError for another dtype, ValueError for another number of dimensions and for no pixels.
    """
    _require_uint8(images)
    _require_batch(images)
    if images.numel() == 0:
        raise ValueError(f"images of shape {tuple(images.shape)} hold no pixels: pass at least one image")
    mean, std = zip(*(_moments(channel) for channel in images.unbind(1)), strict=True)
    return images.new_tensor(mean, dtype=torch.float32), images.new_tensor(std, dtype=torch.float32)


def _moments(pixels: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 pixels on the [0, 1] scale, from integer sums."""
    counts, values = torch.bincount(pixels.flatten(), minlength=256), torch.arange(256, device=pixels.device)
    n, total, squares = pixels.numel(), int((counts * values).sum()), int((counts * values**2).sum())
    return total / (255 * n), math.sqrt(n * squares - total**2) / (255 * n)


def _sample(images: Tensor, rows: Tensor, columns: Tensor, mode: str) -> Tensor:
    """Pixels of each image at its own rows (B, H) and columns (B, W); `mode` fills those outside."""
    height, width = images.shape[-2:]
    if mode == "reflect":
        rows, columns = _reflected(rows, height), _reflected(columns, width)
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    outside = ~(inside_rows[:, None, :, None] & inside_columns[:, None, None, :])
    pixel = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    pixels = pixel.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, pixels).view_as(images).masked_fill(outside, 0)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Indices in -(size-1)..2(size-1) folded back into 0..size-1, the edge pixel not repeated."""
    return size - 1 - (size - 1 - index.abs()).abs()


def _read_digits(root: Path | None, split: str) -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits in scikit-learn, 8x8, 0..16 scaled to 0..255; every fifth is for testing.

    Source: Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI repository (1998).
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError("digits are read from scikit-learn, not found: pip install scikit-learn") from error
    digits = load_digits()
    images = torch.as_tensor(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.as_tensor(digits.target).to(torch.int64)
    chosen = (torch.arange(len(labels)) % 5 == 0) == (split == "test")
    return images[chosen], labels[chosen]


def _read_cifar10(root: Path | None, split: str) -> tuple[Tensor, Tensor]:
    """CIFAR-10 from its binary archive: 50,000 images to train on, 10,000 to test on, in the original order.

    Source: Krizhevsky, Learning multiple layers of features from tiny images (2009).
    """
    if root is None:
        raise ValueError(
            "cifar10 is read from files and root is None: "
            f"pass root (--data-dir), the folder that holds {_CIFAR10_FOLDER}"
        )
    folder = _cifar10_folder(root)
    names = [name for name in _CIFAR10_SHA256 if name.startswith("test") == (split == "test")]
    images, labels = zip(*(_read_cifar10_file(folder / name) for name in names), strict=True)
    return torch.cat(images), torch.cat(labels)


def _cifar10_folder(root: Path) -> Path:
    """The folder of the six files: inside `root`, or `root` itself by its name or by what it holds."""
    inner = root / _CIFAR10_FOLDER
    if inner.is_dir():
        return inner
    named, filled = root.name == _CIFAR10_FOLDER, any((root / name).is_file() for name in _CIFAR10_SHA256)
    return root if named or filled else inner


def _read_cifar10_file(path: Path) -> tuple[Tensor, Tensor]:
    """One file of records: a label byte, then 32x32 red, green and blue planes row by row."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: unpack cifar-10-binary.tar.gz (the binary version at "
            "https://www.cs.toronto.edu/~kriz/cifar.html) so that this file is there; "
            f"root (--data-dir) is the folder that holds {_CIFAR10_FOLDER}"
        )
    content = _original(path, _CIFAR10_RECORDS * (1 + 3 * 32 * 32), _CIFAR10_SHA256[path.name])
    records = torch.frombuffer(content, dtype=torch.uint8).reshape(_CIFAR10_RECORDS, -1)
    labels = records[:, 0].to(torch.int64)
    if labels.max() > 9:
        raise ValueError(f"{path} has label {int(labels.max())}, expected 0..9; replace it by the original")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _original(path: Path, size: int, sha256: str) -> bytearray:
    """The content of a file; raises ValueError unless it has this size in bytes and this SHA256."""
    found = path.stat().st_size
    if found != size:
        raise ValueError(f"{path} has {found} bytes, expected {size}; replace it by the original")
    content = bytearray(path.read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{path} is altered or damaged; replace it by the original (sha256 {digest}, expected {sha256})"
        )
    return content


def _require_known(kind: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        close = difflib.get_close_matches(str(value).lower(), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {kind} {value!r}: known are {', '.join(known)}{hint}")


def _require_shift(images: Tensor, shift: int, mode: str) -> None:
    _require_known("mode", mode, FILLINGS)
    height, width = images.shape[-2:]
    if shift < 0 or (mode == "reflect" and shift >= min(height, width)):
        limit = f"0..{min(height, width) - 1}" if mode == "reflect" else "0 or more"
        raise ValueError(f"shift is {shift}: pass {limit} pixels for {height}x{width} images, mode {mode!r}")


def _require_batch(images: Tensor) -> None:
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: pass a batch (B, C, H, W)")


def _require_uint8(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: pass uint8, 0..255, as load returns them")


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(tuple("0123456789"), 1, (8, 8), _read_digits),
    "cifar10": Dataset(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        3,
        (32, 32),
        _read_cifar10,
    ),
}
