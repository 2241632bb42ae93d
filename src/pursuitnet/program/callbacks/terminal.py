"""The progress of training: a live table on a terminal, plain lines in a log."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pursuitnet.program.callbacks.base import SHARE, NoOpCallback
from pursuitnet.program.report.text import duration, written
from pursuitnet.program.run_folder import Record
from pursuitnet.program.runs import finished_epochs

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Column(NamedTuple):
    """A number of an epoch: key, title and format; a narrow terminal drops the columns with the largest ``yields``."""

    key: str
    title: str
    form: str
    yields: int


COLUMNS = (
    Column("epoch", "epoch", "{:d}", 0),
    Column("train_loss", "train loss", "{:.4f}", 1),
    Column("test_loss", "test loss", "{:.4f}", 4),
    Column("val_accuracy", "val accuracy", "{:.2%}", 2),
    Column("test_accuracy", "test accuracy", "{:.2%}", 0),
    Column("test_psnr", "test PSNR", "{:.2f} dB", 0),
    Column("test_ssim", "test SSIM", "{:.4f}", 2),
    Column("test_dice", "test Dice", "{:.4f}", 0),
    Column("test_iou", "test IoU", "{:.4f}", 2),
    Column("lr", "lr", "{:.3g}", 5),
    Column("images_per_second", "images/s", "{:,.0f}", 3),
    Column("seconds", "seconds", "{:,.1f}", 6),
)


class ProgressLines(NoOpCallback):
    """One plain line per epoch, for logs and pipes."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_begin(self, about: dict[str, Any]) -> None:
        self.epochs = about["recipe"]["epochs"]
        print(headline(about), flush=True)  # noqa: T201 (this is what it is for)

    def on_epoch_end(self, record: Record) -> None:
        print(self.line(record), flush=True)  # noqa: T201

    def line(self, record: Record) -> str:
        """Return the epoch's numbers as a line, without those that were not measured."""
        count = f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
        parts = {"train_loss": "train loss {:.4f}", "test_loss": "test loss {:.4f}"}
        parts |= {"val_accuracy": "val accuracy {:.2%}", "test_accuracy": "test accuracy {:.2%}"}
        parts |= {"test_psnr": "test PSNR {:.2f} dB", "test_dice": "test Dice {:.4f}"}
        parts |= {"images_per_second": "{:.0f} images/s", "seconds": "{:.1f} s"}
        values = [written(form, record[key]) for key, form in parts.items() if key in record]
        return "  ".join([count, *values])


class LiveProgress(NoOpCallback):
    """A table of the last epochs above two progress bars, one of the epoch and one of the run, for a terminal.

    Drawn in the training's own thread, so that nothing runs in the background, and rarely enough to take no more than
    ``SHARE`` of its time; the cursor stays visible, so that the terminal is usable however the program ends.

    Args:
        console: where to draw; by default the terminal.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console() if console is None else console
        self.live = Live(console=self.console, auto_refresh=False)
        self.records: list[Record] = []
        self.about: dict[str, Any] = {}
        self.drawn = self.cost = 0.0

    def on_train_begin(self, about: dict[str, Any]) -> None:
        self.about, self.records = about, finished_epochs(Path(about["folder"]))
        self.place = (len(self.records) + 1, 0, about["steps"])
        self.clock = TimeEstimate(about["recipe"]["epochs"], about["images"][0])
        self.console.print(headline(about), highlight=False)
        self.live.start()
        self.console.show_cursor(True)
        self._draw()

    def on_step_end(self, epoch: int, step: int, steps: int) -> None:
        self.place = (epoch, step, steps)
        self.clock.update(*self.place)
        self._draw_if_due()

    def on_epoch_end(self, record: Record) -> None:
        self.records = [*(r for r in self.records if r["epoch"] < record["epoch"]), record]
        self._draw_if_due()

    def close(self) -> None:
        """Leave the table of the last epochs, without the progress bars."""
        if self.live.is_started:
            try:
                self.live.update(self.table() if self.records else "", refresh=True)
            finally:
                self.live.stop()

    def _draw_if_due(self) -> None:
        if time.monotonic() - self.drawn >= self.cost / SHARE:
            self._draw()

    def _draw(self) -> None:
        from rich.console import Group

        start = time.monotonic()
        self.live.update(Group(*([self.table(), ""] if self.records else []), self.bars()), refresh=True)
        self.drawn = time.monotonic()
        self.cost = self.drawn - start

    def table(self) -> "RenderableType":
        """Return the table of the last epochs, with as many rows and columns as there is room for."""
        from rich.table import Table

        last = self.records[-max(1, min(12, self.console.height - 8)) :]
        columns = self._columns(last)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column.title, justify="right", no_wrap=True)
        for record in last:
            table.add_row(*(written(c.form, record[c.key]) if c.key in record else "" for c in columns))
        return table

    def _columns(self, shown: list[Record]) -> list[Column]:
        columns = [column for column in COLUMNS if any(column.key in record for record in shown)]
        while sum(len(column.title) + 2 for column in columns) > self.console.width and len(columns) > 1:
            columns.remove(max(columns, key=lambda column: column.yields))
        return columns

    def bars(self) -> "RenderableType":
        """Return the progress bar of the epoch with its speed, and that of the run with the remaining time."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        epoch, step, steps = self.place
        epochs = self.about["recipe"]["epochs"]
        grid = Table.grid(padding=(0, 1))
        width = max(8, min(40, self.console.width - 48))
        rate = f"{self.clock.rate:,.0f} images/s" if self.clock.rate else ""
        grid.add_row(f"epoch {min(epoch, epochs)}/{epochs}", ProgressBar(steps, step, width), f"{step}/{steps}", rate)
        share, left = self.clock.share, self.clock.left
        rest = "" if left is None else f"{duration(left)} left"
        grid.add_row("run", ProgressBar(1.0, share, width), f"{share:.0%}", rest)
        return grid


class TimeEstimate:
    """Speed and remaining time of a run, estimated from the steps since it was started or resumed.

    Args:
        epochs: of the run.
        images: per epoch.
    """

    def __init__(self, epochs: int, images: int) -> None:
        self.epochs, self.images = epochs, images
        self.began = self.epoch_began = time.monotonic()
        self.first: float | None = None
        self.epoch_first = self.share = self.rate = 0.0
        self.epoch = 0

    def update(self, epoch: int, step: int, steps: int) -> None:
        """Record how far the run has come."""
        now, self.share = time.monotonic(), (epoch - 1 + step / steps) / self.epochs
        if epoch != self.epoch:  # the measurement starts after the first step of an epoch, which warms up
            self.epoch, self.epoch_began, self.epoch_first = epoch, now, step / steps
        if self.first is None:
            self.first = self.share
        elif now > self.epoch_began:
            self.rate = self.images * (step / steps - self.epoch_first) / (now - self.epoch_began)

    @property
    def left(self) -> float | None:
        """Remaining seconds, tests included; None while that cannot be estimated."""
        if self.first is None or self.share <= self.first:
            return None
        return (time.monotonic() - self.began) * (1 - self.share) / (self.share - self.first)


def headline(about: dict[str, Any]) -> str:
    """Return what is trained, as one line."""
    recipe = about["recipe"]
    return (
        f"{recipe['model']} on {recipe['data']}: {about['parameters']:,} parameters, {about['images'][0]:,} images, "
        f"{about['device']}, into {about['folder']}"
    )
