"""The folder of a run: the one place that names its files and reads them. Loads no PyTorch."""

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.records import Kinds, checked, record_of, text_of

Record = dict[str, Any]
"""The line of one epoch in metrics.jsonl, or the record of a whole run."""

SHARES = ("data", "forward", "backward", "optimizer")
"""The parts into which an epoch's line divides the time of the steps."""

NEEDED: Kinds = {"epoch": int, "train_loss": float, "test_accuracy": float, "seconds": float}
"""What an epoch's line must hold; floats are finite."""

NEEDED_OF_IMAGES: Kinds = {**{k: v for k, v in NEEDED.items() if k != "test_accuracy"}, "test_psnr": float}
"""What it must hold instead if the network returns pixel values; such a line has a PSNR."""

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
"""What the record of a whole run may hold besides versions."""


class RunFolder:
    """The folder of a run, and the path of each of its files, whether the file exists or not.

    Attributes:
        path: the folder.
        recipe: the recipe that was run.
        metrics: one JSON object a line, for every epoch that has ended.
        record: of the whole run, once it has finished: versions, commit, device, time.
        checkpoint: the last checkpoint.
        previous_checkpoint: the one before it.
        weights: the trained network with everything needed to use it.
        report: the report page of the run.
        running: the process that is running it; left behind if that process is killed.
        failed: why the run failed.
        lock: locked by the process that is running it; the file stays, only a lock on it has a meaning.
        evaluation: the results of ``pursuitnet evaluate``.
        evaluation_picture: the same as a figure.
        certification_picture: certified accuracy against the radius.
        inspection: the results of ``pursuitnet inspect``.
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
        """Return the path of the exported network in a format, onnx or pt2."""
        return self.path / f"model.{format}"

    def is_run(self, names: Iterable[str]) -> bool:
        """Return whether a folder with files of these names is a run folder."""
        typical = (self.recipe, self.metrics, self.checkpoint, self.running)
        return not {path.name for path in typical}.isdisjoint(names)

    def read_recipe(self) -> Recipe:
        """Return the recipe that the run was made from; raises as ``read_fields`` does."""
        return Recipe.from_json(self.read_fields(), str(self.recipe))

    def read_fields(self, needed: Kinds | None = None) -> Record:
        """Return the fields in the recipe file unchanged, also those of other versions.

        Args:
            needed: required fields and their kinds.

        Raises:
            FileNotFoundError: if there is no recipe.
            OSError: if it cannot be read.
            ValueError: if it is damaged.
        """
        if not self.recipe.is_file():
            raise FileNotFoundError(f"{self.path} holds no run: {self.recipe.name} is missing")
        return record_of(self.recipe, needed or {})

    def read_epochs(self, needed: Kinds = NEEDED) -> list[Record]:
        """Return the records of epochs 1, 2, …; an empty list before the first has ended.

        Args:
            needed: required fields of each line and their kinds.

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
            needed: required fields and their kinds.

        Raises:
            FileNotFoundError: if the run has not finished.
            OSError: if it cannot be read.
            ValueError: if it is damaged.
        """
        check_exists(self.record)
        return record_of(self.record, needed or {}, RECORD)

    def read_running(self) -> Record:
        """Return which process runs it, where, and on which device; FileNotFoundError if there is no such file."""
        return record_of(self.running, {"pid": int, "host": str}, {"device": str, "commit": str})

    def read_failed(self) -> Record:
        """Return why the run has failed; FileNotFoundError if it has not."""
        return record_of(self.failed, {"reason": str})

    def write(self, path: Path, content: str | bytes, previous: Path | None = None) -> None:
        """Write one of the files as ``write_whole`` does; the error says how to continue the run."""
        try:
            write_whole(path, content, previous)
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error.strerror}); the files in the folder are intact: free some space, "
                "then --resume"
            ) from error


def check_exists(path: Path) -> None:
    """Raise FileNotFoundError if a file of a finished run is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the run has not finished")


def numbered(epochs: list[Record], name: str) -> list[Record]:
    """Return the records of epochs if they are numbered 1, 2, …, else raise ValueError with the name of their file."""
    if (numbers := [entry["epoch"] for entry in epochs]) != list(range(1, len(epochs) + 1)):
        raise ValueError(f"{name} is damaged: its epochs are {reprlib.repr(numbers)[1:-1]}")
    return epochs
