"""A checkpoint of learning in one safetensors file, which is replaced whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

_NEEDED = ("asked", "state", "sha256")


def write(path: Path, tensors: dict[str, Tensor], asked: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint beside its place and move it there.

    Args:
        path: the file.
        tensors: by name.
        asked: what was asked for, which must be the same when it goes on.
        state: how far it has come.

    Raises:
        OSError: if it cannot be written; what was there is as it was.
    """
    held = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    about = {"asked": json.dumps(asked), "state": json.dumps(state), "sha256": _digest(held)}
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as file:
            file.write(save(held, about))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error.strerror}); make room, or name another checkpoint") from error


def read(path: Path, asked: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and state of a checkpoint.

    Raises:
        ValueError: if it is damaged, or of another problem.
    """
    try:
        tensors = load(path.read_bytes())
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        if any(name not in about for name in _NEEDED) or about["sha256"] != _digest(tensors):
            raise ValueError("its checksum does not fit")
        state, before = json.loads(about["state"]), json.loads(about["asked"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of learning ({error}); remove it") from error
    for name, value in asked.items():
        if before.get(name) != value:
            raise ValueError(
                f"{path} was begun with {name} = {before.get(name)}, and {value} is asked for; expected the same, or "
                "another checkpoint"
            )
    return tensors, state


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)}".encode())
        found.update(tensors[name].cpu().numpy().tobytes())
    return found.hexdigest()
