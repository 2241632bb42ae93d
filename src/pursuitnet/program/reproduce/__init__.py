"""The paper's Tables II and III and Figs. 7 and 8, each from a ledger of runs.

``cells`` defines the cells of the tables, ``plan`` finds the missing runs, ``jobs`` runs them, ``ledger`` keeps the
records, and ``tables`` and ``figures`` show them.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from pursuitnet.program.reproduce import plan
from pursuitnet.program.reproduce.cells import SCALES, TABLES, Cell, cells_of
from pursuitnet.program.reproduce.jobs import Job, local, run_all, run_in_subprocess, run_job
from pursuitnet.program.reproduce.ledger import Ledger, machine
from pursuitnet.program.reproduce.tables import CellResult, cell_results, markdown, numbers
from pursuitnet.program.writable import write_picture, write_whole

__all__ = [
    "SCALES",
    "TABLES",
    "Cell",
    "CellResult",
    "Ledger",
    "Options",
    "cells_of",
    "missing",
    "names",
    "run_missing",
    "write",
]


@dataclass(frozen=True)
class Options:
    """Which part of a table to run, and where.

    Attributes:
        table: table2, table3, tables (both), fig7, fig8, ablation or precision.
        filter: expressions that choose cells; a cell is chosen if any of them holds.
        seeds: number of seeds, from 0; None for the number of the scale.
        scale: "full", "fast", "medium" or "small".
        data_dir: folder of the data sets.
        device: of each run.
        ledger: folder of the records.
        runs: folder of the run folders.

    Raises:
        ValueError: for fewer than one seed.
    """

    table: str
    filter: Sequence[str] = ()
    seeds: int | None = None
    scale: str = "full"
    data_dir: Path | None = None
    device: str = "auto"
    ledger: Path = Path("experiments", "results", "ledger")
    runs: Path = Path("runs", "reproduce")

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; expected an integer ≥ 1, the number of runs of every cell")

    def cells(self) -> list[Cell]:
        """Return the chosen cells."""
        return plan.filter_cells(cells_of(self.table, self.scale), self.filter)


def missing(options: Options) -> list[plan.PlannedRun]:
    """Return the runs that are not in the ledger, the first seed of all cells first."""
    planned = plan.planned_runs(options.cells(), options.seeds, options.data_dir, options.device)
    return plan.missing(planned, Ledger(options.ledger))


def hours(options: Options, runs: Sequence[plan.PlannedRun]) -> float:
    """Return an estimate of the hours that runs take one after another on this machine."""
    return plan.hours(runs, Ledger(options.ledger).entries(), machine())


def run_missing(
    options: Options,
    runs: Sequence[plan.PlannedRun],
    ended: Callable[[plan.PlannedRun, str | BaseException], None],
    *,
    seconds: float | None = None,
    at_once: int = 1,
    cluster: AbstractContextManager[Executor] | None = None,
) -> int:
    """Run what is missing and return the number of runs that did not end in the ledger.

    Args:
        options: what to run, and where.
        runs: of ``missing``.
        ended: called with every run that has ended, and its key or its error.
        seconds: after which runs are stopped, to be continued another time.
        at_once: number of processes on this machine.
        cluster: provides an executor on other machines, which then run everything.
    """
    deadline = None if seconds is None else time.time() + seconds
    folders = (str(options.ledger.resolve()), str(options.runs.resolve()))
    jobs, stop = {Job(r.recipe, r.key, *folders, deadline): r for r in runs}, Event()
    function = partial(run_in_subprocess, at_once=at_once, stop=stop) if cluster is None else run_job
    with cluster or local(at_once) as executor:
        try:
            return run_all(jobs, executor, lambda job, end: ended(jobs[job], end), function)
        finally:
            stop.set()


def names(options: Options) -> list[str]:
    """Return the names of the files of a table: Markdown, JSON and, for a figure, PNG."""
    name = options.table if options.scale == "full" else f"{options.table}-{options.scale}"
    return [f"{name}.md", f"{name}.json", *([f"{name}.png"] if options.table.startswith("fig") else [])]


def write(options: Options, folder: Path) -> list[Path]:
    """Write a table as Markdown and JSON, and a figure as PNG too, from the ledger alone."""
    rows = cell_results(options.cells(), Ledger(options.ledger).entries())
    folder.mkdir(parents=True, exist_ok=True)
    note = caption(options)
    paths = [folder / name for name in names(options)]
    write_whole(paths[0], f"{markdown(rows)}\n\n{note}\n")
    write_whole(paths[1], json.dumps({"note": note, "rows": numbers(rows)}, indent=1) + "\n")
    if paths[2:]:
        from pursuitnet.program.reproduce.figures import draw

        write_picture(paths[-1], draw(options.table, options.scale, rows, note))
    return paths


def caption(options: Options) -> str:
    """Return a note on how the numbers were produced."""
    if options.scale == "full":
        return "Trained as the paper says; accuracy of the last epoch; mean ± standard deviation over n seeds."
    short = cells_of(options.table, options.scale)[0].recipe
    parts = f"the first {short.train_images:,} training and {short.test_images:,} test" if short.train_images else "all"
    training = (
        f"batches of {short.batch_size} with the learning rate scaled by the batch size, otherwise its recipe"
        if short.train_images
        else 'the recipe "fast" (one cycle of a larger rate)'
    )
    return (
        f"Not the paper's experiment: {parts} images of CIFAR-10, {short.epochs} epochs, {training}; "
        "accuracy of the last epoch; mean ± standard deviation over n seeds."
    )
