"""The file of a learned dictionary."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.paths import expanded

DICTIONARY = "dictionary.safetensors"


def write_dictionary(path: Path, weights: Sequence[Tensor], usage: Tensor, metadata: Mapping[str, Any]) -> None:
    """Write the filters of each layer, the usage of the atoms of the last, and how they were learned.

    The file holds the tensors "weight", (atoms, channels, *kernel), of several layers also "weight2", …, and "usage".
    """
    tensors = {_name(layer): weight.detach().cpu().contiguous() for layer, weight in enumerate(weights)}
    tensors["usage"] = usage.cpu().contiguous()
    write_whole(path, save(tensors, {"pursuitnet": json.dumps(metadata)}))


def read_dictionary(name: str | Path) -> list[ConvDictionary]:
    """Return the layers of a folder that ``pursuitnet learn`` has written, or of a safetensors file with a "weight".

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
            names = [_name(0), *itertools.takewhile(set(file.keys()).__contains__, map(_name, itertools.count(1)))]
            weights = [file.get_tensor(name) for name in names]
            padding = json.loads((file.metadata() or {}).get("pursuitnet", "{}")).get("padding", 0)
        return [ConvDictionary(weight, padding=0 if layer else padding) for layer, weight in enumerate(weights)]
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise ValueError(
            f"{path} holds no filters ({' '.join(str(error).split())}); expected a safetensors file with the tensor "
            "weight, (atoms, channels, *kernel), as pursuitnet learn writes it"
        ) from error


def _name(layer: int) -> str:
    return f"weight{layer + 1}" if layer else "weight"
