"""A GPU for minutes: the tests marked gpu, the benchmarks, and cells of the tables, each saved as soon as it ends.

    python experiments/gpu_minutes.py --minutes 9 --out DIR --data DIR [--only tests,benchmarks,medium,cells]

In this order: the tests (failures are recorded, not fatal), benchmarks/gpu.py and benchmarks/networks.py, the scale
medium, and full cells of Tables II and III, several at once. Each part has its share of the time; time that it does
not use is left to the next. Only the last two parts need the data set. Needs neither a network nor a registry.

--out gets at most 8 files of at most 16 MB: log.txt, output.txt (of tests and benchmarks), gpu.json,
networks-cuda.json, records.tar (of the ledger), runs-1.tar and runs-2.tar: the checkpoints of interrupted runs, which
a later call resumes if --out or --archive is their folder. Add the records to the ledger with tar -xf records.tar.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pursuitnet.program import reproduce
from pursuitnet.program.reproduce import plan
from pursuitnet.program.threads import available

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402

PARTS = {"tests": 0.35, "benchmarks": 0.25, "medium": 0.45, "cells": 1.0}
"""Each part, and the share of the time that is left which it may take."""
CELLS: tuple[tuple[str, str, int], ...] = (
    ("table2", "res_csc_20, cifar10", 1),
    ("table2", "resnet_20, cifar10", 1),
    ("table2", "res_csc_20, cifar10", 2),
    ("table2", "resnet_20, cifar10", 2),
    ("table3", "msdnet_6, cifar10", 1),
    ("table3", "msd_csc_6, cifar10, solver=ista", 1),
    ("table2", "plain_56, cifar10", 1),
    ("table2", "resnet_56, cifar10", 1),
    ("table2", "res_csc_56, cifar10", 1),
    ("table3", "msdnet_12, cifar10", 1),
    ("table3", "msd_csc_12, cifar10, solver=ista, unfolding=2", 1),
)
"""Full cells in their order: table, which of it, and how many seeds."""
FEW = 4
"""Full cells at once: they are to end, not to begin."""
LARGEST = 16 * 2**20
"""Bytes of a file in the archive."""
PACK = 20.0
"""Seconds kept for packing."""


class Clock:
    """The time that is left.

    Args:
        seconds: in all.
    """

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


class Log:
    """Says every line and keeps it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.began = path, time.monotonic()

    def __call__(self, line: str) -> None:
        line = f"[{time.monotonic() - self.began:6.1f} s] {line}"
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def command(words: Sequence[str | Path], out: Path, seconds: float, log: Log) -> None:
    """Run a command with its output in a file; a failure or a timeout is logged, and nothing else."""
    began, path = time.monotonic(), os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with out.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [str(w) for w in words],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            how = f"ended with {process.wait(max(1.0, seconds))}"
        except subprocess.TimeoutExpired:
            how = "cut off"
            stop(process)
    name = " ".join(Path(str(word)).name for word in words[1:5])
    log(f"{name} {how} after {time.monotonic() - began:.0f} s")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started: they are asked first."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(10)


def tests(arguments: argparse.Namespace, seconds: float, log: Log) -> None:
    """Run the tests marked gpu; those that compile come last."""
    pytest = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=line", "--timeout", "120"]
    pytest += ["-p", "no:cacheprovider", "-p", "no:benchmark"]  # which warns beside xdist, and a warning is an error
    if arguments.device != "cpu" and available() >= 8:
        pytest += ["-n", "6"]
    clock = Clock(seconds)
    for chosen in ("not compile", "compile"):
        if clock.left > 1:
            command([*pytest, "-k", chosen, ROOT / "tests"], arguments.out / "output.txt", clock.left, log)
    with (arguments.out / "output.txt").open(encoding="utf-8") as file:
        for line in file.read().splitlines():
            if " passed" in line or " failed" in line or line.startswith(("FAILED", "ERROR")):
                log(line)


