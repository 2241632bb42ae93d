"""Comparison of several runs in one figure or page."""

import math
import shlex
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from pursuitnet.program.report.pictures import INK, SOFT, loss_axis, panels, plain
from pursuitnet.program.report.template import render
from pursuitnet.program.report.text import written
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.runs import TITLES, RunSummary, cells
from pursuitnet.program.writable import write_picture, write_whole
from pursuitnet.utils.paths import link

COLORS = ("#3d7fd0", "#d9731a", "#1f9e77", "#c2459a", "#8c7a1f", "#7a68c8")
"""Distinguishable with most kinds of color blindness, and visible on white and on black."""

SETTINGS = ("unfolding", "width", "seed", "rate")
"""Columns of the page in addition to those on the terminal."""

STYLES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
"""The next one is used each time that all colors have been used."""


def write_comparison(path: Path, runs: Sequence[RunSummary]) -> Path:
    """Write a figure or a page of the runs' test accuracy and training loss over the epochs; return its path.

    Args:
        path: a PNG or HTML file, by its suffix; the page has the table of the runs too.
        runs: to compare; those without a finished epoch are only in the table.

    Raises:
        OSError: if it cannot be written.
        ValueError: for another suffix, or if no run has a finished epoch.
    """
    if path.suffix.lower() not in (".png", ".html"):
        raise ValueError(f"{path} is neither .png nor .html; expected one of them")
    started = [run for run in runs if run.records]
    if not started:
        raise ValueError("none of the runs has an epoch to draw; wait until one has ended")
    started.sort(key=lambda run: run.records[-1].get("test_accuracy", -1.0), reverse=True)
    if path.suffix.lower() == ".png":
        return write_picture(path, _figure(started, "#22252a", "#d9d7d2"), dpi=160)
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    content = {
        "curves": _elements(started),
        "titles": (*TITLES[:3], *SETTINGS, *TITLES[3:], "ended"),
        "rows": [_row(path, run, row) for run, row in zip(runs, cells(runs)[1:], strict=True)],
        "now": now,
        "count": len(runs),
    }
    return write_whole(path, render("runs.html.j2", content))


def _row(page: Path, run: RunSummary, row: tuple[str, ...]) -> dict[str, Any]:
    """Return a run's row of the table, and links to its pages."""
    settings = [getattr(run, name if name != "rate" else "lr") for name in SETTINGS]
    values = ["-" if value is None else value if isinstance(value, str) else f"{value:g}" for value in settings]
    files = RunFolder(run.folder)
    pages = {"report": files.report, "inspect": files.inspection_page}
    links = {name: link(page, file) for name, file in pages.items() if file.is_file()}
    return {"cells": (*row[:3], *values, *row[3:], run.date or "-"), "links": links, "note": _next_command(run)}


def _next_command(run: RunSummary) -> str:
    """Return the command that is likely needed next."""
    if run.state == "finished":
        inspected = RunFolder(run.folder).inspection_page.is_file()
        return shlex.join(["pursuitnet", "evaluate" if inspected else "inspect", str(run.folder)])
    if run.state in ("stopped", "failed"):
        return shlex.join(["pursuitnet", "train", "--out", str(run.folder), "--resume"])
    return ""


def _figure(runs: Sequence[RunSummary], ink: str, soft: str) -> Figure:
    """Return a figure of both curves above one legend."""
    columns = 1 if len(runs) <= 3 else 2
    with matplotlib.rc_context({"font.size": 9.5}):
        figure = Figure(figsize=(9.5, 3.6 + 0.22 * -(-len(runs) // columns)), layout="constrained")
        left, right = figure.subplots(1, 2)
        _accuracy(runs, ink, soft, left)
        _loss(runs, ink, soft, right)
        handles, names = left.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside lower left", ncols=columns, frameon=False, labelcolor=ink, handlelength=3.2
        )
    return figure


def _elements(runs: Sequence[RunSummary]) -> str:
    """Return both curves and their legend as SVG elements."""
    curves = {
        "test accuracy of the runs after every epoch": partial(_accuracy, runs, INK, SOFT),
        "training loss of the runs after every epoch": partial(_loss, runs, INK, SOFT),
    }
    return panels(curves) + panels({"legend": partial(_legend, runs)}, (4.5, 0.2 + 0.22 * len(runs)))


def _accuracy(runs: Sequence[RunSummary], ink: str, soft: str, axes: Axes) -> None:
    _curves(axes, runs, "test_accuracy")
    plain(axes, ink, soft)
    axes.set_title("test accuracy", loc="left", color=ink, fontsize=10.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _loss(runs: Sequence[RunSummary], ink: str, soft: str, axes: Axes) -> None:
    _curves(axes, runs, "train_loss")
    plain(axes, ink, soft)
    loss_axis(axes, [record["train_loss"] for run in runs for record in run.records], "training loss", ink)


def _legend(runs: Sequence[RunSummary], axes: Axes) -> None:
    handles = _curves(axes, runs, "train_loss")
    axes.clear()
    axes.axis("off")
    axes.legend(handles=handles, loc="upper left", frameon=False, labelcolor=INK, handlelength=3.2, borderaxespad=0)


def _curves(axes: Axes, runs: Sequence[RunSummary], key: str) -> list[Line2D]:
    """Draw a number of every epoch for each run."""
    lines = []
    for index, run in enumerate(runs):
        epochs = [record["epoch"] for record in run.records]
        values = [record.get(key, math.nan) for record in run.records]
        lines += axes.plot(epochs, values, label=_label(run), **_style(index))
    return lines


def _style(index: int) -> dict[str, Any]:
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": STYLES[index // len(COLORS) % len(STYLES)],
        "linewidth": 1.6,
        "marker": "o",
        "markevery": [-1],  # the last epoch
        "markersize": 3.5,
    }


def _label(run: RunSummary) -> str:
    last = run.records[-1]
    result = written("{:.2%}", last["test_accuracy"]) if "test_accuracy" in last else f"{last['test_psnr']:.2f} dB"
    part = "" if run.done == run.epochs else f", {run.done} of {run.epochs} epochs"
    name = run.name if len(run.name) <= 44 else f"…{run.name[-43:]}"
    return f"{name}  {result}{part}".replace("$", r"\$")  # a dollar would begin a formula
