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

READER = 2  # raise it when the result of a decoder changes
_PARTS = ("images", "labels")


def folder() -> Path:
    """The user's cache: $PURSUITNET_CACHE, or the system's cache folder; raises ValueError if that is not known."""
    import platformdirs

    if chosen := os.environ.get("PURSUITNET_CACHE"):
        return expanded(chosen)
    try:
        return expanded(platformdirs.user_cache_dir("pursuitnet"))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the folder of the cache is not known ({error}); set PURSUITNET_CACHE to a folder") from error


def cached(name: str, sources: Sequence[Path], decode: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return images and labels from the cache if they are there and intact, else from `decode`, and cache them.

    The tensors from the cache are memory-mapped copy-on-write. An entry whose sources have changed is rebuilt silently,
    a damaged one with a warning; a cache that cannot be written only warns.
    """
    entry, prints = _entry(name, sources), fingerprint(sources)
    try:
        cached_value = _metadata(entry, prints)
        if cached_value is not None:
            return _loaded(entry, cached_value)
    except (OSError, ValueError, KeyError, EOFError) as error:
        warnings.warn(f"the cached {entry} is damaged and is made again ({error})", stacklevel=2)
    images, labels = decode()
    try:
        _keep(entry, prints, {"images": images.numpy(), "labels": labels.numpy()})
    except OSError as error:
        warnings.warn(
            f"{name} could not be cached in {entry.parent} ({error}); it is decoded again each time", stacklevel=2
        )
    return images, labels


def cached_value(name: str, sources: Sequence[Path], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the cached result for these sources, or compute and cache it.

    The result must be serializable as JSON. If the cache is damaged or cannot be written, the result is computed.
    """
    entry, prints = _entry(name, sources), fingerprint(sources)
    path = entry.with_name(f"{entry.name}.json")
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = record_of(path, {"sources": str, "value": dict})
        if record["sources"] == prints:
            return record["value"]
    value = compute()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        temporary.write_text(json.dumps({"sources": prints, "value": value}), encoding="utf-8")
        os.replace(temporary, path)
    return value


def about(name: str, sources: Sequence[Path]) -> dict[str, Any] | None:
    """The metadata of a cached set (its shape, its checksums), or None if none is cached for these sources.

    Raises ValueError if the metadata are damaged.
    """
    return _metadata(_entry(name, sources), fingerprint(sources))


def _metadata(entry: Path, prints: str) -> dict[str, Any] | None:
    try:
        cached_value = record_of(entry / "about.json", {}, {"shape": [int, int, int, int]})
    except (FileNotFoundError, NotADirectoryError):
        return None
    return cached_value if cached_value.get("sources") == prints else None


def fingerprint(sources: Sequence[Path]) -> str:
    """A digest of the sources' names, sizes and modification times, and of the reader's version."""
    facts: list[object] = [READER]
    for name in map(str, sources):
        stat = os.stat(name, follow_symlinks=os.path.exists(name))  # the decoder raises for a broken link
        facts.append((name, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _entry(name: str, sources: Sequence[Path]) -> Path:
    """The folder of a decoded set: one for each folder it is read from."""
    place = os.path.realpath(os.path.commonpath([path.absolute() for path in sources]))
    return folder() / "decoded" / f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def _loaded(entry: Path, cached_value: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The cached tensors; raises an error if they are damaged."""
    for part in _PARTS:
        if _checksum(entry / f"{part}.npy") != cached_value[part]:
            raise ValueError(f"{part}.npy has another checksum")
    images, labels = (np.load(entry / f"{part}.npy", mmap_mode="c", allow_pickle=False) for part in _PARTS)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _checksum(path: Path) -> int:
    """CRC-32, which detects damage; it need not be secure, as the originals have their own checksums."""
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total = zlib.crc32(chunk, total)
    return total


def _keep(entry: Path, prints: str, arrays: dict[str, Any]) -> None:
    """Write an entry to a temporary folder, then rename it, so that no reader sees an incomplete entry."""
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
    """Replace an entry by a new one; if another process does so first, its entry is as good and is kept."""
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
