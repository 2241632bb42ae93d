"""Where the time of a training step goes."""

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")

EVERY = 25
"""On an asynchronous device one step in this many is timed, since timing has to wait for the device."""


class Stopwatch:
    """Splits the time of an epoch into its parts.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.asynchronous = device.type != "cpu"
        self.device, self.images, self.step = device, 0, 0
        self.seconds: dict[str, float] = defaultdict(float)
        self.start = self.last = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield the items and count the time that each takes to arrive; a step begins with each."""
        iterator = iter(items)
        while True:
            self._now()
            item = next(iterator, None)
            if item is None:
                return
            self.lap(name)
            yield item

    def lap(self, name: str, images: int = 0) -> None:
        """Add the time since the last lap to a name; ``images`` above 0 end the step."""
        if self._sampled:
            self.seconds[name] -= self.last
            self.seconds[name] += self._now()
        self.images += images
        self.step += images > 0

    def report(self) -> dict[str, float]:
        """Return images per second, the fraction of the time in each part, and the peak memory in MB."""
        if self.asynchronous:
            torch.accelerator.synchronize(self.device)
        total = sum(self.seconds.values()) or 1.0
        shares = {name: round(seconds / total, 4) for name, seconds in self.seconds.items()}
        speed = self.images / (time.perf_counter() - self.start)
        return {"images_per_second": round(speed, 1), **shares, "peak_memory_mb": round(self._peak() / 1e6, 1)}

    @property
    def _sampled(self) -> bool:
        return not self.asynchronous or self.step % EVERY == 0

    def _now(self) -> float:
        if self.asynchronous and self._sampled:
            torch.accelerator.synchronize(self.device)
        self.last = time.perf_counter()
        return self.last

    def _peak(self) -> float:
        """Return the peak memory in bytes, of the device or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return 0.0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
