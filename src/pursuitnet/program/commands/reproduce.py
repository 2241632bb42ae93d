"""pursuitnet reproduce."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

from pursuitnet.program.commands.simulate import simulate


def reproduce(
    table: Literal["table2", "table3", "tables", "fig7", "fig8", "ablation", "precision", "fig1", "fig4"],
    *,
    filter: tuple[str, ...] = (),
    seeds: int | None = None,
    scale: Literal["full", "fast", "medium", "small"] = "full",
    budget: str | None = None,
    dry_run: bool = False,
    data_dir: Path | None = None,
    device: str = "auto",
    jobs: int | Literal["auto"] = 1,
    dask: str | None = None,
    cluster: Path | None = None,
    ledger: Path = Path("experiments", "results", "ledger"),
    runs: Path = Path("runs", "reproduce"),
    out: Path | None = None,
) -> None:
    """Make a table or figure of the paper: run what the ledger lacks of it, and draw it from the ledger.

    Args:
        table: table2 and fig7 (residual networks), table3 and fig8 (ML-CSC and MSD-CSC), tables (both), ablation (what
            the paper leaves open), precision (float32 against bfloat16), or a simulation.
        filter: Part of it, such as 'msd_csc_12, cifar10, unfolding=2'; given several times, each adds its part.
        seeds: Runs of every cell; by default 1, and at the scale medium 5, or 3 of networks of 56 layers.
        scale: As the paper trains, or in a table of its own fast: all of CIFAR-10 by one cycle of 30 epochs; medium: of
            4 epochs; small: a fixed part of CIFAR-10 and few epochs.
        budget: Time after which to stop, such as 25min; what is cut off is resumed by the next call.
        dry_run: Only say what is missing and how long it will take.
        data_dir: Folder that holds the data sets.
        device: Device of each run.
        jobs: Runs at once on this machine; auto measures first how many get most done together.
        dask: Address of a Dask scheduler whose workers share this folder.
        cluster: YAML file that describes workers to ask a batch system for.
        ledger: Folder of the records.
        runs: Folder of the run folders.
        out: Where the table goes; by default runs/ and its name.
    """
    if table == "fig1" or table == "fig4":
        simulate(table, out=out)
        return
    from pursuitnet.program.reproduce import Options
    from pursuitnet.program.reproduce.cluster import cluster_of
    from pursuitnet.program.reproduce.program import program, show_running

    options = Options(table, filter, seeds, scale, data_dir, device, ledger, runs)
    where = cluster_of(dask, cluster, device)
    folder = Path("runs", table) if out is None else out
    plain = nullcontext(partial(print, flush=True))
    with show_running(runs) if sys.stdout.isatty() else plain as say:
        at_once = None if jobs == "auto" else jobs
        failed = program(options, folder, say, budget=budget, dry_run=dry_run, at_once=at_once, cluster=where)
    if failed:
        sys.exit(1)
