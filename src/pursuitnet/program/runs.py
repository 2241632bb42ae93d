"""The runs below a folder: what each was, how far it has come, and whether it still goes on. Loads no PyTorch."""

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
    """What a run folder says of its run; None stands for what it does not say.

    Attributes:
        name: the folder, seen from where the search began.
        folder: where it is.
        state: finished, running, stopped, failed or damaged.
        note: why it failed or is damaged, or where it runs.
        model: name of the network.
        data: name of the data set.
        done: epochs that have ended.
        epochs: epochs it is to have.
        test_accuracy: of the last epoch, as a fraction; never that of the best.
        seconds: the epochs' time.
        device: where it was computed.
        commit: of the package.
        unfolding: steps after the first, if the recipe asks for a number.
        width: atoms a layer, if the recipe asks for a number.
        seed: of the recipe.
        lr: largest learning rate.
        date: when its last epoch ended, in local time.
        records: every epoch's line.
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
    unfolding: int | None = None
    width: int | None = None
    seed: int | None = None
    lr: float | None = None
    date: str | None = None
    records: list[Record] = field(default_factory=list, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return every field but the records as JSON has it."""
        values = asdict(self)
        del values["records"]
        return {**values, "folder": str(self.folder)}


TITLES = ("run", "model", "data", "state", "epochs", "test accuracy", "time", "device", "commit", "note")


def cells(runs: Sequence[RunSummary]) -> list[tuple[str, ...]]:
    """Return the title row and a row a run, in words; a dash stands for what a run does not say."""
    return [TITLES, *(_cells(run) for run in runs)]


def to_json(runs: Sequence[RunSummary]) -> str:
    """Return the runs as a JSON list."""
    return json.dumps([run.to_json() for run in runs], indent=2)


def _cells(run: RunSummary) -> tuple[str, ...]:
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
    """Return the rows as lines in columns."""
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
    """Say in a run's folder who is at it: ``running.json`` while this process is, ``failed.json`` if it fails.

    A killed process leaves ``running.json``; that it is dead is told by its lock (``owner``), which it leaves free.

    Args:
        folder: the run's, which this process owns (``lock.run_lock``).
        stops: exceptions by which a run stops in good order; any other one is a failure.
        about: what else to say of it, such as the device and the commit.
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
        said = {"error": type(error).__name__, "reason": " ".join(str(error).split())}
        with suppress(OSError):  # the error that came first is the one to hear of
            write_whole(run.failed, json.dumps(said))
        raise
    finally:
        run.running.unlink(missing_ok=True)


def find_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder and below it, in the order of their names; a damaged one says why.

    Raises:
        NotADirectoryError: if there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder; name one that holds runs, as `pursuitnet train` leaves them")
    found = sorted(_walk(folder), key=_natural)
    return [read(at, at.relative_to(folder).as_posix() if at != folder else folder.resolve().name) for at in found]


def read(folder: Path, name: str | None = None) -> RunSummary:
    """Return what a run folder says; what is wrong with it is in the note, and nothing raises."""
    given: dict[str, Any] = {"name": folder.name if name is None else name, "folder": folder}
    try:
        return RunSummary(**given, **_content(RunFolder(folder)))
    except (OSError, ValueError) as error:
        note = str(error).replace(f"{folder}{os.sep}", "").removeprefix(f"{folder} ")
        return RunSummary(**given, state="damaged", note=" ".join(note.split()))


def earlier(folder: Path) -> list[Record]:
    """Return the epochs that a run has behind it, for those who watch it go on; none if they cannot be read."""
    try:
        return RunFolder(folder).read_epochs()
    except (OSError, ValueError):
        return []


def _walk(folder: Path) -> Iterator[Path]:
    """Yield run folders, and those that cannot be looked into; runs hold no runs, and a link is followed once."""
    seen: set[tuple[int, int]] = set()
    closed: list[Path] = []
    for root, inside, files in os.walk(folder, followlinks=True, onerror=lambda e: closed.append(Path(e.filename))):
        at = os.stat(root)
        known = (at.st_dev, at.st_ino) in seen
        seen.add((at.st_dev, at.st_ino))
        run = RunFolder(root)
        if known or run.marked(files):
            inside.clear()
        if not known and run.marked(files):
            yield run.path
    yield from closed


def _natural(folder: Path) -> list[tuple[int, str]]:
    """Return a key by which seed2 comes before seed10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(folder).lower())]


def _content(folder: RunFolder) -> dict[str, Any]:
    """Return the fields of a run that are not damaged.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is damaged.
    """
    recipe = folder.read_fields({"model": str, "data": str, "epochs": int})
    records, record = folder.read_epochs(), _if_there(folder.read_record)
    if len(records) > recipe["epochs"]:
        raise ValueError(f"{folder.metrics} is damaged: {len(records)} epochs of {recipe['epochs']}")
    mark = _if_there(folder.read_running)
    state, note = _state(folder, mark, complete=bool(record) and len(records) == recipe["epochs"])
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
        "device": record.get("device") or mark.get("device"),
        "commit": record.get("commit") or mark.get("commit") or None,
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
    """Return the command that repeats a run, to be called where it was; of data from Python, the call."""
    file = RunFolder(folder).recipe
    if recipe.get("data") == GIVEN:
        return f'pn.train(pn.Recipe.named("{file}"), "{folder}-again", data=…)'
    return shlex.join(["pursuitnet", "train", "--recipe", str(file), "--out", f"{folder}-again"])


def _state(folder: RunFolder, mark: Record, *, complete: bool) -> tuple[State, str]:
    """Return whether a run goes on, has ended or broken off, and a note on it."""
    if is_locked(folder.path):
        return "running", f"on {mark['host']}" if mark and mark["host"] != socket.gethostname() else ""
    if failure := _if_there(folder.read_failed):
        return "failed", failure["reason"]
    if complete:
        _check_weights(folder.weights)
        return "finished", ""
    return "stopped", "killed" if mark else ""


def _if_there(read: Callable[[], Record]) -> Record:
    """Return what a file holds; nothing if there is none, or it has gone since: a run may just end."""
    try:
        return read()
    except FileNotFoundError:
        return {}


def _check_weights(path: Path) -> None:
    """Raise ValueError if a file of weights is not whole, as far as can be seen without reading all of it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
