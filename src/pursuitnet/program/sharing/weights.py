"""Weights and what is needed to use them, in one safetensors file with a checksum."""

from pathlib import Path
from typing import Any

from torch import Tensor

from pursuitnet.utils import packed
from pursuitnet.utils.packed import pack
from pursuitnet.utils.records import fits

__all__ = ["NEEDED", "OPTIONAL", "pack", "unpack"]

NEEDED = ("recipe", "classes", "mean", "std")
"""What the metadata hold, each as JSON, besides the checksum."""
OPTIONAL = ("data", "image_size", "targets")
"""What they may hold: which images the network was trained on, and their height and width, which weights of older
versions do not say; and the number type and range of the images that it returns."""


def unpack(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and metadata of a trained network's file; nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a byte is not as it was written, or the file is not ours.
    """
    weights, about = packed.unpack(path, NEEDED, OPTIONAL)
    if not _fits(**{name: about[name] for name in NEEDED}):
        raise ValueError(
            f"{path} has classes, mean or std that no network has; expected names of classes, and for every channel "
            "a mean and an std > 0"
        )
    return weights, about


def _fits(recipe: object, classes: object, mean: object, std: object) -> bool:
    """Return whether metadata are of the kinds that ``pack`` was given; the recipe checks itself."""
    if not (isinstance(classes, list) and isinstance(mean, list) and isinstance(std, list)):
        return False
    numbers = all(fits(value, float) for value in mean + std)
    named = bool(classes) and all(isinstance(name, str) for name in classes)
    return named and numbers and 0 < len(mean) == len(std) and min(std) > 0
