"""The images to learn from, checked: one tensor, a list of batches of any sizes, or a stream, with masks."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.problems.inputs import check_types, tensor_of
from pursuitnet.problems.learning.filters import Filters, patch_energies, places_of

Mask = Tensor | Literal["nan"] | None


@dataclass(frozen=True)
class Batch:
    """Images of one size, zero where they are not known, and the mask of what is known; None for everything."""

    signal: Tensor
    mask: Tensor | None

    @staticmethod
    def of(value: Any, filters: Filters, mask: Any, name: str = "images") -> "Batch":
        """Return a batch of images after checking it.

        Args:
            value: (B, channels, …), or one image (channels, …).
            filters: the dictionary that the images must match.
            mask: "nan", or a tensor that broadcasts against the batch, nonzero where the images are known.
            name: name of the batch in messages.

        Raises:
            TypeError: for anything but a tensor or an array.
            ValueError: for shapes, types and values that do not match.
        """
        signal = tensor_of(name, value, filters.weight)
        signal = signal[None] if signal.dim() == filters.dims + 1 else signal
        if signal.dim() != filters.dims + 2 or signal.shape[1] != filters.channels or not len(signal):
            sizes = f", and {filters.dims} sizes" if filters.dims else ""
            raise ValueError(
                f"{name}: shape {tuple(signal.shape)}; expected (N, {filters.channels}{sizes}) with one image or more"
            )
        check_types(signal, filters)
        _check_size(signal, filters, name)
        known = _mask_of(signal, mask, name)
        signal = signal.detach() if known is None else torch.where(known, signal.detach(), 0.0)
        if not signal.isfinite().all():
            count = int((~signal.isfinite()).flatten(1).any(1).sum())
            raise ValueError(
                f"{name}: {count} of {len(signal)} images hold NaN or infinite values; remove or replace them, or pass "
                'mask="nan" if NaN stands for a missing pixel'
            )
        return Batch(signal, known)

    def split(self, size: int) -> list["Batch"]:
        """Return batches of at most ``size`` images."""
        masks = (
            [None] * -(-len(self.signal) // size)
            if self.mask is None
            else self.mask.expand_as(self.signal).split(size)
            if len(self.mask) > 1
            else [self.mask] * -(-len(self.signal) // size)
        )
        return [Batch(x, m) for x, m in zip(self.signal.split(size), masks, strict=True)]

    def chosen(self, order: Tensor) -> "Batch":
        """Return the images in another order."""
        several = self.mask is not None and len(self.mask) > 1
        return Batch(self.signal[order], self.mask[order] if several and self.mask is not None else self.mask)


def is_stream(images: Any) -> bool:
    """Return whether images come batch by batch, so that each is used once and not kept."""
    return not isinstance(images, Tensor | list | tuple) and not hasattr(images, "__array__")


def whole(images: Any, filters: Filters, mask: Mask) -> list[Batch]:
    """Return images that are all in memory as batches: one batch, or the batches of a list.

    Raises:
        ValueError: as ``Batch.of``, and if all images are constant.
    """
    if isinstance(images, list | tuple) and images and not isinstance(images[0], int | float | list | tuple):
        if isinstance(mask, Tensor) and len({tuple(getattr(x, "shape", ())) for x in images}) > 1:
            raise ValueError(
                'images have several sizes and one mask; expected mask="nan" with NaN where pixels are missing'
            )
        batches = [Batch.of(x, filters, mask, f"images[{i}]") for i, x in enumerate(images)]
    else:
        batches = [Batch.of(images, filters, mask)]
    if all(b.mask is not None and not bool(b.mask.any()) for b in batches):
        raise ValueError("the mask says that no pixel of any image is known; expected some that are")
    constant = [int(_constant(b).sum()) for b in batches]
    total = sum(len(b.signal) for b in batches)
    if sum(constant) == total:
        raise ValueError("all images are constant; expected images that are not")
    if sum(constant):
        warnings.warn(
            f"{sum(constant)} of {total} images are constant, and nothing can be learned from them", stacklevel=3
        )
    return batches


def stream(images: Iterable[Any], filters: Filters, mask: Mask) -> Iterator[Batch]:
    """Yield the batches of a stream; of a pair (images, labels), the images."""
    if isinstance(images, str) or (not isinstance(images, Iterable) and not hasattr(images, "__getitem__")):
        raise TypeError(f"images is {kind_of(images)}; expected a tensor (N, channels, …) or an iterable of batches")
    for i, value in enumerate(images):
        first = value[0] if isinstance(value, list | tuple) and len(value) else value
        yield Batch.of(first, filters, mask, f"batch {i} of the stream")


def check_images(images: Sequence[Tensor], filters: Filters, beta: float) -> None:
    """Raise ValueError if nothing can be learned from images in memory."""
    check_worth(whole(list(images), filters, None), filters, torch.tensor([beta]))


def check_worth(batches: Sequence[Batch], filters: Filters, beta: Tensor) -> None:
    """Raise ValueError if β is too large for any atom of norm 1 to be used, or if there are more atoms than places."""
    places = sum(len(b.signal) * places_of(filters, b.signal.shape) for b in batches)
    if len(filters.weight) > places:
        raise ValueError(
            f"the dictionary has {len(filters.weight)} atoms and the images have {places} positions for one; with so "
            "few data any atoms fit: expected fewer atoms, or more images"
        )
    most = max(float(patch_energies(filters, b.signal).amax()) ** 0.5 for b in batches)
    if float(beta.min()) >= most:
        raise ValueError(
            f"beta is {float(beta.min()):g}, and the correlation of an atom of norm 1 with the images is at most "
            f"{most:.4g}, so that every code is zero; expected a smaller beta"
        )


def _check_size(signal: Tensor, filters: Filters, name: str) -> None:
    """Raise ValueError if the filters are larger than the images."""
    try:
        filters.check_signal(signal)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _mask_of(signal: Tensor, mask: Any, name: str) -> Tensor | None:
    if mask is None:
        return None
    if isinstance(mask, str):
        if mask != "nan":
            raise ValueError(f'mask is {mask!r}; expected "nan", or a tensor that is nonzero where images are known')
        known = ~signal.isnan()
        return None if bool(known.all()) else known
    known = tensor_of("mask", mask).to(signal.device) != 0
    try:
        shape = np.broadcast_shapes(known.shape, signal.shape)  # PyTorch's would import SymPy
    except ValueError:
        shape = ()
    if shape != signal.shape:
        raise ValueError(
            f"mask has shape {tuple(known.shape)}, {name} {tuple(signal.shape)}; expected one that broadcasts to it"
        )
    known = known.view(*[1] * (signal.dim() - known.dim()), *known.shape)
    return known.expand(-1, *signal.shape[1:])


def _constant(batch: Batch) -> Tensor:
    """Return which images have one value in each channel; for vectors and single pixels, which are zero."""
    x = batch.signal
    if math.prod(x.shape[2:]) == 1:
        return (x.flatten(1) == 0).all(1)
    low = torch.where(batch.mask, x, torch.inf) if batch.mask is not None else x
    high = torch.where(batch.mask, x, -torch.inf) if batch.mask is not None else x
    return (high.flatten(2).amax(2) <= low.flatten(2).amin(2)).all(1)
