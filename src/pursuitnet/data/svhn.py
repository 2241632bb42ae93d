"""Street View House Numbers, cropped: 73,257 images for training, 26,032 for testing.

Source: Netzer et al., Reading digits in natural images with unsupervised feature learning (2011).
"""

import io

import torch

from pursuitnet.data.download import File
from pursuitnet.data.files import Layout, Originals, Split
from pursuitnet.data.progress import Advance, progress

CLASSES = tuple("0123456789")
PAGE = "http://ufldl.stanford.edu/housenumbers/"


def decode(content: bytearray) -> Split:
    """Decode a MATLAB file: X (32, 32, 3, N), y (N, 1), in which the label 10 is the digit 0."""
    from scipy.io import loadmat  # type: ignore[import-untyped, unused-ignore]

    with progress("bytes of svhn", len(content)) as advance:
        arrays = loadmat(_CountedBytes(content, advance), variable_names=("X", "y"))
    if missing := {"X", "y"} - arrays.keys():
        raise ValueError(f"it holds no {' and no '.join(sorted(missing))}")
    images, labels = torch.from_numpy(arrays["X"]), torch.from_numpy(arrays["y"]).flatten().to(torch.int64)
    if images.dtype != torch.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise ValueError(f"X is {images.dtype} {tuple(images.shape)}, expected uint8 (32, 32, 3, {len(labels)})")
    if (labels == 0).any():
        raise ValueError("it has label 0, expected 1..10")
    return images.permute(3, 2, 0, 1).contiguous(), torch.where(labels == 10, 0, labels)


class _CountedBytes(io.BytesIO):
    """Bytes that count what is read of them."""

    def __init__(self, content: bytearray, advance: Advance) -> None:
        super().__init__(content)
        self.advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        self.advance(len(part))
        return part


def _file(name: str, md5: str, size: int) -> tuple[File, ...]:
    return (File(name, f"md5:{md5}", size, PAGE + name),)


FILES = {
    "train": _file("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794),
    "test": _file("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", 64_275_384),
}
SVHN = Originals("svhn", 10, (Layout(FILES, decode),), PAGE)
