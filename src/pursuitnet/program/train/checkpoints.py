"""Checkpoints that survive: written whole or not at all, checked on reading, the one before kept."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.writable import beside

_HEAD = b"pursuitnet checkpoint, sha256 "
State = dict[str, Any]
KINDS: dict[str, type] = {
    **dict.fromkeys(("epoch", "step", "count"), int),
    **dict.fromkeys(("recipe", "model", "optimizer", "scaler"), dict),
    "metrics": str,
    "total": torch.Tensor,
}
"""What a state holds at least; a file that does not is none of ours, whatever its checksum says."""


def save(folder: Path, state: State) -> None:
    """Write a state, and keep the one before.

    Killed at any instant, this leaves at least one whole checkpoint if there was one.

    Raises:
        OSError: if it cannot be written; the checkpoints before are as they were.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    run = RunFolder(folder)
    content = _HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    run.write(run.checkpoint, content, previous=run.previous_checkpoint)


def load(folder: Path, device: torch.device) -> tuple[State, list[str]]:
    """Return the state that went furthest, and the names of the files that are damaged.

    Nothing in a file is executed. A file that a killed process has written whole but not yet moved counts too.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if none of them is whole.
    """
    run, found, damaged = RunFolder(folder), [], []
    unmoved = beside(run.checkpoint)
    for path in (unmoved, run.checkpoint, run.previous_checkpoint):
        if path.is_file():
            state = _read(path, device)
            if state is not None:
                found.append(state)
            elif path != unmoved:  # a half-written file is what a kill leaves, not damage
                damaged.append(path.name)
    if not found and damaged:
        raise ValueError(f"{folder}: {' and '.join(damaged)} {'are' if len(damaged) > 1 else 'is'} damaged; start anew")
    if not found:
        raise FileNotFoundError(f"{folder} has no {run.checkpoint.name} to resume from; start anew in another --out")
    return max(found, key=lambda state: (state["epoch"], state["step"])), damaged


def has_no_checkpoint_yet(folder: Path) -> bool:
    """Return whether a folder holds no more than a run leaves that was cut off before its first checkpoint stood."""
    run = RunFolder(folder)
    said = (run.recipe, run.running, run.failed)
    left = {run.lock, beside(run.checkpoint), *said, *map(beside, said)}
    return not folder.exists() or (folder.is_dir() and set(folder.iterdir()) <= left)


def _read(path: Path, device: torch.device) -> State | None:
    """Return the state in a file, or None if a byte of it is not as it was written."""
    head, _, content = path.read_bytes().partition(b"\n")
    if head != _HEAD + hashlib.sha256(content).hexdigest().encode():
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception:  # whole, but not ours: anything may be in it
        return None
    if isinstance(state, dict) and "optimiser" in state:  # as it was called once
        state["optimizer"] = state.pop("optimiser")
    whole = isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in KINDS.items())
    return state if whole else None
