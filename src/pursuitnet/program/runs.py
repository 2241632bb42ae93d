"""The runs in a folder: their settings, their progress, and whether they are still running. Loads no PyTorch."""

import json
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pursuitnet.program.lock import is_locked
from pursuitnet.program.recipe import GIVEN
from pursuitnet.program.report.text import duration, written
from pursuitnet.program.run_folder import Record, RunFolder
from pursuitnet.program.writable import write_whole

State = Literal["finished", "running", "stopped", "failed", "damaged"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """Summary of a run folder; None for what is not known.

    Attributes:
        name: path of the folder, relative to where the search began.
        folder: path of the folder.
        state: finished, running, stopped, failed or damaged.
        note: why it failed or is damaged, or where it runs.
        model: name of the network.
        data: name of the data set.
        done: finished epochs.
        epochs: epochs in total.
        test_accuracy: of the last epoch, as a fraction; never that of the best.
        seconds: of all epochs together.
        device: that it was computed on.
        commit: of the package.
        unfolding: steps after the first, or "solved", if the recipe gives it.
        width: atoms per layer, if the recipe gives it.
        seed: of the recipe.
        lr: largest learning rate.
        date: when its last epoch ended, in local time.
        records: of every epoch.
    """

    name: str
    folder: Path
    state: State
    note: str = ""
    model: str | None = None
    data: str | None = None
    done: int = 0
    epochs: int | None = None
    test_accuracy: float | None = None
    seconds: float | None = None
    device: str | None = None
    commit: str | None = None
    unfolding: int | str | None = None
    width: int | None = None
    seed: int | None = None
    lr: float | None = None
    date: str | None = None
    records: list[Record] = field(default_factory=list, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return every field except the records, as JSON values."""
        values = asdict(self)
        del values["records"]
        return {**values, "folder": str(self.folder)}


TITLES = ("run", "model", "data", "state", "epochs", "test accuracy", "time", "device", "commit", "note")


def cells(runs: Sequence[RunSummary]) -> list[tuple[str, ...]]:
    """Return the title row and one row per run, as text; a dash stands for what is not known."""
    return [TITLES, *(_row(run) for run in runs)]


def to_json(runs: Sequence[RunSummary]) -> str:
    """Return the runs as a JSON list."""
    return json.dumps([run.to_json() for run in runs], indent=2)


def _row(run: RunSummary) -> tuple[str, ...]:
    commit = "" if run.commit is None else re.sub(r"^([0-9a-f]{9})[0-9a-f]*", r"\1", run.commit)
    return (
        run.name,
        run.model or "-",
        run.data or "-",
        run.state,
        "-" if run.epochs is None else f"{run.done}/{run.epochs}",
        "-" if run.test_accuracy is None else written("{:.2%}", run.test_accuracy),
        "-" if run.seconds is None else duration(run.seconds),
        run.device or "-",
        commit.replace("+changes", "+") or "-",
        run.note,
    )


def table(runs: Sequence[RunSummary]) -> list[str]:
    """Return the rows as lines with aligned columns."""
    rows = cells(runs)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = {TITLES.index(title) for title in ("epochs", "test accuracy", "time")}
    padded = (
        (
            value.rjust(width) if i in right else value.ljust(width)
            for i, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return ["  ".join(row).rstrip() for row in padded]


@contextmanager
def running(folder: Path, stops: type[Exception] | tuple[type[Exception], ...] = (), **about: str) -> Iterator[None]:
    """Mark a run folder as in use: ``running.json`` while this process runs it, ``failed.json`` if it fails.

    A killed process leaves ``running.json`` behind, but its lock is free (``lock.is_locked``).

    Args:
        folder: the run folder, whose lock this process holds (``lock.run_lock``).
        stops: exceptions that stop a run in an orderly way; any other one is a failure.
        about: more fields of ``running.json``, such as the device and the commit.
    """
    run = RunFolder(folder)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    write_whole(run.running, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, **about}))
    run.failed.unlink(missing_ok=True)
    try:
        yield
    except stops:
        raise
    except Exception as error:
        failure = {"error": type(error).__name__, "reason": " ".join(str(error).split())}
        with suppress(OSError):  # the first error is the one to report
            write_whole(run.failed, json.dumps(failure))
        raise
    finally:
        run.running.unlink(missing_ok=True)


def find_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder and its subfolders, sorted by name; the note of a damaged one says why.

    Raises:
        NotADirectoryError: if there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder} is not a folder; name one that holds runs, as `pursuitnet train` writes them"
        )
    paths = sorted(_walk(folder), key=_natural_key)
    return [read(run, run.relative_to(folder).as_posix() if run != folder else folder.resolve().name) for run in paths]


def read(folder: Path, name: str | None = None) -> RunSummary:
    """Return the summary of a run folder; if it is damaged, its note says why, and nothing raises."""
    place: dict[str, Any] = {"name": folder.name if name is None else name, "folder": folder}
    try:
        return RunSummary(**place, **_summary_fields(RunFolder(folder)))
    except (OSError, ValueError) as error:
        note = str(error).replace(f"{folder}{os.sep}", "").removeprefix(f"{folder} ")
        return RunSummary(**place, state="damaged", note=" ".join(note.split()))


def finished_epochs(folder: Path) -> list[Record]:
    """Return the records of a run's finished epochs, to be shown when it resumes; none if they cannot be read."""
    try:
        return RunFolder(folder).read_epochs()
    except (OSError, ValueError):
        return []


def _walk(folder: Path) -> Iterator[Path]:
    """Yield run folders, and folders that cannot be read; runs contain no runs, and a link is followed once."""
    seen: set[tuple[int, int]] = set()
    unreadable: list[Path] = []
    for root, inside, files in os.walk(folder, followlinks=True, onerror=lambda e: unreadable.append(Path(e.filename))):
        status = os.stat(root)
        known = (status.st_dev, status.st_ino) in seen
        seen.add((status.st_dev, status.st_ino))
        run = RunFolder(root)
        if known or run.is_run(files):
            inside.clear()
        if not known and run.is_run(files):
            yield run.path
    yield from unreadable


def _natural_key(folder: Path) -> list[tuple[int, str]]:
    """Return a sorting key by which seed2 comes before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(folder).lower())]


def _summary_fields(folder: RunFolder) -> dict[str, Any]:
    """Return the fields of a run's summary.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is damaged.
    """
    recipe = folder.read_fields({"model": str, "data": str, "epochs": int})
    records, record = folder.read_epochs(), _read_if_exists(folder.read_record)
    if len(records) > recipe["epochs"]:
        raise ValueError(f"{folder.metrics} is damaged: {len(records)} epochs of {recipe['epochs']}")
    process = _read_if_exists(folder.read_running)
    state, note = _state_and_note(folder, process, complete=bool(record) and len(records) == recipe["epochs"])
    last = records[-1] if records else {}
    return {
        "state": state,
        "note": note,
        "model": recipe["model"],
        "data": recipe["data"],
        "done": len(records),
        "epochs": recipe["epochs"],
        "test_accuracy": last.get("test_accuracy"),
        "seconds": sum(entry["seconds"] for entry in records) if records else None,
        "device": record.get("device") or process.get("device"),
        "commit": record.get("commit") or process.get("commit") or None,
        **{name: recipe.get(name) for name in ("unfolding", "width", "seed", "lr")},
        "date": date_of(folder.metrics),
        "records": records,
    }


def date_of(path: Path) -> str | None:
    """Return when a file was last written, in local time; None if there is none."""
    if not path.exists():
        return None
    return datetime.fromtimestamp(path.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M")


def repeat_command(folder: Path, recipe: dict[str, Any]) -> str:
    """Return the command that repeats a run, from the same working directory; for data from Python, the call."""
    file = RunFolder(folder).recipe
    if recipe.get("data") == GIVEN:
        return f'pn.train(pn.Recipe.named("{file}"), "{folder}-again", data=…)'
    return shlex.join(["pursuitnet", "train", "--recipe", str(file), "--out", f"{folder}-again"])


def _state_and_note(folder: RunFolder, process: Record, *, complete: bool) -> tuple[State, str]:
    """Return the state of a run and a note on it."""
    if is_locked(folder.path):
        return "running", f"on {process['host']}" if process and process["host"] != socket.gethostname() else ""
    if failure := _read_if_exists(folder.read_failed):
        return "failed", failure["reason"]
    if complete:
        _check_weights(folder.weights)
        return "finished", ""
    return "stopped", "killed" if process else ""


def _read_if_exists(read: Callable[[], Record]) -> Record:
    """Return the content of a file; empty if it does not exist, or no longer: a run may end at this moment."""
    try:
        return read()
    except FileNotFoundError:
        return {}


def _check_weights(path: Path) -> None:
    """Raise ValueError if a file of weights is damaged, as far as its header shows."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
