"""Tensors and JSON metadata in one safetensors file with a checksum; nothing in it is executed."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

SCALE = ":scale"
"""Suffix of the name of a scale, after the name of its weights."""


def pack(weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return a safetensors file; equal weights give equal bytes.

    Args:
        weights: by name.
        about: metadata, each stored as JSON.
    """
    content = save({name: value.contiguous() for name, value in weights.items()}, {"of": "pursuitnet"})
    header, data = split(content)
    header["__metadata__"] = {name: json.dumps(about[name]) for name in sorted(about)}
    header["__metadata__"]["sha256"] = digest(header, data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def unpack(
    path: Path, needed: Collection[str], optional: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and metadata of a file that ``pack`` made.

    Args:
        path: the file.
        needed: names of the metadata that it must have.
        optional: names of those that it may have.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or was not written by ``pack``.
    """
    content = path.read_bytes()
    header = _verified_header(path, content)
    try:
        metadata = header["__metadata__"]
        about = {name: json.loads(metadata[name]) for name in needed}
        about |= {name: json.loads(metadata[name]) for name in optional if name in metadata}
        return dequantized(load(content)), about
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} lacks what a network needs ({why}); get the file again") from error


def quantized(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with filters and matrices in 8 bits, with a scale for each row; ``unpack`` undoes it.

    w ≈ scale·q with whole q in −127..127 and scale = max|w|/127 over the row, so that no weight is off by more than
    scale/2.

    Args:
        weights: by name; those of fewer than two axes are not quantized.
    """
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.dim() < 2:
            result[name] = value
            continue
        scale = value.abs().amax(dim=tuple(range(1, value.dim())), keepdim=True).clamp(min=1e-12) / 127
        result[name], result[name + SCALE] = (value / scale).round().to(torch.int8), scale
    return result


def dequantized(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that ``quantized`` was given, up to rounding; those without a scale are not changed."""
    return {
        name: value * weights[name + SCALE] if name + SCALE in weights else value
        for name, value in weights.items()
        if not name.endswith(SCALE)
    }


def checksum(path: Path) -> str:
    """Return the verified SHA256 of a file of ``pack``; raises what ``unpack`` does."""
    content = path.read_bytes()
    return digest(_verified_header(path, content), split(content)[1])


def _verified_header(path: Path, content: bytes) -> dict[str, Any]:
    """Return the header of a file without its checksum, after comparing that with the content."""
    try:
        header, data = split(content)
        expected = header["__metadata__"].pop("sha256")
        actual = digest(header, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or not a file of weights that pursuitnet has written; get the file again"
        ) from error
    if expected != actual:
        raise ValueError(f"{path} is damaged: its checksum does not match; get the file again")
    return header


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def digest(header: Mapping[str, Any], data: bytes) -> str:
    """Return the SHA256 of everything but the checksum itself."""
    sha256 = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    sha256.update(data)
    return sha256.hexdigest()
