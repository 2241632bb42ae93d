"""Weights and everything needed to use them, in one safetensors file with a checksum."""

from pathlib import Path
from typing import Any

from torch import Tensor

from pursuitnet.utils import packed
from pursuitnet.utils.packed import pack
from pursuitnet.utils.records import fits

__all__ = ["NEEDED", "OPTIONAL", "pack", "unpack"]

NEEDED = ("recipe", "classes", "mean", "std")
"""Keys of the metadata, each as JSON, besides the checksum."""
OPTIONAL = ("data", "image_size", "targets")
"""Optional keys: identity and size of the images that the network was trained on, which weights of older versions do
not have; number type and range of the images that it returns."""


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and metadata of a trained network's file; nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the checksum does not match, or the file is not a trained network of this library.
    """
    weights, metadata = packed.unpack(path, NEEDED, OPTIONAL)
    if not _is_valid(**{name: metadata[name] for name in NEEDED}):
        raise ValueError(
            f"{path} has invalid classes, mean or std; expected names of classes, and for every channel "
            "a mean and an std > 0"
        )
    return weights, metadata


def _is_valid(recipe: object, classes: object, mean: object, std: object) -> bool:
    """Return whether metadata have the kinds that ``pack`` writes; the recipe is checked elsewhere."""
    if not (isinstance(classes, list) and isinstance(mean, list) and isinstance(std, list)):
        return False
    numbers = all(fits(value, float) for value in mean + std)
    named = bool(classes) and all(isinstance(name, str) for name in classes)
    return named and numbers and 0 < len(mean) == len(std) and min(std) > 0
