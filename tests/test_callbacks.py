"""Watchers: what they show of a run, and that none of them can end it."""

import io
import json
import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from programs import LoadedPython, started
from rich.console import Console

from pursuitnet.program import callbacks
from pursuitnet.program.callbacks.files import tag
from pursuitnet.program.callbacks.terminal import TimeEstimate
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train import train

TINY = Recipe(model="msd_csc_3", width=2, epochs=2, train_images=64, test_images=40, device="cpu")


def record(epoch, **more):
    return {"epoch": epoch, "train_loss": 2.0 / epoch, "test_loss": 2.5, "test_accuracy": 0.25, "seconds": 1.5, **more}


def about(folder, epochs=5):
    recipe = {"model": "msd_csc_6", "data": "digits", "epochs": epochs}
    rest = {"parameters": 1234, "device": "cpu", "images": [1000, 200], "steps": 10}
    return {"recipe": recipe, "folder": str(folder), **rest}


class Noted(callbacks.NoOpCallback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, about):
        self.calls.append("begin")

    def on_step_end(self, epoch, step, steps):
        self.calls.append((epoch, step, steps))

    def on_epoch_end(self, record):
        self.calls.append(record["epoch"])

    def close(self):
        self.calls.append("close")


class Failing(Noted):
    def __init__(self, error, where):
        super().__init__()
        self.error, self.where = error, where

    def on_epoch_end(self, record):
        super().on_epoch_end(record)
        if self.where == "epoch":
            raise self.error

    def close(self):
        super().close()
        if self.where == "close":
            raise self.error


def test_one_that_fails_is_left_out_with_one_warning_and_the_others_hear_all():
    first, failing, last = Noted(), Failing(OSError("no space\nleft on device"), "epoch"), Noted()
    several = callbacks.CallbackList([first, failing, last])
    several.on_train_begin({})
    with pytest.warns(UserWarning, match="Failing has failed and is removed: no space left on device") as warned:
        several.on_epoch_end({"epoch": 1})
    assert len(warned) == 1
    several.on_step_end(2, 1, 9)
    several.on_epoch_end({"epoch": 2})
    several.close()
    assert failing.calls == ["begin", 1, "close"]  # it may put its things in order
    assert first.calls == last.calls == ["begin", 1, (2, 1, 9), 2, "close"]


def test_an_interruption_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        callbacks.CallbackList([Failing(KeyboardInterrupt(), "epoch")]).on_epoch_end({"epoch": 1})


def test_closing_reaches_every_watcher():
    last = Noted()
    with pytest.warns(UserWarning, match="RuntimeError"):
        callbacks.CallbackList([Failing(RuntimeError(), "close"), last]).close()
    assert last.calls == ["close"]


def test_a_training_outlives_its_watchers(tmp_path):
    class Broken(callbacks.NoOpCallback):
        def on_step_end(self, epoch, step, steps):
            raise ZeroDivisionError("of the callback's own")

    with pytest.warns(UserWarning, match="of the callback's own"):
        last = train(TINY, tmp_path / "run", callbacks.CallbackList([Broken()]))
    assert last["epoch"] == 2


def test_lines_hold_what_there_is_and_nothing_else(capsys, tmp_path):
    lines = callbacks.ProgressLines()
    lines.on_train_begin(about(tmp_path, epochs=10))
    lines.on_epoch_end(record(1))
    lines.on_epoch_end(record(2, val_accuracy=0.5, images_per_second=1234.4))
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == f"msd_csc_6 on digits: 1,234 parameters, 1,000 images, cpu, into {tmp_path}"
    assert first == "epoch  1/10  train loss 2.0000  test loss 2.5000  test accuracy 25.00 %  1.5 s"
    assert "val accuracy 50.00 %  test accuracy 25.00 %  1234 images/s  1.5 s" in second


@pytest.fixture
def terminal():
    def make(width, encoding="utf-8"):
        file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        return Console(file=file, force_terminal=True, width=width, height=30, color_system=None)

    return make


def text_of(console):
    console.file.flush()
    return console.file.buffer.getvalue().decode(console.file.encoding)


def shown(console, what):
    """Return how something looks on such a terminal, without its controls."""
    other = Console(file=io.StringIO(), width=console.width, height=console.height, color_system=None)
    with other.capture() as capture:
        other.print(what)
    return capture.get()


