"""A run survives being killed, stopped, and damaged, and ends as if nothing had happened."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pursuitnet import train
from pursuitnet.recipe import Recipe
from pursuitnet.train import StoppedError, checkpoints
from pursuitnet.train.keeper import Keeper

TINY = Recipe(model="msd_csc_3", width=4, epochs=3, train_images=256, batch_size=32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train.train(TINY, folder)
    return folder


TIMES = ("seconds", "images_per_second", "data", "forward", "backward", "optimiser", "peak_memory_mb")


def assert_same_end(folder, whole):
    one, other = (load_file(f / "model.safetensors") for f in (folder, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for mine, theirs in zip(train.records(folder), train.records(whole), strict=True):
        assert {k: v for k, v in mine.items() if k not in TIMES} == {k: v for k, v in theirs.items() if k not in TIMES}


class Interrupter(train.Silent):
    """Sends a signal to this very process after so many steps."""

    def __init__(self, after, number):
        self.left, self.number = after, number

    def batch(self, epoch, step, steps):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1, 8, 13])
def test_a_signal_ends_the_run_after_its_step_and_resume_ends_the_same(tmp_path, whole, after, number):
    handler = signal.getsignal(number)
    with pytest.raises(StoppedError, match=r"go on with: pursuitnet train --out .* --resume") as stop:
        train.train(TINY, tmp_path / "run", Interrupter(after, number))
    assert stop.value.signal == number
    assert signal.getsignal(number) is handler
    train.train(TINY, tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", whole)


def test_kills_at_random_moments_and_resume_end_the_same(tmp_path):
    recipe = Recipe(model="msd_csc_3", width=4, epochs=6, batch_size=16)
    began = time.monotonic()
    train.train(recipe, tmp_path / "whole")
    took = time.monotonic() - began
    script = (
        "import sys; from pathlib import Path; from pursuitnet import train; from pursuitnet.recipe import Recipe\n"
        "folder = Path(sys.argv[1]); resume = folder.exists()\n"
        f"recipe = {recipe!r}\n"
        "train.train(recipe, folder, resume=resume, every=0.01)\n"
    )
    draw, folder, kills = random.Random(0), tmp_path / "run", 0
    last = folder / "checkpoint.pt"
    for attempt in range(12):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stderr=subprocess.PIPE)
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns > before):
            time.sleep(0.001)  # until it has kept its first step
        try:
            process.wait(None if attempt == 11 else draw.uniform(0, took / 3))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        error = process.communicate()[1].decode()
        assert "Traceback" not in error, error
        if process.returncode == 0:
            break
    assert kills
    assert_same_end(folder, tmp_path / "whole")


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, whole):
    with pytest.raises(StoppedError):
        train.train(TINY, tmp_path / "run", Interrupter(20, signal.SIGTERM))
    draw, last = random.Random(1), tmp_path / "run" / checkpoints.LAST
    content = bytearray(last.read_bytes())
    content[draw.randrange(len(content))] ^= 0x40
    last.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged"):
        train.train(TINY, tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize("seed", range(20))
def test_every_altered_or_cut_byte_of_a_checkpoint_is_noticed(tmp_path, seed):
    checkpoints.save(tmp_path, {"epoch": 1, "step": 0, "model": {"w": torch.arange(50.0)}})
    path, draw = tmp_path / checkpoints.LAST, random.Random(seed)
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    if seed % 2:
        content[at] ^= 1 << draw.randrange(8)
    else:
        del content[at:]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        checkpoints.load(tmp_path, CPU)


def test_a_checkpoint_runs_no_code(tmp_path):
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    content = pickle.dumps({"epoch": 1, "step": 0, "model": Evil()}, protocol=2)
    head = b"pursuitnet checkpoint, sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"
    (tmp_path / checkpoints.LAST).write_bytes(head + content)
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(tmp_path, CPU)
    assert not (tmp_path / "executed").exists()


def test_a_whole_file_that_was_not_moved_yet_counts(tmp_path):
    for epoch in (1, 2):
        checkpoints.save(tmp_path, {"epoch": epoch, "step": 0})
    os.replace(tmp_path / checkpoints.LAST, tmp_path / (checkpoints.LAST + ".new"))
    assert checkpoints.load(tmp_path, CPU) == ({"epoch": 2, "step": 0}, [])
    (tmp_path / (checkpoints.LAST + ".new")).write_bytes(b"pursuitnet checkpoint, sha2")
    assert checkpoints.load(tmp_path, CPU) == ({"epoch": 1, "step": 0}, [])


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, {"epoch": 1, "step": 0})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written \(No space left on device\)"):
        checkpoints.save(tmp_path, {"epoch": 2, "step": 0})
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoints.LAST]
    assert checkpoints.load(tmp_path, CPU)[0]["epoch"] == 1


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The folder of a run that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(StoppedError):
        train.train(TINY, folder, Interrupter(12, signal.SIGTERM))
    return folder


@pytest.mark.parametrize("seed", range(6))
def test_damaged_metrics_are_put_back_from_the_checkpoint(cut, tmp_path, whole, seed):
    folder, draw = shutil.copytree(cut, tmp_path / "run"), random.Random(seed)
    path = folder / "metrics.jsonl"
    content = bytearray(path.read_bytes())
    if seed == 0:
        path.unlink()
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    train.train(TINY, folder, resume=True)
    assert_same_end(folder, whole)


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_byte_of_the_recipe_is_found_out_or_changes_nothing(cut, tmp_path, seed):
    folder, draw = shutil.copytree(cut, tmp_path / "run"), random.Random(seed)
    path = folder / "recipe.json"
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    try:
        recipe = train.read_recipe(folder)
        Keeper(folder, train.Trainer(recipe), 60.0).reopen()
    except (ValueError, OSError):  # damaged, changed, or the data are no longer where it says
        return
    assert not recipe.differs(TINY)


def test_a_recipe_changed_by_hand_is_named_on_resuming_and_on_reading(cut, whole, tmp_path):
    for source, call in ((cut, lambda f: train.train(train.read_recipe(f), f, resume=True)), (whole, train.load_run)):
        folder = shutil.copytree(source, tmp_path / source.parent.name)
        text = (folder / "recipe.json").read_text()
        (folder / "recipe.json").write_text(text.replace('"lr": 0.05', '"lr": 0.06'))
        with pytest.raises(ValueError, match=r"recipe\.json has been changed.*lr = 0\.05"):
            call(folder)


@pytest.mark.parametrize(
    "state",
    [[], {}, {"epoch": "1", "step": 0}, {"epoch": 1}, {"epoch": 1, "step": 0, "model": []}, {"epoch": 1, "step": None}],
)
def test_a_checkpoint_that_is_whole_and_no_state_is_damaged(tmp_path, state):
    checkpoints.save(tmp_path, state)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        checkpoints.load(tmp_path, CPU)


@pytest.mark.parametrize("content", [b"", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", b"h\x05.", b"PK\x03\x04"])
def test_a_checkpoint_made_to_mislead_is_damaged(tmp_path, content):
    head = checkpoints._HEAD + hashlib.sha256(content).hexdigest().encode()
    (tmp_path / "checkpoint.pt").write_bytes(head + b"\n" + content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        checkpoints.load(tmp_path, CPU)
