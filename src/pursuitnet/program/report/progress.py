"""The page of a run in progress, from its recipe and the records of its epochs alone."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pursuitnet.program.report import pictures
from pursuitnet.program.report.template import render, speed
from pursuitnet.program.report.text import written
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.writable import write_whole

RELOADS = 30
"""Seconds after which the page of a run in progress reloads itself."""

ROWS = 20
"""Epochs in the table."""

COLUMNS = {
    "train_loss": ("training loss", "{:.4f}"),
    "test_loss": ("test loss", "{:.4f}"),
    "val_accuracy": ("validation accuracy", "{:.2%}"),
    "test_accuracy": ("test accuracy", "{:.2%}"),
    "test_psnr": ("test PSNR, dB", "{:.2f}"),
    "test_ssim": ("test SSIM", "{:.4f}"),
    "test_dice": ("test Dice", "{:.4f}"),
    "test_iou": ("test IoU", "{:.4f}"),
    "lr": ("learning rate", "{:.3g}"),
    "images_per_second": ("images per second", "{:,.0f}"),
    "seconds": ("seconds", "{:,.1f}"),
}


def write_progress(
    folder: Path, about: dict[str, Any], records: Sequence[dict[str, Any]], *, training: bool = True
) -> Path:
    """Write ``report.html`` of a run that is in progress or has stopped, and return its path.

    Args:
        folder: the run folder.
        about: the run's recipe, parameters, device and images (training, test).
        records: of the finished epochs; numbers that they do not have are not shown.
        training: whether the run is in progress; then the page reloads itself.

    Raises:
        OSError: if it cannot be written; the old page is unchanged.
    """
    content = content_of(about, records, training=training)
    return write_whole(RunFolder(folder).report, render("progress.html.j2", content))


def content_of(about: dict[str, Any], records: Sequence[dict[str, Any]], *, training: bool) -> dict[str, Any]:
    """Return everything that the template shows; see ``write_progress``."""
    recipe, last = about["recipe"], records[-1] if records else {}
    return {
        "recipe": recipe,
        "set": {key: value for key, value in recipe.items() if value is not None},
        "about": about,
        "last": last,
        "done": last.get("epoch", 0),
        "training": training,
        "reloads": RELOADS,
        "now": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        "seconds": sum(record["seconds"] for record in records),
        "speed": speed(last),
        "curves": pictures.curves(records) if records else "",
        "rows": _table(records[-ROWS:]),
    }


def _table(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the title row and one row per epoch, the last first, with a column for each number that any has."""
    keys = [key for key in COLUMNS if any(key in record for record in records)]
    rows = [["epoch", *(COLUMNS[key][0] for key in keys)]]
    for record in reversed(records):
        values = (written(COLUMNS[key][1], record[key]) if key in record else "" for key in keys)
        rows.append([str(record["epoch"]), *values])
    return rows
