"""A run survives being killed, stopped, and damaged, and ends as if nothing had happened."""

import hashlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from programs import split_off
from safetensors.torch import load_file

from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.runs import read
from pursuitnet.program.train import StoppedError, checkpoints
from pursuitnet.program.train.checkpoint_manager import CheckpointManager
from pursuitnet.program.writable import temporary_path

TINY = Recipe(model="msd_csc_3", unfolding=0, width=2, epochs=3, train_images=9, test_images=4, batch_size=3)  # 9 steps
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train.train(TINY, folder)
    return folder


TIMES = ("seconds", "images_per_second", "data", "forward", "backward", "optimizer", "peak_memory_mb")


def assert_same_end(folder, whole):
    one, other = (load_file(f / "model.safetensors") for f in (folder, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    for mine, theirs in zip(train.records(folder), train.records(whole), strict=True):
        assert {k: v for k, v in mine.items() if k not in TIMES} == {k: v for k, v in theirs.items() if k not in TIMES}


class Interrupter(train.NoOpCallback):
    """Sends a signal to this very process after so many steps."""

    def __init__(self, after, number):
        self.left, self.number = after, number

    def on_step_end(self, epoch, step, steps):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("after", "number"), [(1, signal.SIGINT), (3, signal.SIGTERM), (5, signal.SIGINT)])
def test_a_signal_ends_the_run_after_its_step_and_resume_ends_the_same(tmp_path, whole, after, number):
    handler = signal.getsignal(number)
    with pytest.raises(StoppedError, match=r"continue with: pursuitnet train --out .* --resume") as stop:
        train.train(TINY, tmp_path / "run", Interrupter(after, number))
    assert stop.value.signal == number
    assert signal.getsignal(number) is handler
    train.train(TINY, tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", whole)


def trained_until(left, folder):
    """Train, and kill this process before it synchronizes or moves a file or takes a step for so many times."""

    def counted(function):
        def call(*given, **options):
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return call

    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    train.NoOpCallback.on_step_end = counted(train.NoOpCallback.on_step_end)
    train.train(TINY, folder, resume=folder.exists(), every=0.0 if left else 60.0)


def test_kills_anywhere_and_resume_end_the_same(tmp_path, whole):
    """Before files are synchronized and moved and after steps; the first ones before there is a checkpoint."""
    folder = tmp_path / "run"
    for left in (1, 3, 4, *random.Random(0).sample(range(5, 25), 3)):
        process = split_off(trained_until, left, folder)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert read(folder).state in ("stopped", "damaged")  # damaged where even its recipe was not yet there
    process = split_off(trained_until, 0, folder)
    process.join()
    assert process.exitcode == 0
    assert_same_end(folder, whole)


LEAVES = {
    "nothing": (),
    "a recipe": ("recipe.json",),
    "half a file": ("recipe.json", "checkpoint.pt.new", "running.json"),
    "half a recipe": ("recipe.json.new",),
    "half a mark": ("recipe.json", "running.json.new"),
    "a failure": ("recipe.json", "failed.json"),
    "half a failure": ("recipe.json", "running.json", "failed.json.new"),
}


@pytest.mark.parametrize(("left", "resume"), [("nothing", True), *((name, i % 2 > 0) for i, name in enumerate(LEAVES))])
def test_what_was_cut_off_before_its_first_checkpoint_begins_anew(tmp_path, whole, left, resume):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in LEAVES[left]:
        (folder / name).write_text(json.dumps(TINY.to_json()) if name == "recipe.json" else "{")
    train.train(TINY, folder, resume=resume)
    assert_same_end(folder, whole)


@pytest.mark.parametrize("name", ["notes.txt", "metrics.jsonl", "checkpoint.previous.pt", "model.safetensors"])
def test_a_folder_with_anything_else_is_not_begun_in(tmp_path, name):
    for left in ("recipe.json", name):
        (tmp_path / left).write_text("mine")
    with pytest.raises(FileExistsError, match="name another --out, or continue it with --resume"):
        train.train(TINY, tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"recipe.json": "mine", name: "mine"}


def test_a_full_disk_in_the_first_save_is_no_dead_end(tmp_path, monkeypatch, whole):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:  # recipe.json is written, the checkpoint is not
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="free some space, then --resume"):
            train.train(TINY, tmp_path / "run")
    train.train(train.read_recipe(tmp_path / "run"), tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_as_it_is(tmp_path, resume):
    (tmp_path / "recipe.json").write_text(json.dumps(TINY.to_json()))
    (tmp_path / "metrics.jsonl").write_text("mine")
    with pytest.raises(FileNotFoundError if resume else FileExistsError, match="another --out"):
        train.train(TINY, tmp_path, resume=resume)
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train.train(TINY, tmp_path / "nowhere", resume=True)


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, whole):
    with pytest.raises(StoppedError):
        train.train(TINY, tmp_path / "run", Interrupter(8, signal.SIGTERM))
    draw, last = random.Random(1), RunFolder(tmp_path / "run").checkpoint
    content = bytearray(last.read_bytes())
    content[draw.randrange(len(content))] ^= 0x40
    last.write_bytes(content)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged"):
        train.train(TINY, tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", whole)


def state_of(epoch, **other):
    """A state as small as it can be."""
    rest = {"step": 0, "count": 0, "total": torch.zeros(()), "metrics": ""}
    return {"epoch": epoch, **rest, **{name: {} for name in ("recipe", "model", "optimizer", "scaler")}, **other}


@pytest.mark.parametrize("seed", range(20))
def test_every_altered_or_cut_byte_of_a_checkpoint_is_noticed(tmp_path, seed):
    checkpoints.save(tmp_path, state_of(1, model={"w": torch.arange(50.0)}))
    path, draw = RunFolder(tmp_path).checkpoint, random.Random(seed)
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

    content = pickle.dumps({**state_of(1, model=Evil()), "total": None}, protocol=2)
    head = b"pursuitnet checkpoint, sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"
    RunFolder(tmp_path).checkpoint.write_bytes(head + content)
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(tmp_path, CPU)
    assert not (tmp_path / "executed").exists()


def test_a_whole_file_that_was_not_moved_yet_counts(tmp_path):
    for epoch in (1, 2):
        checkpoints.save(tmp_path, state_of(epoch))
    os.replace(RunFolder(tmp_path).checkpoint, temporary_path(RunFolder(tmp_path).checkpoint))
    assert checkpoints.load(tmp_path, CPU) == (state_of(2), [])
    temporary_path(RunFolder(tmp_path).checkpoint).write_bytes(b"pursuitnet checkpoint, sha2")
    assert checkpoints.load(tmp_path, CPU) == (state_of(1), [])


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, state_of(1))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"checkpoint\.pt cannot be written \(No space left on device\)"):
        checkpoints.save(tmp_path, state_of(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == [RunFolder(tmp_path).checkpoint.name]
    assert checkpoints.load(tmp_path, CPU)[0]["epoch"] == 1


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The folder of a run that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.raises(StoppedError):
        train.train(TINY, folder, Interrupter(5, signal.SIGTERM))
    return folder


@pytest.mark.parametrize("seed", range(4))
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


@pytest.mark.parametrize("seed", range(20))
def test_a_changed_byte_of_the_recipe_is_found_out_or_changes_nothing(cut, tmp_path, seed):
    folder, draw = shutil.copytree(cut, tmp_path / "run"), random.Random(seed)
    path = folder / "recipe.json"
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    try:
        recipe = train.read_recipe(folder)
        CheckpointManager(folder, train.Trainer(recipe), 60.0).reopen()
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
    [
        [],
        {},
        *({name: value for name, value in state_of(1).items() if name != lost} for lost in checkpoints.KINDS),
        *({**state_of(1), name: None} for name in checkpoints.KINDS),
        state_of("1"),
        state_of(1, model=[]),
    ],
)
def test_a_checkpoint_that_is_whole_and_no_state_is_damaged(tmp_path, state):
    checkpoints.save(tmp_path, state)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        checkpoints.load(tmp_path, CPU)


@pytest.mark.parametrize("lost", ["recipe", "metrics", "total"])
def test_a_run_goes_on_from_the_checkpoint_before_one_that_lacks_something(cut, whole, tmp_path, lost):
    folder = shutil.copytree(cut, tmp_path / "run")
    state, _ = checkpoints.load(folder, CPU)
    checkpoints.save(folder, {name: value for name, value in state.items() if name != lost})
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is damaged; going on from the other one"):
        train.train(TINY, folder, resume=True)
    assert_same_end(folder, whole)


@pytest.mark.parametrize("content", [b"", b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".", b"h\x05.", b"PK\x03\x04"])
def test_a_checkpoint_made_to_mislead_is_damaged(tmp_path, content):
    head = checkpoints._HEAD + hashlib.sha256(content).hexdigest().encode()
    (tmp_path / "checkpoint.pt").write_bytes(head + b"\n" + content)
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged"):
        checkpoints.load(tmp_path, CPU)
