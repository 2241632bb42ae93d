"""The folder of a run: the one place that names its files and says how they are read. Loads no PyTorch."""

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.records import Kinds, checked, record_of, text_of

Record = dict[str, Any]
"""What one epoch's line, or the record of a whole run, holds."""

SHARES = ("data", "forward", "backward", "optimizer")
"""What an epoch's line divides the time of the steps into."""

NEEDED: Kinds = {"epoch": int, "train_loss": float, "test_accuracy": float, "seconds": float}
"""What an epoch's line must hold; floats are finite."""

NEEDED_OF_IMAGES: Kinds = {**{k: v for k, v in NEEDED.items() if k != "test_accuracy"}, "test_psnr": float}
"""What it must hold instead if the network returns values of pixels; such a line has a PSNR."""

_MEASURED = (
    *("test_loss", "val_loss", "val_accuracy", "lr", "images_per_second", "peak_memory_mb"),
    *("test_ssim", "test_dice", "test_iou"),
)
EPOCH: Kinds = dict.fromkeys((*_MEASURED, *SHARES), float)
"""What it may hold."""

RECORD: Kinds = {
    "device": str,
    "commit": (str, None),
    "processes": int,
    "parameters": int,
    "images": [int, int],
    "seconds": float,
}
"""What the record of a whole run may hold, besides versions."""


class RunFolder:
    """The folder of a run, and where each of its files is, whether it is there yet or not.

    Attributes:
        path: the folder.
        recipe: the recipe as it was run.
        metrics: one JSON object a line, for every epoch that has ended.
        record: of the whole run, once it has finished: versions, commit, device, time.
        checkpoint: the last one.
        previous_checkpoint: the one before.
        weights: the trained network with all that is needed to use it.
        report: the page about the run.
        running: who is at it; left behind by a process that was killed.
        failed: why it broke off.
        lock: locked by the process that is at it; it stays, and only a lock on it means anything.
        evaluation: what ``pursuitnet evaluate`` has found.
        evaluation_picture: the same as a picture.
        certification_picture: certified accuracy against the radius.
        inspection: what ``pursuitnet inspect`` has found.
        inspection_page: the same as a page.
        tensorboard: the folder of TensorBoard's events.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.json"
        self.metrics = self.path / "metrics.jsonl"
        self.record = self.path / "record.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.previous_checkpoint = self.path / "checkpoint.previous.pt"
        self.weights = self.path / "model.safetensors"
        self.report = self.path / "report.html"
        self.running = self.path / "running.json"
        self.failed = self.path / "failed.json"
        self.lock = self.path / "run.lock"
        self.evaluation = self.path / "evaluation.json"
        self.evaluation_picture = self.path / "evaluation.png"
        self.certification_picture = self.path / "certification.png"
        self.inspection = self.path / "inspect.json"
        self.inspection_page = self.path / "inspect.html"
        self.tensorboard = self.path / "tensorboard"

    def exported(self, format: str) -> Path:
        """Return where the network goes when it is exported: in the format onnx or pt2."""
        return self.path / f"model.{format}"

    def marked(self, names: Iterable[str]) -> bool:
        """Return whether a folder with files of these names is that of a run."""
        marks = (self.recipe, self.metrics, self.checkpoint, self.running)
        return not {mark.name for mark in marks}.isdisjoint(names)

    def read_recipe(self) -> Recipe:
        """Return the recipe that the run was made from; raises as ``read_fields`` does."""
        return Recipe.from_json(self.read_fields(), str(self.recipe))

    def read_fields(self, needed: Kinds | None = None) -> Record:
        """Return the recipe's fields as they stand, also those of another version.

        Args:
            needed: what must be among them, and of which kind.

        Raises:
            FileNotFoundError: if there is no recipe.
            OSError: if it cannot be read.
            ValueError: if it is damaged.
        """
        if not self.recipe.is_file():
            raise FileNotFoundError(f"{self.path} holds no run: {self.recipe.name} is missing")
        return record_of(self.recipe, needed or {})

    def read_epochs(self, needed: Kinds = NEEDED) -> list[Record]:
        """Return the lines of epochs 1, 2, …; none before the first has ended.

        Args:
            needed: what each must hold, and of which kind.

        Raises:
            OSError: if they cannot be read.
            ValueError: if one of them is damaged.
        """
        try:
            lines = text_of(self.metrics).splitlines()
        except FileNotFoundError:
            return []
        kinds = [NEEDED_OF_IMAGES if needed is NEEDED and '"test_psnr"' in line else needed for line in lines]
        epochs = [
            checked(line, kind, EPOCH, f"{self.metrics}, line {i}")
            for i, (line, kind) in enumerate(zip(lines, kinds, strict=True), 1)
        ]
        return numbered(epochs, str(self.metrics))

    def read_record(self, needed: Kinds | None = None) -> Record:
        """Return the record of the whole run.

        Args:
            needed: what it must hold, and of which kind.

        Raises:
            FileNotFoundError: if the run has not finished.
            OSError: if it cannot be read.
            ValueError: if it is damaged.
        """
        check_there(self.record)
        return record_of(self.record, needed or {}, RECORD)

    def read_running(self) -> Record:
        """Return which process is at the run, where, and on which device; FileNotFoundError if none says so."""
        return record_of(self.running, {"pid": int, "host": str}, {"device": str, "commit": str})

    def read_failed(self) -> Record:
        """Return why the run has failed; FileNotFoundError if it has not."""
        return record_of(self.failed, {"reason": str})

    def write(self, path: Path, content: str | bytes, previous: Path | None = None) -> None:
        """Write one of the files as ``write_whole`` does; the error says how the run goes on."""
        try:
            write_whole(path, content, previous)
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error.strerror}); what the folder held is intact: make room, then --resume"
            ) from error


def check_there(path: Path) -> None:
    """Raise FileNotFoundError if a file of a finished run is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the run has not finished")


def numbered(epochs: list[Record], name: str) -> list[Record]:
    """Return the lines of epochs, if they are those of epochs 1, 2, …; an error calls them by this name."""
    if (numbers := [entry["epoch"] for entry in epochs]) != list(range(1, len(epochs) + 1)):
        raise ValueError(f"{name} is damaged: its epochs are {reprlib.repr(numbers)[1:-1]}")
    return epochs
