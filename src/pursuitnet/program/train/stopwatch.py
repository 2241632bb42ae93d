"""Where the time of a training step goes."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")

EVERY = 25
"""On a device that works while the program goes on, one step in so many is timed, since timing has to wait for it."""


class Stopwatch:
    """The time of an epoch by what it was spent on.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.waits = device.type != "cpu"
        self.device, self.images, self.step = device, 0, 0
        self.spent: dict[str, float] = defaultdict(float)
        self.began = self.last = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, counting the time that each takes to come; a step begins with each."""
        iterator = iter(items)
        while True:
            self._now()
            item = next(iterator, None)
            if item is None:
                return
            self.lap(name)
            yield item

    def lap(self, name: str, images: int = 0) -> None:
        """Count the time since the last lap to a name; ``images`` are done with it and end the step."""
        if self._sampled:
            self.spent[name] -= self.last
            self.spent[name] += self._now()
        self.images += images
        self.step += images > 0

    def report(self) -> dict[str, float]:
        """Return images a second, the shares of the time in what was timed, and the peak of the memory in MB."""
        if self.waits:
            torch.accelerator.synchronize(self.device)
        total = sum(self.spent.values()) or 1.0
        shares = {name: round(seconds / total, 4) for name, seconds in self.spent.items()}
        speed = self.images / (time.perf_counter() - self.began)
        return {"images_per_second": round(speed, 1), **shares, "peak_memory_mb": round(self._peak() / 1e6, 1)}

    @property
    def _sampled(self) -> bool:
        return not self.waits or self.step % EVERY == 0

    def _now(self) -> float:
        if self.waits and self._sampled:
            torch.accelerator.synchronize(self.device)
        self.last = time.perf_counter()
        return self.last

    def _peak(self) -> float:
        """Return bytes: of the device's memory, or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return 0.0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
