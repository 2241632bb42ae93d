"""CIFAR-10 and CIFAR-100 (fine labels), each as binary records and as Python pickles, packed or unpacked.

Source: Krizhevsky, Learning multiple layers of features from tiny images (2009).
"""

import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pursuitnet.data.download import File
from pursuitnet.data.files import Layout, Originals, Split

BASE_URL = "https://www.cs.toronto.edu/~kriz/"
PAGE = BASE_URL + "cifar.html"
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Records:
    """Decoder of binary records: label bytes, of which the last is used, then red, green and blue planes row by row."""

    below: tuple[int, ...]
    """Number of values of each label byte."""

    def __call__(self, content: bytearray) -> Split:
        """Return images and labels; raises ValueError for a broken record or a label out of range."""
        count = len(self.below)
        records = torch.frombuffer(content, dtype=torch.uint8).reshape(-1, count + _PIXELS)
        for coarse, below in zip(records[:, : count - 1].unbind(1), self.below[:-1], strict=True):
            if coarse.max() >= below:
                raise ValueError(f"it has coarse label {int(coarse.max())}, expected 0..{below - 1}")
        return records[:, count:].reshape(-1, 3, 32, 32), records[:, count - 1].to(torch.int64)


@dataclass(frozen=True)
class Pickled:
    """Decoder of a pickled dictionary with `data` uint8 (N, 3072) and a list of labels; nothing in it is executed."""

    labels: bytes

    def __call__(self, content: bytearray) -> Split:
        """Return images and labels; raises UnpicklingError for a pickle that refers to anything but arrays."""
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise ValueError(f"it holds a {type(batch).__name__}, expected a dict")
        batch = {key.encode() if isinstance(key, str) else key: value for key, value in batch.items()}
        for key in (b"data", self.labels):
            if key not in batch:
                raise ValueError(f"it holds no {key.decode()!r}")
        pixels, labels = batch[b"data"], torch.tensor(batch[self.labels], dtype=torch.int64, device="cpu")
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
            raise ValueError(f"its data are not uint8 ({len(labels)}, {_PIXELS})")
        return torch.from_numpy(np.ascontiguousarray(pixels)).reshape(-1, 3, 32, 32), labels


def _encoded(text: str, encoding: str) -> bytes:
    """Encode text as bytes, in the one encoding that pickles use for this."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _array_parts() -> dict[tuple[str, str], Callable[..., Any]]:
    """Everything that a pickle of arrays and bytes refers to; the first entry is for NumPy before version 2."""
    rebuild: Any = np.zeros(0).__reduce__()[0]
    return {
        ("numpy.core.multiarray", "_reconstruct"): rebuild,
        ("numpy._core.multiarray", "_reconstruct"): rebuild,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encoded,
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        parts = _array_parts()
        if (module, name) not in parts:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return parts[module, name]


def _archive(name: str, md5: str, size: int) -> File:
    return File(name, f"md5:{md5}", size, BASE_URL + name)


def _split_files(checksums: dict[str, str], size: int | None = None) -> dict[str, tuple[File, ...]]:
    files = [File(name, checksum, size) for name, checksum in checksums.items()]
    tests = tuple(file for file in files if file.name.startswith("test"))
    return {"train": tuple(file for file in files if file not in tests), "test": tests}


CIFAR10_BINARY = Layout(
    _split_files(
        {
            "data_batch_1.bin": "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        size=10_000 * (1 + _PIXELS),
    ),
    Records((10,)),
    "cifar-10-batches-bin",
    _archive("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170_052_171),
    cached=False,  # the checksum takes longer than decoding
)
CIFAR10_PYTHON = Layout(
    _split_files(
        {
            "data_batch_1": "md5:c99cafc152244af753f735de768cd75f",
            "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
            "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "md5:40351d587109b95175f43aff81a1287e",
        }
    ),
    Pickled(b"labels"),
    "cifar-10-batches-py",
    _archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071),
)
CIFAR100_BINARY = Layout(
    # no checksums of these two files are published, only the archive's: their size, their labels and the number of
    # images per label are checked, so a changed pixel is not detected
    {
        "train": (File("train.bin", size=50_000 * (2 + _PIXELS)),),
        "test": (File("test.bin", size=10_000 * (2 + _PIXELS)),),
    },
    Records((20, 100)),
    "cifar-100-binary",
    _archive("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168_513_733),
    cached=False,
    balanced=True,
)
CIFAR100_PYTHON = Layout(
    _split_files({"train": "md5:16019d7e3df5f24257cddd939b257f8d", "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc"}),
    Pickled(b"fine_labels"),
    "cifar-100-python",
    _archive("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", 169_001_437),
)
CIFAR10 = Originals("cifar10", 10, (CIFAR10_BINARY, CIFAR10_PYTHON), PAGE)
CIFAR100 = Originals("cifar100", 100, (CIFAR100_BINARY, CIFAR100_PYTHON), PAGE)

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard "
    "lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear "
    "pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal "
    "shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank "
    "telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
CIFAR100_CLASSES = tuple(_CIFAR100_CLASSES.split())
