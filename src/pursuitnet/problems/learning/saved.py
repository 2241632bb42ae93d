"""A checkpoint of learning in one safetensors file, which is replaced atomically."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_NEEDED = ("asked", "state", "sha256")
CHECKSUMS = {"images": "other images, or another mask", "filters": "another initial dictionary"}
"""What is compared by a checksum, with how to say that it differs."""


def write(path: Path, tensors: dict[str, Tensor], asked: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file next to ``path`` and rename it.

    Args:
        path: the file.
        tensors: by name.
        asked: the arguments of learning, which must be the same when it is resumed.
        state: the progress of learning.

    Raises:
        OSError: if it cannot be written; an earlier checkpoint is left unchanged.
    """
    detached = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    metadata = {"asked": json.dumps(asked), "state": json.dumps(state)}
    metadata["sha256"] = digest_of(detached, metadata)
    temporary = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(save(detached, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written ({error.strerror}); make room, or name another checkpoint") from error


def read(path: Path, asked: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and state of a checkpoint.

    Raises:
        ValueError: if it is damaged, or belongs to another problem.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            # not ``load``, which refuses empty tensors in PyTorch 2.6; a copy, since the file is replaced
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        told = {name: value for name, value in metadata.items() if name != "sha256"}
        if any(name not in metadata for name in _NEEDED) or metadata["sha256"] != digest_of(tensors, told):
            raise ValueError("its checksum does not match")
        state, before = json.loads(metadata["state"]), json.loads(metadata["asked"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or not a checkpoint of learning ({error}); remove it") from error
    for name, value in asked.items():
        if before.get(name) != value and name in CHECKSUMS:
            raise ValueError(f"{path} was started with {CHECKSUMS[name]}; expected the same, or another checkpoint")
        if before.get(name) != value:
            raise ValueError(
                f"{path} was started with {name} = {before.get(name)}, and now {name} is {value}; expected the same "
                "value, or another checkpoint"
            )
    return tensors, state


def check_path(path: Path) -> None:
    """Raise ValueError unless a checkpoint can be at a path."""
    if path.is_dir():
        raise ValueError(
            f"checkpoint is {path}, which is a folder; expected a file, such as {path / 'learn.checkpoint'}"
        )
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"checkpoint is {path}, and {above} is a file; expected a file in a folder")


def digest_of(tensors: dict[str, Tensor], words: dict[str, str] | None = None) -> str:
    """Return the SHA256 of tensors, with their names, shapes and types, and of words."""
    sha256 = hashlib.sha256(json.dumps(words or {}, sort_keys=True).encode())
    for name in sorted(tensors):
        sha256.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        sha256.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
