"""Results under construction: in memory, or on the disk, where the next process continues after a kill."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from pursuitnet.program.imaging import files
from pursuitnet.program.imaging.axes import Array
from pursuitnet.program.imaging.files import Pages
from pursuitnet.program.imaging.zarr_images import ZarrPages, create_like, open_pages
from pursuitnet.program.writable import write_whole

LARGE = 2**26
"""Size in bytes from which a result is built in a file."""
EVERY = 5.0
"""Seconds between two saves of the progress."""


class Canvas:
    """The images of a result, (pages, H, W, C), filled tile by tile.

    A zarr array is built in place, under a temporary name; others in memory, or in an NPY file if they are large.

    Args:
        result: the file of the result.
        source: the images that it is computed from.
        channels: of the result.
        dtype: of its numbers.
        key: identifies the computation: a file with another key is started again.
    """

    def __init__(self, result: Path, source: Pages, channels: int, dtype: Any, key: str) -> None:
        self.result, self.key, self.done, self.saved_at = result, key, 0, time.monotonic()
        self.file, self.progress = _temporary_files(result)
        shape = (*source.shape[:3], channels)
        if isinstance(source, ZarrPages):
            self.on_disk = True
        else:
            self.on_disk = int(np.prod(shape)) * np.dtype(dtype).itemsize >= LARGE
        self.array: Array | ZarrPages
        if not self.on_disk:
            self.array = np.empty(shape, dtype)
        elif self.file.exists() and (done := self._saved_progress()) is not None:
            self.done, self.array = done, _reopened(self.file)
        else:
            clear(result)
            self.array = _created(self.file, source, shape, dtype)

    def add(self, page: int, place: tuple[Any, ...], pixels: Array) -> None:
        """Write the next tile, (h, w, C)."""
        self.array[(page, *place)] = pixels
        self.done += 1
        if time.monotonic() - self.saved_at > EVERY:
            self.save()

    def save(self) -> None:
        """Write the finished tiles of a result on the disk, and then their number."""
        if not self.on_disk:
            return
        if isinstance(self.array, np.memmap):
            self.array.flush()
        write_whole(self.progress, json.dumps({"key": self.key, "done": self.done}))
        self.saved_at = time.monotonic()

    def finish(self, like: tuple[int, ...]) -> None:
        """Give the result its name, with the axes of the array that was read; the temporary files are removed.

        Raises:
            FileExistsError: if the result exists.
        """
        if isinstance(self.array, ZarrPages):
            files.rename_new(self.file, self.result)
        else:
            files.write(self.result, self.array, like)
        clear(self.result)

    def _saved_progress(self) -> int | None:
        try:
            saved = json.loads(self.progress.read_text(encoding="utf-8"))
            return saved["done"] if saved["key"] == self.key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def clear(result: Path) -> None:
    """Remove the temporary files of a result."""
    for path in reversed(_temporary_files(result)):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _temporary_files(result: Path) -> tuple[Path, Path]:
    """Return where a large result is built, and the file of its progress."""
    base = f".{result.name}.part"
    kind = ".zarr" if result.suffix.lower() == ".zarr" else ".npy"
    return result.with_name(base + kind), result.with_name(base + ".json")


def _reopened(path: Path) -> Array | ZarrPages:
    if path.suffix == ".npy":
        return np.lib.format.open_memmap(path, mode="r+")
    for part in path.rglob("*.partial"):  # of a chunk, which zarr was writing when it was killed
        part.unlink()
    return open_pages(path, mode="r+")


def _created(path: Path, source: Pages, shape: tuple[int, ...], dtype: Any) -> Array | ZarrPages:
    if not isinstance(source, ZarrPages):
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    return create_like(path, source, shape[-1], dtype)
