"""Images that are read when they are needed, in processes of their own: more of them than the memory holds."""

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
"""Images that are read together where nobody says how many."""


@dataclass(frozen=True)
class Streamed:
    """Images (N, C, H, W) that lie elsewhere; indexed as a tensor is, which reads nothing.

    Attributes:
        load: returns item i as a tensor (C, H, W), or why it cannot be used.
        size: channels, height and width of each image.
        dtype: uint8, or float32 for images in [0, 1].
        at: which items these are, in order, (N,).
        workers: processes that read; 0 reads in this one.
        device: where the images go.
        seed: of what is drawn while an item is read; None where nothing is.
        tell: is told how many more have been read.
        source: what these images are called among all that can be made of some files, and the files; None of items that
            are in no files.
    """

    load: Callable[[int], "Tensor | ValueError"]
    size: tuple[int, int, int]
    dtype: torch.dtype
    at: Tensor
    workers: int = 0
    device: torch.device = field(default_factory=partial(torch.device, "cpu"))
    seed: int | None = None
    tell: Callable[[int], object] | None = None
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
        """Return the same images for another device; they are channels_last when they are read."""
        return replace(self, device=device)

    def expand(self, count: int, channels: int, height: int, width: int) -> "Streamed":
        """Return gray images as ones of so many channels."""
        return replace(self, size=(channels, *self.size[1:]))

    def remembered(self, what: str, more: Tensor, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what is computed of these images, from the user's cache if the files are those of the last time.

        Args:
            what: is computed.
            more: what it depends on besides the images.
            compute: reads them; what it returns has to fit JSON.
        """
        if self.source is None:
            return compute()
        name, files = self.source
        which = hashlib.sha256(self.at.numpy().tobytes() + more.cpu().numpy().tobytes()).hexdigest()[:16]
        return cache.cached_value(f"{what}-{name}-{self.size[0]}-{which}", files, compute)

    def drawn(self, seed: int) -> "Streamed":
        """Return the same images with what is drawn while they are read, if anything is, drawn from another seed."""
        return self if self.seed is None else replace(self, seed=seed)

    def read(self) -> Tensor:
        """Return all of them as a tensor."""
        parts = list(self.split(BATCH))
        return torch.cat(parts) if parts else torch.empty(self.shape, dtype=self.dtype, device=self.device)

    def split(self, count: int) -> Iterator[Tensor]:
        """Yield them in order, so many at a time."""
        return self.batches(torch.arange(len(self)).split(count))

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield batches of given indices in their order, whatever the number of processes.

        Raises:
            ValueError: if an image cannot be used.
        """
        for found in self._found(parts):
            batch = torch.stack([_usable(image) for image in found]).to(self.device, memory_format=torch.channels_last)
            yield batch.expand(-1, self.size[0], -1, -1)
            if self.tell is not None:
                self.tell(len(batch))

    def unusable(self) -> Iterator[tuple[int, ValueError]]:
        """Yield what cannot be used, with its number and the reason; everything is read for that."""
        numbers = iter(range(len(self)))
        for found in self._found(torch.arange(len(self)).split(BATCH)):
            for number, image in zip(numbers, found):  # noqa: B905 (the numbers go on)
                if isinstance(image, ValueError):
                    yield number, image

    def _found(self, parts: Sequence[Tensor]) -> "Iterable[list[Tensor | ValueError]]":
        """Return what is found at given indices, batch by batch."""
        items = [[(i, self.seed) for i in self.at[part.to(self.at.device)].tolist()] for part in parts if len(part)]
        return DataLoader(
            _Items(self.load),
            batch_sampler=items,
            num_workers=min(self.workers, len(items)),
            collate_fn=list,
            worker_init_fn=_undisturbed,
            generator=torch.Generator().manual_seed(0),  # the global one stays as it is
        )


class _Items(Dataset["Tensor | ValueError"]):
    """Items of a number and a seed, read with the seed in every generator that a transform may draw from."""

    def __init__(self, load: Callable[[int], "Tensor | ValueError"]) -> None:
        self.load = load

    def __getitem__(self, item: tuple[int, int | None]) -> "Tensor | ValueError":
        index, seed = item
        return self.load(index) if seed is None else seeded(seed * 1_000_003 + index, lambda: self.load(index))


def seeded(seed: int, work: Callable[[], T], device: torch.device | None = None) -> T:
    """Return what a piece of work returns with every global generator set to a seed, and put back afterwards."""
    devices = [device] if device is not None and device.type == "cuda" else []
    ours, theirs = random.getstate(), np.random.get_state()  # noqa: NPY002 (others' transforms draw from it)
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed % 2**63)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            return work()
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)  # noqa: NPY002


def _usable(image: Tensor | ValueError) -> Tensor:
    if isinstance(image, ValueError):
        raise ValueError(f"{image}, or pass skip_broken (--skip-broken) to leave it out")
    return image


def _undisturbed(worker: Any) -> None:
    """Let the process that reads end with the one that it reads for, which alone minds Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
