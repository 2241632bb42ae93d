"""Callbacks that write files during a run: the page that reloads itself, and TensorBoard's events."""

import json
import time
from pathlib import Path
from textwrap import indent
from typing import Any

from pursuitnet.program.callbacks.base import SHARE, NoOpCallback
from pursuitnet.program.run_folder import SHARES, Record, RunFolder
from pursuitnet.program.runs import finished_epochs


class ReportPage(NoOpCallback):
    """``report.html`` during training: written at the start and after epochs, it reloads itself in a browser.

    At the end it shows how far the run has come; ``report.write`` then adds what needs the weights.

    Args:
        every: seconds between two pages, at least; more if a page takes long to write.
    """

    def __init__(self, every: float = 60.0) -> None:
        self.every = every
        self.about: dict[str, Any] = {}
        self.records: list[Record] = []
        self.written, self.cost = 0.0, 0.0

    def on_train_begin(self, about: dict[str, Any]) -> None:
        self.about, self.records = about, finished_epochs(Path(about["folder"]))
        self._write(training=True)

    def on_epoch_end(self, record: Record) -> None:
        self.records = [*(r for r in self.records if r["epoch"] < record["epoch"]), record]
        if time.monotonic() - self.written >= max(self.every, self.cost / SHARE):
            self._write(training=True)

    def close(self) -> None:
        """Write the final page, which no longer reloads itself."""
        if self.about:
            self._write(training=False)
            self.about = {}

    def _write(self, *, training: bool) -> None:
        from pursuitnet.program import report

        start = time.monotonic()
        report.write_progress(Path(self.about["folder"]), self.about, self.records, training=training)
        self.written = time.monotonic()
        self.cost = self.written - start


class TensorBoard(NoOpCallback):
    """Every number of an epoch as a TensorBoard scalar at that epoch, in the run folder's ``tensorboard/``.

    Raises:
        ImportError: if tensorboard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # imported here to fail before the training begins
        except ImportError as error:
            raise ImportError(
                f"--tensorboard needs tensorboard ({error}); install it with: pip install 'pursuitnet[tensorboard]'"
            ) from error
        self.open = SummaryWriter
        self.writer: SummaryWriter | None = None

    def on_train_begin(self, about: dict[str, Any]) -> None:
        run = RunFolder(about["folder"])
        self.writer = self.open(run.tensorboard, purge_step=len(finished_epochs(run.path)) + 1)
        self.writer.add_text(
            "recipe", indent(json.dumps(about["recipe"], indent=2), "    ")
        )  # indented: Markdown shows it as code
        self.writer.flush()

    def on_epoch_end(self, record: Record) -> None:
        if self.writer is None:
            return
        for name, value in record.items():
            if name != "epoch" and isinstance(value, int | float):
                self.writer.add_scalar(tag(name), value, record["epoch"])
        self.writer.flush()  # raises what has failed in its thread

    def close(self) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.close()


def tag(name: str) -> str:
    """Return the TensorBoard tag of a number of an epoch; TensorBoard groups tags by the part before the slash."""
    split, _, what = name.partition("_")
    if split in ("train", "val", "test"):
        return f"{what}/{split}"
    return f"time/{name}" if name in SHARES or name == "seconds" else f"run/{name}"
