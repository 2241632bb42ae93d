"""Results under construction: in memory, or in a file with which the next process continues after a kill."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from pursuitnet.program.imaging.files import Array
from pursuitnet.program.writable import write_whole

LARGE = 2**26
"""Size in bytes from which a result is built in a file."""
EVERY = 5.0
"""Seconds between two saves of the progress."""


class Canvas:
    """An array that is filled tile by tile.

    Args:
        base: path of its files, without suffix; they exist only if the result is large.
        shape: of the array.
        dtype: of its numbers.
        key: identifies the computation: a file with another key is started again.
    """

    def __init__(self, base: Path, shape: tuple[int, ...], dtype: Any, key: str) -> None:
        self.file, self.progress = _files(base)
        self.key, self.done, self.saved_at = key, 0, time.monotonic()
        self.on_disk = int(np.prod(shape)) * np.dtype(dtype).itemsize >= LARGE
        if (
            self.on_disk
            and self.progress.is_file()
            and self.file.is_file()
            and (done := self._saved_progress()) is not None
        ):
            self.done = done
            self.array: Array = np.lib.format.open_memmap(self.file, mode="r+")
        elif self.on_disk:
            self.array = np.lib.format.open_memmap(self.file, mode="w+", dtype=dtype, shape=shape)
        else:
            self.array = np.empty(shape, dtype)

    def tile_done(self) -> None:
        """Count one more tile as done."""
        self.done += 1
        if self.on_disk and time.monotonic() - self.saved_at > EVERY:
            self.save()

    def save(self) -> None:
        """Write the finished tiles to the disk, and then their number."""
        if not isinstance(self.array, np.memmap):
            return
        self.array.flush()
        write_whole(self.progress, json.dumps({"key": self.key, "done": self.done}))
        self.saved_at = time.monotonic()

    def _saved_progress(self) -> int | None:
        try:
            saved = json.loads(self.progress.read_text(encoding="utf-8"))
            return saved["done"] if saved["key"] == self.key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def clear(base: Path) -> None:
    """Remove the files of a canvas, once the result is written."""
    for path in reversed(_files(base)):
        path.unlink(missing_ok=True)


def _files(base: Path) -> tuple[Path, Path]:
    return base.with_name(base.name + ".npy"), base.with_name(base.name + ".json")
