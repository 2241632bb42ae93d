"""The file of a learned dictionary."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.paths import expanded

DICTIONARY = "dictionary.safetensors"


def write_dictionary(path: Path, weight: Tensor, usage: Tensor, metadata: Mapping[str, Any]) -> None:
    """Write filters (atoms, channels, *kernel), the usage of each atom, and how they were learned."""
    tensors = {"weight": weight.detach().cpu().contiguous(), "usage": usage.cpu().contiguous()}
    write_whole(path, save(tensors, {"pursuitnet": json.dumps(metadata)}))


def read_dictionary(name: str | Path) -> ConvDictionary:
    """Return the filters of a folder that ``pursuitnet learn`` has written, or of a safetensors file with a "weight".

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no filters.
    """
    given = expanded(name)
    path = given / DICTIONARY if given.is_dir() else given
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; name a folder that pursuitnet learn has written, or a safetensors file"
        )
    try:
        with safe_open(path, "pt") as file:
            weight = file.get_tensor("weight")
            padding = json.loads((file.metadata() or {}).get("pursuitnet", "{}")).get("padding", 0)
        return ConvDictionary(weight, padding=padding)
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} holds no filters ({' '.join(str(error).split())}); expected a safetensors file with the tensor "
            "weight, (atoms, channels, *kernel), as pursuitnet learn writes it"
        ) from error