def benchmarks(arguments: argparse.Namespace, seconds: float, log: Log) -> None:
    """Run the benchmarks of a step, of several runs, of solve, and of the networks, as far as the time goes."""
    clock, out = Clock(seconds), arguments.out / "output.txt"
    python, folder, device = sys.executable, ROOT / "benchmarks", ["--device", arguments.device]
    tiny = ["--size", "32", "--at-once", "1", "--seconds", "0.1", "--batch", "2"] if arguments.small else []
    first = [*device, "--out", arguments.out / "gpu.json", *tiny]
    command([python, folder / "gpu.py", "--part", "steps,throughput", *first], out, 0.55 * clock.left, log)
    tiny = ["--depth", "3", "--batch", "2", "--steps", "1"] if arguments.small else ["--batch", "128"]
    only = ["--only", "MSD-CSC, ISTA", "--only", "Algorithm 2"]
    second = [*device, "--rounds", "1", "--out", arguments.out, *tiny, *only]
    command([python, folder / "networks.py", *second], out, 0.6 * clock.left, log)
    for picture in arguments.out.glob("networks-*.png"):
        picture.unlink()
    tiny = ["--size", "32"] if arguments.small else []
    third = [*device, "--out", arguments.out / "gpu.json", *tiny]
    third += ["--limit", f"{max(1.0, clock.left / 5):.0f}"]  # of each of four solutions
    command([python, folder / "gpu.py", "--part", "solve", *third], out, clock.left, log)


def medium_runs(options: Callable[..., reproduce.Options]) -> list[plan.PlannedRun]:
    """Return what is missing of the scale medium, then of what decides the precision, in single precision."""
    runs = reproduce.missing(options("tables", scale="medium", seeds=None))
    single = [
        replace(cell, recipe=replace(cell.recipe, precision="float32"))
        for cell in reproduce.cells_of("tables", "medium")
        if cell.recipe.model == "resnet_20" or (cell.recipe.model, cell.recipe.solver, cell.unfolding) == _MSD
    ]
    given = options("tables", scale="medium", seeds=None)
    planned = plan.planned_runs(single, None, given.data_dir, given.device)
    return runs + plan.missing(planned, reproduce.Ledger(given.ledger))


_MSD = ("msd_csc_6", "ista", 1)


def full_runs(options: Callable[..., reproduce.Options]) -> list[plan.PlannedRun]:
    """Return what is missing of the full cells, in their order."""
    by_key = {}
    for table, only, seeds in CELLS:
        for run in reproduce.missing(options(table, filter=(only,), seeds=seeds, scale="full")):
            by_key.setdefault(run.key, run)
    return list(by_key.values())


def sharing(arguments: argparse.Namespace) -> tuple[int, bool]:
    """Return how many runs at once, and whether by the multi-process service: what gpu.json measured to be best."""
    if arguments.at_once:
        return arguments.at_once, False
    measured = [folder / "gpu.json" for folder in (arguments.out, *arguments.archive)]
    rates = [json.loads(path.read_text()).get("throughput", {}) for path in measured if path.is_file()]
    known = [
        (rate, int(n), "service" in kind) for kinds in rates for kind, by in kinds.items() for n, rate in by.items()
    ]
    return max(known, default=(0.0, 8, False))[1:]


def train(
    arguments: argparse.Namespace, which: Callable[..., list[plan.PlannedRun]], seconds: float, most: int, log: Log
) -> None:
    """Train runs, several at once, until the time is over; what is cut off keeps its checkpoint."""
    clock, (number, service) = Clock(seconds), sharing(arguments)
    given = {"device": arguments.device, "ledger": arguments.ledger, "runs": arguments.runs}
    options = partial(reproduce.Options, data_dir=arguments.data, **given)
    todo = which(options)
    if arguments.device != "cpu":
        todo = [replace(run, recipe=replace(run.recipe, cuda_graphs=not arguments.eager)) for run in todo]
    number = min(number, most)
    log(f"{len(todo)} runs missing, {number} at once{' by the multi-process service' if service else ''}")

    def ended(run: plan.PlannedRun, end: str | BaseException) -> None:
        if not (isinstance(end, TimeoutError) and str(end).startswith("not started")):
            log(f"{run.cell.name}, seed {run.recipe.seed}: {end}")

    with gpu.service(service) as where, set_environment(where):
        reproduce.run_missing(options("tables"), todo, ended, seconds=clock.left, at_once=number)


