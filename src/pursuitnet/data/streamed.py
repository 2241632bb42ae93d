"""Images that are read on demand, in separate processes, for data sets larger than the memory."""

import hashlib
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pursuitnet.data import cache

T = TypeVar("T")

BATCH = 256
"""Default number of images that are read at a time."""


@dataclass(frozen=True)
class Streamed:
    """Images (N, C, H, W) that are read on demand; indexing works as for a tensor, and reads nothing.

    Attributes:
        load: returns item i as a tensor (C, H, W), or the error if it cannot be used.
        size: channels, height and width of each image.
        dtype: uint8, or float32 for images in [0, 1].
        at: indices of the items, in order, (N,).
        workers: number of processes that read; 0 reads in this one.
        device: device of the images.
        seed: seed of random transforms in ``load``; None if there are none.
        advance: called with the number of images read since the last call.
        source: name of these images in the cache, and the files they are read from; None if they are not from files.
    """

    load: Callable[[int], "Tensor | ValueError"]
    size: tuple[int, int, int]
    dtype: torch.dtype
    at: Tensor
    workers: int = 0
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    seed: int | None = None
    advance: Callable[[int], object] | None = None
    source: tuple[str, tuple[Path, ...]] | None = None

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self.at), *self.size))

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, chosen: "slice | Tensor") -> "Streamed":
        return replace(self, at=self.at[chosen if isinstance(chosen, slice) else chosen.to(self.at.device)])

    def to(self, device: torch.device, memory_format: torch.memory_format | None = None) -> "Streamed":
        """Return the same images for another device; images are always read as channels_last."""
        return replace(self, device=device)

    def expand(self, count: int, channels: int, height: int, width: int) -> "Streamed":
        """Return gray images expanded to a number of channels."""
        return replace(self, size=(channels, *self.size[1:]))

    def remembered(self, what: str, more: Tensor, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a result computed from these images, from the user's cache if the files have not changed.

        Args:
            what: name of the result.
            more: what it depends on besides the images.
            compute: computes it; the result must be serializable as JSON.
        """
        if self.source is None:
            return compute()
        name, files = self.source
        which = hashlib.sha256(self.at.numpy().tobytes() + more.cpu().numpy().tobytes()).hexdigest()[:16]
        return cache.cached_value(f"{what}-{name}-{self.size[0]}-{which}", files, compute)

    def drawn(self, seed: int) -> "Streamed":
        """Return the same images with another seed of the random transforms, if there are any."""
        return self if self.seed is None else replace(self, seed=seed)

    def read(self) -> Tensor:
        """Return all of them as a tensor."""
        parts = list(self.split(BATCH))
        return torch.cat(parts) if parts else torch.empty(self.shape, dtype=self.dtype, device=self.device)

    def split(self, count: int) -> Iterator[Tensor]:
        """Yield them in order, in batches of ``count``."""
        return self.batches(torch.arange(len(self)).split(count))

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield batches of given indices in their order, for any number of processes.

        Raises:
            ValueError: if an image cannot be used.
        """
        for images in self._loader(parts):
            batch = torch.stack([_usable(image) for image in images]).to(self.device, memory_format=torch.channels_last)
            yield batch.expand(-1, self.size[0], -1, -1)
            if self.advance is not None:
                self.advance(len(batch))

    def unusable(self) -> Iterator[tuple[int, ValueError]]:
        """Yield index and error of each image that cannot be used; reads all images."""
        numbers = iter(range(len(self)))
        for images in self._loader(torch.arange(len(self)).split(BATCH)):
            for number, image in zip(numbers, images):  # noqa: B905 (the numbers continue)
                if isinstance(image, ValueError):
                    yield number, image

    def _loader(self, parts: Sequence[Tensor]) -> "Iterable[list[Tensor | ValueError]]":
        """Return a loader of the images, or errors, at given indices, batch by batch."""
        items = [[(i, self.seed) for i in self.at[part.to(self.at.device)].tolist()] for part in parts if len(part)]
        return DataLoader(
            _Items(self.load),
            batch_sampler=items,
            num_workers=min(self.workers, len(items)) if len(items) > 1 else 0,  # one batch is read no sooner elsewhere
            collate_fn=list,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator().manual_seed(0),  # so that the global generator is not used
        )


class _Items(Dataset["Tensor | ValueError"]):
    """Items by (index, seed), read with every generator that a transform may use set to the seed."""

    def __init__(self, load: Callable[[int], "Tensor | ValueError"]) -> None:
        self.load = load

    def __getitem__(self, item: tuple[int, int | None]) -> "Tensor | ValueError":
        index, seed = item
        return self.load(index) if seed is None else seeded(seed * 1_000_003 + index, lambda: self.load(index))


def seeded(seed: int, function: Callable[[], T], device: torch.device | None = None) -> T:
    """Return ``function()`` with every global generator set to a seed, and restored afterwards."""
    devices = [device] if device is not None and device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (transforms draw from it)
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed % 2**63)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            return function()
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _usable(image: Tensor | ValueError) -> Tensor:
    if isinstance(image, ValueError):
        raise ValueError(f"{image}, or pass skip_broken (--skip-broken) to leave it out")
    return image


def _ignore_interrupts(worker: Any) -> None:
    """Make a worker process ignore Ctrl-C, which only the main process handles, and end when it is terminated."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
