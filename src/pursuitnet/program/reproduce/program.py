"""The command ``pursuitnet reproduce``: what it runs and prints."""

import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from pursuitnet.program import reproduce
from pursuitnet.program.reproduce.plan import PlannedRun
from pursuitnet.program.reproduce.throughput import best_number
from pursuitnet.program.runs import find_runs, table
from pursuitnet.program.threads import available
from pursuitnet.program.train import device_of
from pursuitnet.program.writable import check_folder

if TYPE_CHECKING:
    from rich.console import Console

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}

MOST = 16
"""Most runs at once on one GPU if their number is chosen by measuring."""


def seconds_of(text: str) -> float:
    """Return a time such as 25min, 1.5h or 90s in seconds.

    Raises:
        ValueError: for anything else.
    """
    match = re.fullmatch(r"([\d.]+)\s*(s|min|h|d)", text.strip())
    if not match:
        raise ValueError(f"the budget is {text!r}; expected a number with s, min, h or d, such as 25min")
    return float(match[1]) * UNITS[match[2]]


def program(
    options: reproduce.Options,
    out: Path,
    say: Callable[[str], None],
    *,
    budget: str | None = None,
    dry_run: bool = False,
    at_once: int | None = 1,
    cluster: AbstractContextManager[Executor] | None = None,
) -> int:
    """Print what is missing, run it, and write the table; return the number of runs that did not end.

    Args:
        options: what to run, and where.
        out: folder of the table.
        say: called with every line of output.
        budget: time after which to stop, such as 25min.
        dry_run: only print what is missing.
        at_once: number of processes on this machine; None for the fastest number, which is measured first.
        cluster: provides an executor on other machines, which then run everything.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"jobs is {at_once}; expected an integer ≥ 1, the number of runs at once, or auto")
    limit = None if budget is None else seconds_of(budget)
    check_folder(out, *reproduce.names(options))
    todo, failed = reproduce.missing(options), 0
    say("\n".join(plan_lines(options, todo, dry_run)))
    if todo and not dry_run:
        check_folder(options.ledger, option="--ledger")
        check_folder(options.runs, option="--runs")
        if at_once is None and cluster is None:
            recipe = todo[0].recipe
            cores = available() if device_of(recipe).type == "cpu" else MOST
            at_once = best_number(recipe, min(len(todo), cores), say)
        ended = partial(report_end, time.perf_counter(), len(todo), count(1), say)
        with interrupt_on_sigterm():
            failed = reproduce.run_missing(options, todo, ended, seconds=limit, at_once=at_once or 1, cluster=cluster)
    say("\n".join(map(str, reproduce.write(options, out))))
    return failed


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that running jobs save their checkpoints."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def show_running(folder: Path, console: "Console | None" = None) -> Iterator[Callable[[str], None]]:
    """Show the active runs in a folder on a terminal; yield a function that prints lines above them."""
    from rich.live import Live
    from rich.text import Text

    def running_line() -> Text:
        runs = find_runs(folder) if folder.is_dir() else []
        running = [run for run in runs if run.state == "running"]
        return Text("\n".join(table(running)) if running else "")

    with Live(get_renderable=running_line, console=console, refresh_per_second=0.5, transient=True) as view:
        yield lambda line: view.console.print(line, highlight=False, markup=False)


def plan_lines(options: reproduce.Options, todo: Sequence[PlannedRun], whole: bool) -> Iterator[str]:
    """Yield the numbers of runs planned and missing; with ``whole`` also every missing run and the hours of all."""
    cells = options.cells()
    planned = sum(cell.seeds if options.seeds is None else options.seeds for cell in cells)
    yield f"{options.table}: {len(cells)} cells, {planned} runs, {len(todo)} of them missing"
    if whole and todo:
        yield from (f"  {run.key}  {describe(run)}, {run.recipe.epochs} epochs" for run in todo)
        yield f"about {reproduce.hours(options, todo):.1f} hours one after another on this machine"


def describe(run: PlannedRun) -> str:
    """Return a short description of a run."""
    return f"{run.cell.name}, {run.recipe.data}, seed {run.recipe.seed}"


def report_end(
    start: float,
    total: int,
    ended: Iterator[int],
    say: Callable[[str], None],
    run: PlannedRun,
    end: str | BaseException,
) -> None:
    """Print that a run has ended, with its error if it failed."""
    error = f": {end}" if isinstance(end, BaseException) else ""
    say(f"[{next(ended)}/{total}, {(time.perf_counter() - start) / 60:.0f} min] {describe(run)}{error}")
