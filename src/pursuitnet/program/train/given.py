"""Data passed in from Python, as a data set to train on."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pursuitnet import data
from pursuitnet.data.streamed import seeded

FORMS = (
    "(train_images, train_labels, test_images, test_labels), or (train, test) where each is a torch Dataset or a pair "
    "(images, labels), or one of these alone"
)
EVERY = 5
"""If there are no test images, every fifth image is one, as in a folder."""


def dataset(given: Any, classes: Sequence[str] | None = None, workers: int | None = None) -> data.Dataset:
    """Return data passed in from Python as a data set.

    Args:
        given: see ``train``.
        classes: names of the classes by label; by default the Dataset's ``classes``, or the labels themselves.
        workers: processes that read the items of Datasets; by default none.

    Raises:
        TypeError: if it has none of the supported forms.
        ValueError: if images or labels do not fit.
    """
    train, test = (_split(part, name, workers or 0) for part, name in zip(_parts(given), data.SPLITS, strict=True))
    if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype != test[0].dtype:
        raise ValueError(
            f"the images to train on are {_dtype_and_size(train[0])}, those to test on {_dtype_and_size(test[0])}; "
            "expected the same"
        )
    class_names = classes if classes is not None else getattr(_first(given), "classes", None)
    names, (train_labels, test_labels) = _encode_labels([train[1], test[1]], class_names)
    splits = {"train": (train[0], train_labels), "test": (test[0], test_labels)}
    channels, height, width = train[0].shape[1:]
    return data.Dataset(names, channels, (height, width), lambda root, split, fetch: splits[split])


def _parts(given: Any) -> tuple[Any, Any]:
    """Return the training part and the test part of the data."""
    if isinstance(given, tuple | list) and len(given) == 4:
        return tuple(given[:2]), tuple(given[2:])
    if isinstance(given, tuple | list) and len(given) == 2 and not _is_pair(given):
        return given[0], given[1]
    if _is_pair(given) or _is_dataset(given):
        count = len(given[0]) if _is_pair(given) else len(given)
        is_test = np.arange(count) % EVERY == 0
        return tuple(_subset(given, np.flatnonzero(mask)) for mask in (~is_test, is_test))
    raise TypeError(f"data is {type(given).__name__}; expected {FORMS}")


def _subset(given: Any, indices: Any) -> Any:
    if _is_pair(given):
        return tuple(np.asarray(part)[indices] if not isinstance(part, Tensor) else part[indices] for part in given)
    return torch.utils.data.Subset(given, indices.tolist())


def _is_pair(given: Any) -> bool:
    """Return whether this is a pair (images, labels)."""
    return isinstance(given, tuple | list) and len(given) == 2 and getattr(given[0], "ndim", 0) >= 3


def _is_dataset(given: Any) -> bool:
    return isinstance(given, Dataset) or (hasattr(given, "__len__") and hasattr(given, "__getitem__"))


def _first(given: Any) -> Any:
    return given[0] if isinstance(given, tuple | list) else given


def _split(part: Any, name: str, workers: int) -> tuple[data.Pixels, Sequence[Any] | Tensor]:
    """Return images and labels of one split."""
    if _is_pair(part):
        images: data.Pixels = _image_tensor(part[0], name)
        labels = part[1]
    elif isinstance(part, tuple | list) or not _is_dataset(part):
        raise TypeError(f"the {name} data are {type(part).__name__}; expected {FORMS}")
    else:
        images, labels = _stream(part, name, workers)
    if len(images) != len(labels):
        raise ValueError(f"there are {len(images)} images to {name} on and {len(labels)} labels; expected one each")
    if not len(images):
        raise ValueError(f"there are no images to {name} on")
    return images, labels


def _image_tensor(given: Any, name: str) -> Tensor:
    """Return uint8 images, or float32 ones in [0, 1], (N, C, H, W)."""
    images = torch.as_tensor(given).detach().cpu()
    images = images[:, None] if images.dim() == 3 else images
    if images.dim() != 4:
        raise ValueError(
            f"the images to {name} on have shape {tuple(images.shape)}; expected (N, C, H, W) or (N, H, W)"
        )
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        raise ValueError(
            f"the images to {name} on have shape {tuple(images.shape)}, with the channels last; expected (N, C, H, W): "
            "images.transpose(0, 3, 1, 2) of an array, images.permute(0, 3, 1, 2) of a tensor"
        )
    return _check_pixels(images, name)


def _check_pixels(images: Tensor, name: str) -> Tensor:
    """Return images as uint8, or as float32 in [0, 1]."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise ValueError(f"the images to {name} on are {images.dtype}; expected uint8, or floats in [0, 1]")
    low, high = (float(value) for value in images.aminmax()) if images.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # NaN is not
        raise ValueError(
            f"the images to {name} on are floats from {low:.4g} to {high:.4g}; expected uint8, or floats in [0, 1]: "
            "divide 0 to 255 by 255, and leave the normalization to the run"
        )
    return images.float()