def test_the_table_shows_the_last_epochs_and_both_bars(terminal, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record(e)) + "\n" for e in (1, 2)))
    console = terminal(100)
    live = callbacks.LiveProgress(console)
    live.on_train_begin(about(tmp_path, epochs=40))  # a run that goes on after its second epoch
    for epoch in range(3, 31):
        for step in (5, 10):
            live.on_step_end(epoch, step, 10)
        live.on_epoch_end(record(epoch, images_per_second=4321.0))
    table, bars = shown(console, live.table()), shown(console, live.bars())
    rows = [line.split() for line in table.splitlines()[1:]]
    assert [int(row[0]) for row in rows] == list(range(19, 31))
    assert rows[-1] == ["30", "0.0667", "2.5000", "25.00", "%", "4,321", "1.5"]
    assert "lr" not in table
    assert "epoch 30/40" in bars
    assert "75%" in bars
    assert "left" in bars
    live.close()
    assert text_of(console).rstrip().endswith("\x1b[?25h")
    assert "epoch 30/40" not in text_of(console)[-1500:]  # the bars are gone, the table stays
    assert "4,321" in text_of(console)[-1500:]


def test_a_narrow_terminal_keeps_epoch_and_accuracy_and_an_old_one_gets_plain_signs(terminal, tmp_path):
    console = terminal(30, "ascii")
    live = callbacks.LiveProgress(console)
    live.on_train_begin(about(tmp_path))
    live.on_epoch_end(record(1, images_per_second=10.0, lr=0.1))
    lines = shown(console, live.table()).splitlines()
    assert lines[0].split() == ["epoch", "test", "accuracy"]
    assert max(map(len, lines)) <= 30
    live.close()
    assert "25.00 %" in text_of(console)


def test_a_terminal_is_in_order_before_the_first_epoch_and_without_a_beginning(terminal, tmp_path):
    console = terminal(80)
    callbacks.LiveProgress(console).close()
    assert text_of(console) == ""
    live = callbacks.LiveProgress(console)
    live.on_train_begin(about(tmp_path))
    assert text_of(console).count("\x1b[?25h") == 1  # the cursor is seen even while the table lives
    live.close()
    live.close()
    assert not live.live.is_started


def test_the_table_takes_no_more_than_a_fiftieth_of_the_time(terminal, tmp_path, monkeypatch):
    now, drawn = [1000.0], []
    monkeypatch.setattr("pursuitnet.program.callbacks.terminal.time.monotonic", lambda: now[0])
    live = callbacks.LiveProgress(terminal(80))

    def update(*_, **__):
        drawn.append(live.place[1])
        now[0] += 0.015625

    monkeypatch.setattr(live.live, "update", update)
    live.on_train_begin(about(tmp_path))
    for step in range(1, 41):
        now[0] += 0.0625
        live.on_step_end(1, step, 40)
    assert drawn == [0, 13, 26, 39]


