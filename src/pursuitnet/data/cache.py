"""Decoded data sets in the user's cache: memory-mapped, checked on every load, rebuilt when stale or damaged."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pursuitnet.utils.paths import expanded
from pursuitnet.utils.records import record_of

READER = 2  # raise it when a decoder returns something else than before
_PARTS = ("images", "labels")


def folder() -> Path:
    """The user's cache: $PURSUITNET_CACHE, or where the system keeps caches; raises ValueError if that is not known."""
    import platformdirs

    if chosen := os.environ.get("PURSUITNET_CACHE"):
        return expanded(chosen)
    try:
        return Path(platformdirs.user_cache_dir("pursuitnet"))
    except RuntimeError as error:
        raise ValueError(f"no place for the cache is known ({error}); set PURSUITNET_CACHE to a folder") from error


def cached(name: str, sources: Sequence[Path], decode: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return images and labels from the cache if they are there and sound, else from `decode`, and keep them.

    The tensors from the cache are memory-mapped; writing to them stays private to the process. An entry whose sources
    have changed is rebuilt silently, a damaged one with a warning; a cache that cannot be written only warns.
    """
    entry, prints = _entry(name, sources), fingerprint(sources)
    try:
        cached_value = _note(entry, prints)
        if cached_value is not None:
            return _loaded(entry, cached_value)
    except (OSError, ValueError, KeyError, EOFError) as error:
        warnings.warn(f"the cached {entry} is damaged and made anew ({error})", stacklevel=2)
    images, labels = decode()
    try:
        _keep(entry, prints, {"images": images.numpy(), "labels": labels.numpy()})
    except OSError as error:
        warnings.warn(
            f"{name} could not be kept in {entry.parent} ({error}); it is decoded anew each time", stacklevel=2
        )
    return images, labels


def cached_value(name: str, sources: Sequence[Path], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was computed of these very sources before, else what is computed now, and note it.

    What is computed has to fit JSON. A note that is damaged or cannot be written only costs the time of computing.
    """
    entry, prints = _entry(name, sources), fingerprint(sources)
    path = entry.with_name(f"{entry.name}.json")
    with contextlib.suppress(OSError, ValueError, KeyError):
        said = record_of(path, {"sources": str, "value": dict})
        if said["sources"] == prints:
            return said["value"]
    value = compute()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}-{os.getpid()}")
        beside.write_text(json.dumps({"sources": prints, "value": value}), encoding="utf-8")
        os.replace(beside, path)
    return value


def about(name: str, sources: Sequence[Path]) -> dict[str, Any] | None:
    """What is noted of a cached set (its shape, its checksums), or None if there is none of these very sources.

    Raises ValueError if the note is damaged.
    """
    return _note(_entry(name, sources), fingerprint(sources))


def _note(entry: Path, prints: str) -> dict[str, Any] | None:
    try:
        cached_value = record_of(entry / "about.json", {}, {"shape": [int, int, int, int]})
    except (FileNotFoundError, NotADirectoryError):
        return None
    return cached_value if cached_value.get("sources") == prints else None


def fingerprint(sources: Sequence[Path]) -> str:
    """A digest of the sources' names, sizes and times of change, and of the reader's version."""
    facts: list[object] = [READER]
    for name in map(str, sources):
        stat = os.stat(name, follow_symlinks=os.path.exists(name))  # a link to nothing is for the decoder to refuse
        facts.append((name, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _entry(name: str, sources: Sequence[Path]) -> Path:
    """The folder of a decoded set: one for each place it is read from."""
    place = os.path.realpath(os.path.commonpath([path.absolute() for path in sources]))
    return folder() / "decoded" / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def _loaded(entry: Path, cached_value: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The cached tensors; raises an error of some kind if anything about them is not as it was written."""
    for part in _PARTS:
        if _checksum(entry / f"{part}.npy") != cached_value[part]:
            raise ValueError(f"{part}.npy has another checksum")
    images, labels = (np.load(entry / f"{part}.npy", mmap_mode="c", allow_pickle=False) for part in _PARTS)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _checksum(path: Path) -> int:
    """CRC-32: damage is to be found here, not malice, and the originals have checksums of their own."""
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total = zlib.crc32(chunk, total)
    return total


def _keep(entry: Path, prints: str, arrays: dict[str, Any]) -> None:
    """Write an entry beside its place, then move it there, so that no reader ever sees a half."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    try:
        for part, array in arrays.items():
            np.save(fresh / f"{part}.npy", array)
        checksums = {part: _checksum(fresh / f"{part}.npy") for part in _PARTS}
        cached_value = {"sources": prints, "shape": arrays["images"].shape, **checksums}
        (fresh / "about.json").write_text(json.dumps(cached_value), encoding="utf-8")
        _exchange(fresh, entry)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _exchange(fresh: Path, entry: Path) -> None:
    """Move a folder to its place, instead of the one there; whoever else does so first is as right as we are."""
    old = fresh.with_name(f"{fresh.name}-old")
    with contextlib.suppress(FileNotFoundError):
        entry.rename(old)
    try:
        fresh.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