def _stream(items: Any, name: str, workers: int) -> tuple[data.Streamed, Any]:
    """Return the images of a Dataset, which are read when they are needed, and its labels."""
    first = seeded(0, partial(_item_image, items, name, 0))
    load = partial(_item_image, items, name)
    size = (first.shape[0], first.shape[1], first.shape[2])
    images = data.Streamed(load, size, first.dtype, torch.arange(len(items)), workers, seed=0)
    labels = getattr(items, "targets", None)
    if labels is None or len(labels) != len(items):
        labels = [seeded(index, partial(_item_label, items, index)) for index in range(len(items))]
    return images, labels


def _item_image(items: Any, name: str, index: int) -> Tensor:
    """Return the image of an item as a tensor (C, H, W)."""
    image = items[index][0]
    pixels = image if isinstance(image, Tensor) else torch.as_tensor(np.array(image))
    if not isinstance(image, Tensor) and pixels.dim() == 3:
        pixels = pixels.permute(2, 0, 1)  # Pillow and NumPy have the channels last
    pixels = pixels[None] if pixels.dim() == 2 else pixels
    if pixels.dim() != 3:
        raise ValueError(
            f"item {index} of the {name} data has an image of shape {tuple(pixels.shape)}; expected (C, H, W)"
        )
    return _check_pixels(pixels, name)


def _item_label(items: Any, index: int) -> Any:
    return items[index][1]


def _encode_labels(labels: list[Any], classes: Sequence[str] | None) -> tuple[tuple[str, ...], list[Tensor]]:
    """Return the names of the classes and the labels as int64 (N,)."""
    plain = [part.tolist() if isinstance(part, Tensor | np.ndarray) else list(part) for part in labels]
    if all(isinstance(label, str) for part in plain for label in part):
        names = tuple(sorted(set(plain[0]))) if classes is None else tuple(map(str, classes))
        if unknown := sorted({*plain[0], *plain[1]} - set(names)):
            raise ValueError(f"a label is {unknown[0]!r}; expected one of {', '.join(names[:10])}")
        return names, [torch.tensor([names.index(label) for label in part]) for part in plain]
    numbers = [torch.as_tensor(part) for part in plain]
    if any(part.dim() != 1 or part.is_floating_point() or part.dtype == torch.bool for part in numbers):
        raise ValueError(
            f"the labels are {numbers[0].dtype} of shape {tuple(numbers[0].shape)}; expected whole numbers (N,)"
        )
    most = max(int(part.max()) for part in numbers)
    names = tuple(map(str, range(int(numbers[0].max()) + 1))) if classes is None else tuple(map(str, classes))
    if min(int(part.min()) for part in numbers) < 0 or most >= len(names):
        raise ValueError(f"a label is {most}; expected 0 to {len(names) - 1}, the {len(names)} classes of the training")
    if len(names) < 2:
        raise ValueError(f"there is {len(names)} class; expected at least two")
    return names, [part.long() for part in numbers]


def _dtype_and_size(images: data.Pixels) -> str:
    return f"{str(images.dtype).removeprefix('torch.')} of {' x '.join(map(str, images.shape[1:]))}"


Augment = Callable[[Tensor], Tensor]
"""Takes a batch (B, C, H, W), uint8 or float32 in [0, 1], and returns one with the same dtype, size and channels."""


def name_of(augment: Augment | None) -> str | None:
    """Return the name of an augmentation, for checkpoints."""
    if augment is None:
        return None
    name = getattr(augment, "__qualname__", None)
    return f"{augment.__module__}.{name}" if name else " ".join(repr(augment).split(" at 0x")[0].split())


def augmented(augment: Augment, batch: Tensor, seed: int) -> Tensor:
    """Return a batch after the user's own augmentation, with its random numbers drawn from a seed.

    Raises:
        ValueError: if it does not return a batch of the same kind.
    """
    result = seeded(seed, lambda: augment(batch), batch.device)
    if not isinstance(result, Tensor) or result.dtype != batch.dtype or result.shape[:2] != batch.shape[:2]:
        what = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"augment returned {what}; expected a batch like the one it took, {batch.dtype} {tuple(batch.shape)}"
        )
    return result
