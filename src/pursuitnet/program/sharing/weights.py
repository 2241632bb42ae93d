"""Weights and what is needed to use them, in one safetensors file with a checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pursuitnet.utils.records import fits

NEEDED = ("recipe", "classes", "mean", "std")
"""What the metadata hold, each as JSON, besides the checksum."""
OPTIONAL = ("data", "targets")
"""What they may hold: which images the network was trained on, which weights of older versions do not say; and the
number type and range of the images that it returns."""


def pack(weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return a safetensors file; equal weights give equal bytes.

    Args:
        weights: by name.
        about: metadata, each kept as JSON.
    """
    content = save({name: value.contiguous() for name, value in weights.items()}, {"of": "pursuitnet"})
    header, data = _split(content)
    header["__metadata__"] = {name: json.dumps(about[name]) for name in sorted(about)}
    header["__metadata__"]["sha256"] = _digest(header, data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and metadata of a file that ``pack`` made; nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a byte is not as it was written, or the file is not ours.
    """
    content = path.read_bytes()
    try:
        header, data = _split(content)
        said = header["__metadata__"].pop("sha256")
        found = _digest(header, data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or no weights that pursuitnet has written; get it anew") from error
    if said != found:
        raise ValueError(f"{path} is damaged: its checksum does not fit; get it anew")
    try:
        said = header["__metadata__"]
        weights, about = load(content), {name: json.loads(said[name]) for name in NEEDED}
        more = {name: json.loads(said[name]) for name in OPTIONAL if name in said}
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        why = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path} lacks what a network needs ({why}); get it anew") from error
    if not _fits(**about):
        raise ValueError(
            f"{path} has classes, mean or std that no network has; expected names of classes, and for every channel "
            "a mean and an std > 0"
        )
    return weights, about | more


def _fits(recipe: object, classes: object, mean: object, std: object) -> bool:
    """Return whether metadata are of the kinds that ``pack`` was given; the recipe checks itself."""
    if not (isinstance(classes, list) and isinstance(mean, list) and isinstance(std, list)):
        return False
    numbers = all(fits(value, float) for value in mean + std)
    named = bool(classes) and all(isinstance(name, str) for name in classes)
    return named and numbers and 0 < len(mean) == len(std) and min(std) > 0


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _digest(header: Mapping[str, Any], data: bytes) -> str:
    """Return the SHA256 of everything but the checksum itself."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    found.update(data)
    return found.hexdigest()