@contextmanager
def set_environment(values: dict[str, str]) -> Iterator[None]:
    """Let processes that are started see these variables."""
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def unpack(folders: Iterable[Path], arguments: argparse.Namespace) -> None:
    """Put records and checkpoints of earlier calls where they go on."""
    for folder in folders:
        for name, place in (("records*.tar", arguments.ledger), ("runs-*.tar", arguments.runs)):
            for path in sorted(folder.glob(name)):
                place.mkdir(parents=True, exist_ok=True)
                with tarfile.open(path) as archive:
                    archive.extractall(place, filter="data")


def pack(arguments: argparse.Namespace, log: Log) -> None:
    """Archive the records, and the checkpoints of what was cut off, newest first, as far as two files hold them."""
    with tarfile.open(arguments.out / "records.tar", "w") as archive:
        for path in sorted(arguments.ledger.glob("*.json")):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["commit"] is None and arguments.commit:
                path.write_text(json.dumps({**record, "commit": arguments.commit}, indent=1) + "\n", encoding="utf-8")
            archive.add(path, path.name)
    folders = [f for f in arguments.runs.glob("*") if (f / "checkpoint.pt").is_file()]
    folders = [f for f in folders if not (arguments.ledger / f"{f.name}.json").exists()]
    folders.sort(key=lambda f: (f / "checkpoint.pt").stat().st_mtime, reverse=True)
    for number in (1, 2):
        size, rest = 0, []
        with tarfile.open(arguments.out / f"runs-{number}.tar", "w") as archive:
            for folder in folders:
                files = [p for n in ("recipe.json", "metrics.jsonl", "checkpoint.pt") if (p := folder / n).is_file()]
                needed = sum(p.stat().st_size + 2048 for p in files)
                if size + needed > LARGEST - 2**16:
                    rest.append(folder)
                    continue
                size += needed
                for path in files:
                    archive.add(path, f"{folder.name}/{path.name}")
        folders = rest
    for folder in folders:
        log(f"{folder.name} was cut off and does not fit into the archive: it begins anew")


def main() -> None:
    """Do the parts in their order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for all output")
    parser.add_argument("--data", type=Path, help="folder that contains cifar-10-batches-bin")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of " + ", ".join(PARTS))
    parser.add_argument("--archive", type=Path, action="append", default=[], help="--out of an earlier call")
    parser.add_argument(
        "--at-once", type=int, help="runs at once; by default what benchmarks/gpu.py measured to be best, or 8"
    )
    parser.add_argument("--commit", help="of these sources, for the records, where git is missing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, help="where runs are trained; by default below --out's parent")
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--small", action="store_true", help="toy sizes of the benchmarks, to try the program")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--only has {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    if {"medium", "cells"} & set(chosen) and not (arguments.data and arguments.data.is_dir()):
        parser.error(f"--data is {arguments.data}; the parts medium and cells need the folder of CIFAR-10")
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.out = arguments.out.resolve()
    arguments.work = (arguments.work or arguments.out.parent / "gpu-minutes").resolve()
    arguments.ledger, arguments.runs = arguments.work / "ledger", arguments.work / "runs"
    unpack([arguments.out, *arguments.archive], arguments)
    log, clock = Log(arguments.out / "log.txt"), Clock(60 * arguments.minutes - PACK)
    does: dict[str, Callable[[float], None]] = {
        "tests": lambda seconds: tests(arguments, seconds, log),
        "benchmarks": lambda seconds: benchmarks(arguments, seconds, log),
        "medium": lambda seconds: train(arguments, medium_runs, seconds, 64, log),
        "cells": lambda seconds: train(arguments, full_runs, seconds, FEW, log),
    }
    try:
        for name in PARTS:
            if name in chosen and clock.left > 1:
                last = name == [n for n in PARTS if n in chosen][-1]
                log(f"{name}: {clock.left:.0f} s are left")
                does[name](clock.left * (1.0 if last else PARTS[name]))
    finally:
        pack(arguments, log)


if __name__ == "__main__":
    main()
