"""The ledger: one record for each cell and seed, addressed by its content, written once and whole."""

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
from pursuitnet.program.recipe import MACHINE_FIELDS, RENAMED, Recipe
from pursuitnet.program.run_folder import EPOCH, NEEDED, numbered
from pursuitnet.utils.records import Kinds, fitting, record_of

Entry = dict[str, Any]

ENTRY: Kinds = {"epochs": list, "machine": str, "parameters": int, "flops_per_image": int}
"""What a record holds besides its recipe and its data's checksum."""


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a recipe that determine the result and differ from their default.

    So fields that are added later do not change the keys of old records. Renamed fields keep the name that is in the
    keys of old records.
    """
    plain, first = Recipe().to_json(), {new: old for old, new in RENAMED.items()}
    decisive = {n: value for n, value in recipe.to_json().items() if n not in MACHINE_FIELDS and value != plain[n]}
    return {first.get(n, n): value for n, value in decisive.items()}


@cache
def checksum(name: str, data_dir: Path | None) -> str:
    """Return the SHA256 of a decoded data set: training images and labels, then test images and labels."""
    digest = hashlib.sha256()
    for split in ("train", "test"):
        for tensor in data.load(name, data_dir, split):
            digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def key(recipe: Recipe, data_checksum: str) -> str:
    """Return the name of a record: the SHA256 of everything that determines the result."""
    content = json.dumps({"recipe": identity(recipe), "data": data_checksum}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


class Ledger:
    """A folder of records.

    Args:
        folder: of the records, one JSON file each, named by its key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the path of the record of a key, whether it exists or not."""
        return self.folder / f"{name}.json"

    def __contains__(self, name: str) -> bool:
        return self.path(name).is_file()

    def add(self, name: str, entry: Entry) -> bool:
        """Write a record, whole or not at all; if there is one already, keep it and return False."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"key": name, **entry}, indent=1) + "\n"
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".new", delete=False, encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(file.name, self.path(name))  # unlike a move, never replaces a file
            return True
        except FileExistsError:
            return False
        finally:
            os.unlink(file.name)

    def entries(self) -> Iterator[Entry]:
        """Yield every record.

        Raises:
            ValueError: if a record is damaged, or does not fit its name.
        """
        for path in sorted(self.folder.glob("*.json")):
            try:
                entry = _checked(record_of(path, {"recipe": dict, "data": str}, ENTRY))
                recipe = Recipe.from_json(entry["recipe"])
            except ValueError as error:
                raise ValueError(f"{path} is damaged ({error}); delete it, and the run is repeated") from error
            if key(recipe, entry["data"]) != path.stem:
                raise ValueError(f"{path} holds another run than its name says; delete it, and the run is repeated")
            yield {**entry, "recipe": recipe.to_json()}


def _checked(entry: Entry) -> Entry:
    """Return a record after checking its epochs; one of a finished run must have everything that a table shows."""
    needed = {} if "diverged" in entry else ENTRY
    epochs = fitting(entry, needed, {}, "the record").get("epochs", [])
    for epoch in epochs:
        fitting(epoch, {**NEEDED, "images_per_second": float}, EPOCH, "an epoch")
    if needed and not epochs:
        raise ValueError("it holds no epoch")
    return {**entry, "epochs": numbered(epochs, "the record")}


def machine() -> str:
    """Return the name of this machine's GPU, or its architecture and number of threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