def test_the_time_left_counts_from_where_the_run_was_taken_up(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("pursuitnet.program.callbacks.terminal.time.monotonic", lambda: now[0])
    clock = TimeEstimate(epochs=10, images=1000)
    assert clock.left is None
    clock.update(6, 1, 10)  # the first step: half of the run was done before
    assert clock.left is None
    now[0] = 104.0
    clock.update(6, 5, 10)
    assert clock.rate == pytest.approx(100)  # 400 of 1000 images in 4 s
    assert clock.left == pytest.approx(4 / 0.04 * (1 - 0.55))
    now[0] = 110.0
    clock.update(7, 1, 10)
    assert clock.rate == pytest.approx(100)  # a new epoch is measured from its first step, not from the test before it


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    assert [tag.removesuffix("/text_summary") for tag in found.Tags()["tensors"]] == ["recipe"]
    return {name: [(e.step, round(e.value, 4)) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_tensorboard_reads_what_was_written_and_a_resumed_run_takes_back_what_it_does_again(tmp_path):
    pytest.importorskip("tensorboard")
    board = callbacks.TensorBoard()
    board.on_train_begin(about(tmp_path))
    for epoch in (1, 2, 3):
        board.on_epoch_end(record(epoch, lr=0.1, data=0.5, note="no number"))
    board.close()
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record(1)) + "\n")
    board = callbacks.TensorBoard()
    board.on_train_begin(about(tmp_path))
    board.on_epoch_end(record(2, lr=0.2))
    board.close()
    found = scalars(tmp_path / "tensorboard")
    assert found["run/lr"] == [(1, 0.1), (2, 0.2)]
    assert found["loss/train"] == [(1, 2.0), (2, 1.0)]
    assert set(found) == {"run/lr", "loss/train", "loss/test", "accuracy/test", "time/seconds", "time/data"}
    assert tag("val_accuracy") == "accuracy/val"


def test_tensorboard_that_is_not_installed_is_missed_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith(("tensorboard.", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"--tensorboard needs .*pip install 'pursuitnet\[tensorboard\]'"):
        callbacks.of_program(terminal=False, tensorboard=True)


def test_a_full_disk_costs_tensorboards_events_and_not_the_training(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    board = callbacks.TensorBoard()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board.open, "add_scalar", full)
    with pytest.warns(UserWarning, match="TensorBoard has failed and is removed: .*No space left") as warned:
        last = train(TINY, tmp_path / "run", callbacks.CallbackList([board]))
    assert last["epoch"] == 2
    assert len(warned) == 1


@pytest.fixture
def written(monkeypatch):
    """Count the pages, on a clock of the test's own; each takes a second."""
    calls, now = [], [1000.0]
    monkeypatch.setattr("pursuitnet.program.callbacks.files.time.monotonic", lambda: now[0])

    def write(folder, about, records, *, training):
        calls.append((len(records), training))
        now[0] += 1.0

    monkeypatch.setattr("pursuitnet.program.report.progress.write_progress", write)
    return calls, now


@pytest.mark.parametrize(("every", "expected"), [(0.0, [0, 5, 10]), (45.0, [0, 5, 10]), (95.0, [0, 10])])
def test_the_page_takes_no_more_than_a_fiftieth_of_the_time(tmp_path, written, every, expected):
    calls, now = written
    page = callbacks.ReportPage(every)
    page.on_train_begin(about(tmp_path, epochs=13))
    for epoch in range(1, 14):
        now[0] += 10.0
        page.on_epoch_end(record(epoch))
    assert [done for done, _ in calls] == expected
    page.close()
    page.close()
    assert calls[-1] == (13, False)
    assert [training for _, training in calls] == [True] * len(expected) + [False]


def test_the_page_knows_the_epochs_before_a_resumption_and_the_one_that_is_done_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record(e)) + "\n" for e in (1, 2)))
    page = callbacks.ReportPage()
    page.on_train_begin(about(tmp_path))
    page.on_epoch_end(record(2, lr=0.5))
    assert [r["epoch"] for r in page.records] == [1, 2]
    assert page.records[1]["lr"] == 0.5
    assert "epoch 2 of 5" in (tmp_path / "report.html").read_text()


def test_watchers_that_never_began_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callbacks.of_program(terminal=False).close()
    callbacks.of_program(terminal=True).close()
    assert not list(tmp_path.iterdir())


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(callbacks.of_program(terminal=True).callbacks[0], callbacks.ProgressLines)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(callbacks.of_program(terminal=True).callbacks[0], callbacks.LiveProgress)


def on_a_terminal(arguments, folder, until):
    """Run the program on a terminal of its own, interrupt it when it has said something; return code and output."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    said, streams = b"", dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    given = {"cwd": folder, "env": environment, "kind": LoadedPython}
    with started("-m", "pursuitnet", *arguments, **given, **streams) as process:
        os.close(theirs)
        asked = False
        while True:
            try:
                said += os.read(ours, 65536)
            except OSError:  # the other side has closed the terminal
                break
            if not asked and until in said:
                process.send_signal(signal.SIGINT)
                asked = True
        process.wait()
    os.close(ours)
    return process.returncode, said.decode()


def test_an_interrupted_run_leaves_terminal_and_page_in_order(tmp_path):
    arguments = [
        "train",
        "--model",
        "msd_csc_3",
        "--width",
        "2",
        "--epochs",
        "500",
        "--train-images",
        "64",
        "--out",
        "run",
    ]
    code, said = on_a_terminal(arguments, tmp_path, until=b"test accuracy")
    assert code == 130
    assert said.count("\x1b[?25l") < said.count("\x1b[?25h")
    assert said.rfind("\x1b[?25l") < said.rfind("\x1b[?25h")
    assert "--resume" in said[said.rfind("\x1b[?25h") :]  # the message stands below the table
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Stopped after epoch" in page
    assert "http-equiv" not in page
    assert not list(Path(tmp_path, "run").glob("*.new"))
