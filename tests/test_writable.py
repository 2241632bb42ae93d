"""Output that cannot be written is found out before the work, and what was found is printed before it is written."""

import errno
import json
import tempfile

import pytest
from programs import program

from pursuitnet.program import cli, train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce import Cell, cells
from pursuitnet.program.writable import check_file, check_folder

TINY = Recipe(model="msd_csc_3", width=2, epochs=1, train_images=64, test_images=40, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train.train(TINY, folder)
    return folder


@pytest.fixture
def read_only(monkeypatch):
    """A file system that can only be read, which holds for every user."""

    def refused(*given, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)


def test_a_folder_is_tried_and_left_as_it_is(tmp_path):
    check_folder(tmp_path / "new" / "deep")
    check_folder(tmp_path, "x.json")
    check_file(tmp_path / "x.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "x.json").mkdir()
    with pytest.raises(NotADirectoryError, match=r"file is not a folder; name another --out"):
        check_folder(tmp_path / "file" / "below")
    with pytest.raises(PermissionError, match=r"x\.json cannot be replaced"):
        check_folder(tmp_path, "x.json")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder; create it"):
        check_file(tmp_path / "nowhere" / "x.json")


def test_a_file_system_that_can_only_be_read_is_said_so(tmp_path, read_only):
    with pytest.raises(OSError, match=r"cannot be written to \(Read-only file system\); name another --out"):
        check_folder(tmp_path)


def test_a_file_that_may_not_be_replaced_is_found_for_every_user(tmp_path, monkeypatch):
    (tmp_path / "x.json").touch()
    check_folder(tmp_path, "x.json")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"x\.json cannot be replaced"):
        check_folder(tmp_path, "x.json")
    check_folder(tmp_path, "y.json")


WORK = {
    "train": ("pursuitnet.program.train.train", ["--out", "OUT"]),
    "evaluate": ("pursuitnet.program.evaluation.evaluate_run.evaluate_run", ["RUN"]),
    "inspect": ("pursuitnet.program.whitebox.inspect_run.inspect_run", ["RUN"]),
    "simulate": ("pursuitnet.program.simulate.run", ["fig1", "--out", "OUT"]),
    "export": ("pursuitnet.program.sharing.export.export", ["RUN"]),
    "runs": ("pursuitnet.program.runs.find_runs", [".", "--out", "runs.html"]),
    "apply": ("pursuitnet.program.apply.files.apply_to_files", ["RUN", "x.png", "--out", "OUT"]),
    "predict": ("pursuitnet.program.predict.predictions.predictions", ["RUN", "x.png", "--csv", "OUT"]),
    "learn": ("pursuitnet.program.learn.run.learn_from_files", ["x.png", "--out", "OUT"]),
}


@pytest.mark.parametrize("command", WORK)
def test_no_command_works_for_what_cannot_be_written(command, run, tmp_path, monkeypatch, capsys, read_only):
    work, arguments = WORK[command]
    monkeypatch.setattr(work, lambda *given, **options: pytest.fail("it has begun to work"))
    given = [str(run) if a == "RUN" else str(tmp_path / "out") if a == "OUT" else a for a in arguments]
    code, _, said = program(monkeypatch, capsys, command, *given)
    assert code == 2 and said.count("\n") == 1
    assert "cannot be written to (Read-only file system)" in said


@pytest.mark.parametrize("command", ["train", "evaluate", "inspect", "simulate"])
def test_what_was_found_is_printed_before_it_is_written(command, run, tmp_path, monkeypatch, capsys):
    def full(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    writes = {
        "train": ("pursuitnet.program.report.page.write", ["--recipe", tmp_path / "r.json", "--out", tmp_path / "out"]),
        "evaluate": ("pursuitnet.program.evaluation.evaluate_run.EvaluationRecord.save", [run]),
        "inspect": (
            "pursuitnet.program.whitebox.inspection.Inspection.save",
            [run, "--images", "2", "--test-images", "8"],
        ),
        "simulate": ("pursuitnet.program.simulate.write", ["fig1", "--out", tmp_path / "out"]),
    }
    (tmp_path / "r.json").write_text(json.dumps(TINY.to_json()))
    monkeypatch.setattr(writes[command][0], full)
    code, printed, said = program(monkeypatch, capsys, command, *writes[command][1])
    assert code == 2 and "No space left on device" in said
    assert {"simulate": "| μ |", "inspect": "unfolding 0"}.get(command, "accuracy") in printed


def test_every_command_that_writes_is_among_these():
    named = {name for name in cli.app if not name.startswith("-")}
    assert named - {"models"} == {*WORK, "reproduce"}


class ReachedError(Exception):
    """The work has begun."""


@pytest.fixture
def reproduced(tmp_path, monkeypatch, capsys):
    """The program's ``reproduce`` of one tiny cell, up to its first run; returns its code and what it said."""
    for table in ("table3", "fig8"):
        monkeypatch.setitem(cells.TABLES, table, lambda: (Cell("MSD-CSC, ISTA", 3, TINY, None),))
    monkeypatch.setattr("pursuitnet.program.reproduce.program.best_number", _reached)
    monkeypatch.setattr("pursuitnet.program.reproduce.run_missing", _reached)
    places = {option: tmp_path / option for option in ("--out", "--ledger", "--runs")}

    def call(table, *given, **elsewhere):
        where = {**places, **{f"--{option}": path for option, path in elsewhere.items()}}
        where = [word for option, path in where.items() for word in (option, path)]
        code, _, said = program(monkeypatch, capsys, "reproduce", table, *given, *where)
        return code, said

    return call


def _reached(*given, **options):
    raise ReachedError


@pytest.mark.parametrize("jobs", ["1", "auto"])
@pytest.mark.parametrize("option", ["out", "ledger", "runs"])
def test_no_table_is_begun_that_cannot_be_written(option, jobs, reproduced, tmp_path):
    (tmp_path / "file").touch()
    code, said = reproduced("table3", "--jobs", jobs, **{option: tmp_path / "file" / "below"})
    assert code == 2 and said.count("\n") == 1
    assert f"file is not a folder; name another --{option}\n" in said
    with pytest.raises(ReachedError):
        reproduced("table3", "--jobs", jobs)


@pytest.mark.parametrize("suffix", ["md", "json", "png"])
def test_no_table_is_planned_whose_files_cannot_be_replaced(suffix, reproduced, tmp_path, monkeypatch):
    monkeypatch.setattr("pursuitnet.program.reproduce.missing", _reached)
    (tmp_path / "out" / f"fig8.{suffix}").mkdir(parents=True)
    code, said = reproduced("fig8", out=tmp_path / "out")
    assert code == 2 and f"fig8.{suffix} cannot be replaced; name another --out" in said


def test_a_ledger_that_is_only_read_may_be_one_that_can_only_be_read(reproduced, tmp_path):
    (tmp_path / "file").touch()
    code, said = reproduced("table3", "--dry-run", runs=tmp_path / "file" / "below")
    assert (code, said) == (0, "")
