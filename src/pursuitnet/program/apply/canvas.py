"""Where results grow: in memory, or in a file that a killed process leaves and the next one takes up."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from pursuitnet.program.imaging.files import Array
from pursuitnet.program.writable import write_whole

LARGE = 2**26
"""Bytes from which on a result grows in a file."""
EVERY = 5.0
"""Seconds between two notes of how far it has come."""


class Canvas:
    """An array that is filled tile by tile.

    Args:
        beside: name for its files, without ending; they are there only where the result is large.
        shape: of the array.
        dtype: of its numbers.
        key: says what is computed: a file of another key is begun anew.
    """

    def __init__(self, beside: Path, shape: tuple[int, ...], dtype: Any, key: str) -> None:
        self.file, self.note = _files(beside)
        self.key, self.done, self.told = key, 0, time.monotonic()
        self.kept = int(np.prod(shape)) * np.dtype(dtype).itemsize >= LARGE
        if self.kept and self.note.is_file() and self.file.is_file() and (done := self._noted()) is not None:
            self.done = done
            self.array: Array = np.lib.format.open_memmap(self.file, mode="r+")
        elif self.kept:
            self.array = np.lib.format.open_memmap(self.file, mode="w+", dtype=dtype, shape=shape)
        else:
            self.array = np.empty(shape, dtype)

    def filled(self) -> None:
        """Take note that one tile more is done."""
        self.done += 1
        if self.kept and time.monotonic() - self.told > EVERY:
            self.keep()

    def keep(self) -> None:
        """Write what is done to the disk, and then that it is."""
        if not isinstance(self.array, np.memmap):
            return
        self.array.flush()
        write_whole(self.note, json.dumps({"key": self.key, "done": self.done}))
        self.told = time.monotonic()

    def _noted(self) -> int | None:
        try:
            said = json.loads(self.note.read_text(encoding="utf-8"))
            return said["done"] if said["key"] == self.key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def clear(beside: Path) -> None:
    """Remove the files of a canvas: the result is in its place."""
    for path in reversed(_files(beside)):
        path.unlink(missing_ok=True)


def _files(beside: Path) -> tuple[Path, Path]:
    return beside.with_name(beside.name + ".npy"), beside.with_name(beside.name + ".json")
