"""Checkpoints that survive a kill: written whole or not at all, checked when read, the previous one kept."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.writable import temporary_path

_HEAD = b"pursuitnet checkpoint, sha256 "
State = dict[str, Any]
KINDS: dict[str, type] = {
    **dict.fromkeys(("epoch", "step", "count"), int),
    **dict.fromkeys(("recipe", "model", "optimizer", "scaler"), dict),
    "metrics": str,
    "total": torch.Tensor,
}
"""What a state must hold; a file without it is not a checkpoint of this library, whatever its checksum says."""


def save(folder: Path, state: State) -> None:
    """Write a state, and keep the previous one.

    If the process is killed at any time, at least one whole checkpoint remains if there was one.

    Raises:
        OSError: if it cannot be written; the existing checkpoints are unchanged.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    run = RunFolder(folder)
    content = _HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    run.write(run.checkpoint, content, previous=run.previous_checkpoint)


def load(folder: Path, device: torch.device) -> tuple[State, list[str]]:
    """Return the state that has advanced furthest, and the names of the files that are damaged.

    Nothing in a file is executed. A file that a killed process has written whole but not yet moved is read too.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if all of them are damaged.
    """
    run, states, damaged = RunFolder(folder), [], []
    unmoved = temporary_path(run.checkpoint)
    for path in (unmoved, run.checkpoint, run.previous_checkpoint):
        if path.is_file():
            state = _read(path, device)
            if state is not None:
                states.append(state)
            elif path != unmoved:  # a half-written file is what a kill leaves, not damage
                damaged.append(path.name)
    if not states and damaged:
        raise ValueError(
            f"{folder}: {' and '.join(damaged)} {'are' if len(damaged) > 1 else 'is'} damaged; start again"
        )
    if not states:
        raise FileNotFoundError(f"{folder} has no {run.checkpoint.name} to resume from; start again in another --out")
    return max(states, key=lambda state: (state["epoch"], state["step"])), damaged


def has_no_checkpoint_yet(folder: Path) -> bool:
    """Return whether a folder holds no more than what a run leaves that was killed before its first checkpoint."""
    run = RunFolder(folder)
    written = (run.recipe, run.running, run.failed)
    left = {run.lock, temporary_path(run.checkpoint), *written, *map(temporary_path, written)}
    return not folder.exists() or (folder.is_dir() and set(folder.iterdir()) <= left)


def _read(path: Path, device: torch.device) -> State | None:
    """Return the state in a file, or None if its checksum does not match."""
    head, _, content = path.read_bytes().partition(b"\n")
    if head != _HEAD + hashlib.sha256(content).hexdigest().encode():
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception:  # the checksum matches, but anything may be in the file
        return None
    if isinstance(state, dict) and "optimiser" in state:  # its name in older versions
        state["optimizer"] = state.pop("optimiser")
    whole = isinstance(state, dict) and all(isinstance(state.get(key), kind) for key, kind in KINDS.items())
    return state if whole else None
