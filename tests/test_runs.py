"""The list of runs: what each says of itself, whether it goes on, and one picture of all."""

import json
import os
import socket

import numpy as np
import pytest
from matplotlib.image import imread
from programs import finished, program
from safetensors.numpy import save_file

from pursuitnet.program import report, runs
from pursuitnet.program.lock import run_lock
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder

RECIPE = {"model": "msd_csc_6", "data": "digits", "epochs": 3}


def line(epoch, **more):
    return {"epoch": epoch, "train_loss": 2.0 / epoch, "test_accuracy": epoch / 8, "seconds": 1.5, **more}


def made(folder, done=3, *, finished=True, recipe=RECIPE):
    """Write a run's folder as the program leaves it."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    if done:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line(e)) + "\n" for e in range(1, done + 1)))
    if finished:
        save_file({"w": np.zeros(9, np.float32)}, folder / "model.safetensors")
        (folder / "record.json").write_text(json.dumps({"device": "cuda:1", "commit": "0123456789abcdef+changes"}))
    return folder


def mark(folder, **changes):
    given = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2030-01-01T00:00:00+00:00", **changes}
    (folder / "running.json").write_text(json.dumps(given))


def test_a_finished_run_says_its_last_accuracy_and_not_its_best(tmp_path):
    folder = made(tmp_path / "a")
    lines = [line(1), line(2, test_accuracy=0.875), line(3, test_accuracy=0.5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    run = runs.read(folder)
    assert (run.state, run.note, run.done, run.epochs) == ("finished", "", 3, 3)
    assert (run.test_accuracy, run.seconds, run.device) == (0.5, 4.5, "cuda:1")
    row = runs.table([run])[1].split()
    assert row == ["a", "msd_csc_6", "digits", "finished", "3/3", "50.00", "%", "4", "s", "cuda:1", "012345678+"]


def test_a_run_folder_reads_what_is_there_and_says_what_is_not_yet(tmp_path):
    run = RunFolder(made(tmp_path / "a", 0, finished=False))
    assert run.read_recipe() == Recipe(**RECIPE)
    assert run.read_epochs() == []
    with pytest.raises(FileNotFoundError, match=r"record\.json is missing; the run has not finished"):
        run.read_record()
    with pytest.raises(FileNotFoundError, match=r"holds no run: recipe\.json is missing"):
        RunFolder(tmp_path).read_recipe()
    made(tmp_path / "b", 2)
    assert [epoch["epoch"] for epoch in RunFolder(tmp_path / "b").read_epochs()] == [1, 2]
    assert RunFolder(tmp_path / "b").read_record()["device"] == "cuda:1"


def test_metrics_of_older_versions_are_read_under_the_names_of_now(tmp_path):
    old = {**line(1), "valid_loss": 1.5, "valid_accuracy": 0.5, "optimiser": 0.25}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + "\n")
    [epoch] = RunFolder(tmp_path).read_epochs()
    assert (epoch["val_loss"], epoch["val_accuracy"], epoch["optimizer"]) == (1.5, 0.5, 0.25)
    assert "valid_loss" not in epoch


def test_what_cannot_be_written_leaves_what_was_there_and_says_how_to_go_on(tmp_path, monkeypatch):
    run = RunFolder(made(tmp_path / "a"))
    before = {path: path.read_bytes() for path in run.path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"metrics\.jsonl cannot be written \(No space left on device\).*--resume"):
        run.write(run.metrics, "", previous=run.path / "kept")
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize("done", [0, 2, 3])
def test_a_run_without_its_weights_has_stopped(tmp_path, done):
    run = runs.read(made(tmp_path / "a", done, finished=False))
    assert (run.state, run.done, run.device, run.commit) == ("stopped", done, None, None)
    assert run.test_accuracy == (done / 8 if done else None)


def test_a_run_goes_on_while_its_process_lives_and_no_longer(tmp_path):
    folder = made(tmp_path / "a", 1, finished=False)
    with run_lock(folder), runs.running(folder, device="cpu"):
        assert json.loads((folder / "running.json").read_text())["pid"] == os.getpid()
        run = runs.read(folder)
        assert (run.state, run.note, run.device) == ("running", "", "cpu")
    assert not (folder / "running.json").exists()
    assert runs.read(folder).state == "stopped"
    mark(folder)
    assert (runs.read(folder).state, runs.read(folder).note) == ("stopped", "killed")  # though a process has its number


def test_a_resumed_run_is_running_though_its_folder_is_whole(tmp_path):
    with run_lock(made(tmp_path / "a")):
        assert runs.read(tmp_path / "a").state == "running"
    assert runs.read(tmp_path / "a").state == "finished"


def test_a_run_of_another_machine_is_judged_by_its_lock_too(tmp_path):
    folder = made(tmp_path / "a", 1, finished=False)
    mark(folder, host="elsewhere")
    with run_lock(folder):
        assert (runs.read(folder).state, runs.read(folder).note) == ("running", "on elsewhere")
    assert (runs.read(folder).state, runs.read(folder).note) == ("stopped", "killed")


def test_a_mark_without_a_machine_is_damage_and_no_riddle(tmp_path):
    folder = made(tmp_path / "a", 1, finished=False)
    (folder / "running.json").write_text(json.dumps({"pid": 1}))
    assert (runs.read(folder).state, runs.read(folder).note) == ("damaged", "running.json is damaged: host is None")


def test_a_failure_is_kept_until_the_run_is_taken_up_again_and_a_stop_is_none(tmp_path):
    folder = made(tmp_path / "a", 1, finished=False)
    with pytest.raises(FloatingPointError), runs.running(folder):
        raise FloatingPointError("the loss\nis nan")
    assert (runs.read(folder).state, runs.read(folder).note) == ("failed", "the loss is nan")
    with pytest.raises(InterruptedError), runs.running(folder, InterruptedError):
        raise InterruptedError("stopped")
    assert runs.read(folder).state == "stopped"
    with pytest.raises(KeyboardInterrupt), runs.running(folder):
        raise KeyboardInterrupt
    assert runs.read(folder).state == "stopped"
    assert {path.name for path in folder.iterdir()} == {"recipe.json", "metrics.jsonl"}


GOOD = json.dumps(line(1))
DAMAGES = {
    "no recipe": ("recipe.json", None, "recipe.json is missing"),
    "cut recipe": ("recipe.json", b'{"model": "m', "recipe.json is damaged"),
    "recipe without epochs": ("recipe.json", b'{"model": "m", "data": "d"}', "epochs is None"),
    "a list": ("recipe.json", b"[]", "holds no object"),
    "epochs of a truth": ("recipe.json", b'{"model": "m", "data": "d", "epochs": true}', "epochs is True"),
    "cut line": ("metrics.jsonl", f"{GOOD}\n{GOOD[:9]}".encode(), "metrics.jsonl, line 2 is damaged"),
    "no text": ("metrics.jsonl", b"\xff\xfe\x00", "can't decode"),
    "accuracy in words": ("metrics.jsonl", GOOD.replace("0.125", '"high"').encode(), "test_accuracy is 'high'"),
    "accuracy of NaN": ("metrics.jsonl", GOOD.replace("0.125", "NaN").encode(), "test_accuracy is nan"),
    "an epoch twice": ("metrics.jsonl", f"{GOOD}\n{GOOD}\n".encode(), "its epochs are 1, 1"),
    "too many epochs": ("recipe.json", b'{"model": "m", "data": "d", "epochs": 2}', "3 epochs of 2"),
    "deep nesting": ("recipe.json", b"[" * 100_000, "recursion"),
    "commit of a truth": ("record.json", b'{"commit": true}', "record.json is damaged: commit is True"),
    "device of a list": ("record.json", b'{"device": ["cpu"]}', "record.json is damaged: device is ['cpu']"),
    "a huge number": ("metrics.jsonl", GOOD.replace("1.5", "1" * 400).encode(), "seconds is 1111"),
    "rate in words": ("metrics.jsonl", GOOD.replace("}", ', "lr": "high"}').encode(), "lr is 'high'"),
    "deep record": ("record.json", b'{"a":' * 100_000, "record.json is damaged: it is nested too deeply"),
    "deep line": ("metrics.jsonl", b"[" * 100_000, "metrics.jsonl, line 1 is damaged: it is nested too deeply"),
    "mark of a number": (
        "running.json",
        b'{"pid": 1, "host": "h", "commit": 3}',
        "running.json is damaged: commit is 3",
    ),
    "cut weights": ("model.safetensors", b"\x40\0\0\0\0\0\0\0{}", "model.safetensors is damaged"),
    "no weights": ("model.safetensors", None, "model.safetensors"),
    "cut record": ("record.json", b"{", "record.json is damaged"),
    "cut mark": ("running.json", b"{", "running.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_a_line_with_the_reason(tmp_path, damage):
    name, content, reason = DAMAGES[damage]
    folder = made(tmp_path / "runs" / "a")
    made(tmp_path / "runs" / "b")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    found = runs.find_runs(tmp_path / "runs")
    assert [run.state for run in found] == ["damaged", "finished"]
    assert reason in found[0].note
    lines = runs.table(found)
    assert lines[1].startswith("a")
    assert reason in lines[1]
    assert len(lines) == 3


def test_weights_that_lack_their_end_are_damaged(tmp_path):
    weights = made(tmp_path / "a") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert runs.read(tmp_path / "a").state == "damaged"


def test_runs_are_found_below_in_the_order_of_their_names_each_once(tmp_path):
    for name in ("seed10", "seed2", "deep/er/x", "seed2/tensorboard/no-run"):
        made(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    made(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "y")
    (tmp_path / "linked").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    assert [run.name for run in runs.find_runs(tmp_path)] == ["deep/er/x", "linked/y", "seed2", "seed10"]
    assert [run.name for run in runs.find_runs(tmp_path / "seed2")] == ["seed2"]
    assert runs.find_runs(tmp_path / "empty") == []


def test_the_program_lists_runs_without_loading_torch(tmp_path):
    made(tmp_path / "runs" / "a")
    probe = "import sys; sys.argv = ['pursuitnet', 'runs']\nfrom pursuitnet.program.cli import main\n"
    probe += "try:\n    main()\nfinally:\n    assert not {'torch', 'matplotlib'} & set(sys.modules)"
    done = finished("-c", probe, cwd=tmp_path)
    assert "AssertionError" not in done.stderr
    assert "37.50 %" in done.stdout
    assert "--out" in done.stdout


def test_json_is_for_machines(tmp_path, monkeypatch, capsys):
    made(tmp_path / "a")
    made(tmp_path / "b", 0, finished=False)
    code, printed, _ = program(monkeypatch, capsys, "runs", tmp_path, "--json", "--out", tmp_path / "runs.html")
    found = json.loads(printed)
    assert code == 0
    assert [run["state"] for run in found] == ["finished", "stopped"]
    assert found[0]["test_accuracy"] == 0.375
    assert found[0]["commit"] == "0123456789abcdef+changes"
    assert found[1]["test_accuracy"] is None


def test_what_cannot_be_listed_or_drawn_ends_in_one_line(tmp_path, monkeypatch, capsys):
    code, _, said = program(monkeypatch, capsys, "runs", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere is not a folder" in said
    code, printed, _ = program(monkeypatch, capsys, "runs", tmp_path)
    assert code == 0
    assert printed.startswith("no runs below")
    made(tmp_path / "a", 0, finished=False)
    for name, reason in (("x.png", "no"), ("x.jpg", "expected one of them")):
        code, _, said = program(monkeypatch, capsys, "runs", tmp_path, "--out", tmp_path / name)
        assert code == 2
        assert reason in said
        assert said.count("\n") == 1


def test_the_picture_has_a_curve_a_run_in_both_and_a_name_each(tmp_path):
    names = ["lr_$\\frac{}{$", *(f"digits-model-seed{i}" for i in range(11))]
    found = [runs.read(made(tmp_path / f"run{i}", 1 + i % 3, finished=False), name) for i, name in enumerate(names)]
    report.write_comparison(tmp_path / "runs.html", found)
    page = (tmp_path / "runs.html").read_text()
    assert all(page.count(f"digits-model-seed{i}") == 2 for i in (0, 2, 10))  # in the picture and in the table
    assert "lr_$\\frac{}{$" in page
    assert page.count("1 of 3 epochs") == 4
    assert "<script" not in page
    picture = imread(report.write_comparison(tmp_path / "runs.png", found))
    from pursuitnet.program.report.compare import COLORS

    for color in COLORS:
        wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(picture[..., :3] - wanted).max(axis=-1) < 0.01).sum() > 50
