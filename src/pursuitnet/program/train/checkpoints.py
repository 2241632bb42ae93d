"""Checkpoints that survive: written whole or not at all, checked on reading, the one before kept."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from pursuitnet.program.lock import LOCK

LAST, BEFORE = "checkpoint.pt", "checkpoint.previous.pt"
_HEAD = b"pursuitnet checkpoint, sha256 "
State = dict[str, Any]
KINDS: dict[str, type] = {
    **dict.fromkeys(("epoch", "step", "count"), int),
    **dict.fromkeys(("recipe", "model", "optimizer", "scaler"), dict),
    "metrics": str,
    "total": torch.Tensor,
}
"""What a state holds at least; a file that does not is none of ours, whatever its checksum says."""
_SAID = ("recipe.json", "running.json", "failed.json")
_BEFORE_FIRST_CHECKPOINT = {LOCK, LAST + ".new", *_SAID, *(name + ".new" for name in _SAID)}
"""What a folder may hold before the first checkpoint stands."""


def save(folder: Path, state: State) -> None:
    """Write a state, moving the last one to ``checkpoint.previous.pt``.

    Killed at any instant, this leaves at least one whole checkpoint if there was one.

    Raises:
        OSError: if it cannot be written; the checkpoints before are as they were.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    last = folder / LAST
    replace(last, _HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n" + content, before=folder / BEFORE)


def load(folder: Path, device: torch.device) -> tuple[State, list[str]]:
    """Return the state that went furthest, and the names of the files that are damaged.

    Nothing in a file is executed. A file that a killed process has written whole but not yet moved counts too.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if none of them is whole.
    """
    found, damaged = [], []
    for name in (LAST + ".new", LAST, BEFORE):
        path = folder / name
        if path.is_file():
            state = _read(path, device)
            if state is not None:
                found.append(state)
            elif not name.endswith(".new"):  # a half-written file is what a kill leaves, not damage
                damaged.append(name)
    if not found and damaged:
        raise ValueError(f"{folder}: {' and '.join(damaged)} {'are' if len(damaged) > 1 else 'is'} damaged; start anew")
    if not found:
        raise FileNotFoundError(f"{folder} has no {LAST} to resume from; start anew in another --out")
    return max(found, key=lambda state: (state["epoch"], state["step"])), damaged


def never_started(folder: Path) -> bool:
    """Return whether a folder holds no more than a run leaves that was cut off before its first checkpoint stood."""
    return not folder.exists() or (
        folder.is_dir() and {path.name for path in folder.iterdir()} <= _BEFORE_FIRST_CHECKPOINT
    )


def replace(path: Path, content: bytes, before: Path | None = None) -> None:
    """Write a file beside its place and move it there, so that it is whole or not there at all.

    Args:
        path: the file.
        content: what is to be in it.
        before: where to move the file that was there.

    Raises:
        OSError: if that cannot be done; what was there is as it was.
    """
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(
            f"{path} cannot be written ({error.strerror}); what the folder held is intact: make room, then --resume"
        ) from error


def _read(path: Path, device: torch.device) -> State | None:
    """Return the state in a file, or None if a byte of it is not as it was written."""
    head, _, content = path.read_bytes().partition(b"\n")
    if head != _HEAD + hashlib.sha256(content).hexdigest().encode():
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception:  # whole, but not ours: anything may be in it
        return None
    whole = isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in KINDS.items())
    return state if whole else None
