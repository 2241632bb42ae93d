"""One process at a run: whoever has it keeps it, and it is free as soon as that process is gone."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack

import pytest
from programs import started

from pursuitnet.program import lock, train
from pursuitnet.program.lock import LockedError, is_locked, run_lock
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.runs import read
from pursuitnet.program.train import loop

HOLD = """
import sys
from pathlib import Path
from pursuitnet.program.lock import run_lock

with run_lock(Path(sys.argv[1])):
    print("here", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Start a process that owns a folder, and wait until it does."""
    with ExitStack() as stack:

        def begin(folder):
            process = stack.enter_context(started("-c", HOLD, folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert process.stdout.readline() == "here\n"
            return process

        yield begin


def test_a_killed_process_frees_its_run_at_once_and_a_living_one_keeps_it(tmp_path, holder):
    folder = tmp_path / "run"
    process = holder(folder)
    assert is_locked(folder)
    with pytest.raises(LockedError, match="is being run by another process"), run_lock(folder, wait=0):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not is_locked(folder)
    with run_lock(folder, wait=0):
        assert is_locked(folder)
    assert not is_locked(folder)


def test_one_thread_owns_again_and_another_does_not(tmp_path):
    ends = []

    def other():
        try:
            with run_lock(tmp_path, wait=0):
                ends.append("owned")
        except LockedError as error:
            ends.append(str(error))

    with run_lock(tmp_path):
        with run_lock(tmp_path):
            pass
        lock.check_free(tmp_path)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert is_locked(tmp_path)
    assert len(ends) == 1 and "being run by another" in ends[0]
    assert not is_locked(tmp_path) and not is_locked(tmp_path / "nowhere")


def test_who_waits_gets_the_run_when_its_process_dies(tmp_path, holder, monkeypatch):
    process, sleep = holder(tmp_path), time.sleep

    def sleeping(seconds):  # which is how a lock is waited for: the process lives until then
        process.kill()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleeping)
    with run_lock(tmp_path, wait=600):
        assert process.wait() == -signal.SIGKILL


class Owned(train.NoOpCallback):
    """Looks after every epoch whether the run is owned."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_epoch_end(self, record):
        self.seen.append(is_locked(self.folder))


def test_a_run_is_not_trained_beside_a_living_one_and_is_owned_while_it_is_trained(tmp_path, holder, monkeypatch):
    folder = tmp_path / "run"
    process = holder(folder)
    recipe = Recipe(model="msd_csc_3", width=2, epochs=1, train_images=64)
    with monkeypatch.context() as patch:
        patch.setattr(run_lock.__wrapped__, "__defaults__", (0.1,))  # seconds to wait
        patch.setattr(
            "pursuitnet.program.train.loop.trainer_of", lambda *given, **options: pytest.fail("the images are read")
        )
        for resume in (False, True):
            with pytest.raises(LockedError, match="stop it first"):
                train.train(recipe, folder, resume=resume)
    assert list(folder.iterdir()) == [RunFolder(folder).lock]
    process.kill()
    process.wait()
    other = shutil.copytree(folder, tmp_path / "other")
    for left, resume in ((folder, False), (other, True)):
        watch = Owned(left)
        assert train.train(recipe, left, watch, resume=resume)["epoch"] == 1
        assert watch.seen == [True] and not is_locked(left)


def test_whose_folder_was_begun_meanwhile_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    recipe = Recipe(model="msd_csc_3", width=2, epochs=1, train_images=64)
    made = loop.trainer_of

    def late(*given, **options):
        monkeypatch.setattr("pursuitnet.program.train.loop.trainer_of", made)
        train.train(recipe, tmp_path / "run")  # another one is faster
        return made(*given, **options)

    monkeypatch.setattr("pursuitnet.program.train.loop.trainer_of", late)
    with pytest.raises(LockedError, match="just been started by another process"):
        train.train(recipe, tmp_path / "run")
    assert read(tmp_path / "run").state == "finished"


def test_a_folder_that_cannot_be_looked_at_counts_as_owned_while_it_says_so(tmp_path, monkeypatch):
    RunFolder(tmp_path).lock.touch()

    def closed(*given, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", closed)
    assert not is_locked(tmp_path)
    monkeypatch.undo()
    (tmp_path / "running.json").write_text(f'{{"pid": 1, "host": "{socket.gethostname()}"}}')
    monkeypatch.setattr(os, "open", closed)
    assert is_locked(tmp_path)
