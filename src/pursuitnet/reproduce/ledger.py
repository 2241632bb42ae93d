"""The ledger: one record for each cell and seed, found by its content, written once and whole."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pursuitnet import data
from pursuitnet.recipe import MACHINE, Recipe

Entry = dict[str, Any]


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that decide the result, where they differ from the default.

    So a field that is added later leaves the old records what they are.
    """
    plain = Recipe().to_json()
    return {n: value for n, value in recipe.to_json().items() if n not in MACHINE and value != plain[n]}


@cache
def checksum(name: str, data_dir: Path | None) -> str:
    """Return the SHA256 of a data set, as it is decoded: training images and labels, then those for testing."""
    found = hashlib.sha256()
    for split in ("train", "test"):
        for tensor in data.load(name, data_dir, split):
            found.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def key(recipe: Recipe, data_checksum: str) -> str:
    """Return the name of a record: the SHA256 of what decides the result."""
    content = json.dumps({"recipe": identity(recipe), "data": data_checksum}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


class Ledger:
    """A folder of records.

    Args:
        folder: where they are, one JSON file each, named by its key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the record of a key is, or would be."""
        return self.folder / f"{name}.json"

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def add(self, name: str, entry: Entry) -> bool:
        """Write a record, whole or not at all; return False, and leave what is there, if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"key": name, **entry}, indent=1) + "\n"
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".new", delete=False, encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(file.name, self.path(name))  # unlike a move, never replaces
            return True
        except FileExistsError:
            return False
        finally:
            os.unlink(file.name)

    def entries(self) -> Iterator[Entry]:
        """Yield every record.

        Raises:
            ValueError: if a record is damaged, or is not what its name says.
        """
        for path in sorted(self.folder.glob("*.json")):
            try:
                entry = json.loads(path.read_text(encoding="utf-8"))
                expected = key(Recipe.from_json(entry["recipe"]), entry["data"])
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete it, and the run is repeated") from error
            if expected != path.stem:
                raise ValueError(f"{path} holds another run than its name says; delete it, and the run is repeated")
            yield entry


def machine() -> str:
    """Return what this machine computes with."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
