"""Several processes that train one network: the same as one process, to rounding, and what happens when one goes."""

import contextlib
import json
import os
import socket
import sys

import pytest
import torch
from programs import finished, split_off
from safetensors.torch import load_file

from pursuitnet.program import cli, train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train.process_group import SINGLE_PROCESS, ProcessGroup, first_host, group_of

TINY = [
    *("--model", "msd_csc_3", "--width", "2", "--epochs", "2", "--train-images", "100", "--batch-size", "32"),
    *("--device", "cpu", "--test-images", "50"),
]


def launch(folder, *arguments, script=("-m", "pursuitnet", "train"), code=0):
    """Run two processes under torchrun and return what they said."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    found = finished(*torchrun, *script, *arguments, cwd=folder)
    assert (found.returncode == 0) == (code == 0), found.stdout + found.stderr
    return found.stdout + found.stderr


def assert_close(one, other):
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=2e-3, atol=2e-4)
    for a, b in zip(train.records(one), train.records(other), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-3)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process, for each norm."""
    folder, found = tmp_path_factory.mktemp("alone"), {}
    for norm in ("none", "batch"):
        tiny = {"width": 2, "epochs": 2, "train_images": 100, "test_images": 50, "batch_size": 32}
        train.train(Recipe(model="msd_csc_3", **tiny, device="cpu", norm=norm), folder / norm)
        found[norm] = folder / norm
    return found


def member(rank, port, folder, arguments):
    """Be one of two processes, as a launcher starts them, and leave what was said in a file beside the folder."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(folder)
    sys.argv = ["pursuitnet", "train", *arguments]
    with (folder.parent / f"said.{rank}").open("w") as said, contextlib.redirect_stdout(said):
        cli.main()


def pair(folder, *arguments):
    """Train with two processes that no launcher starts; return what each of them said."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    members = [split_off(member, rank, port, folder, arguments) for rank in range(2)]
    for process in members:
        process.join()
        assert process.exitcode == 0
    return [(folder.parent / f"said.{rank}").read_text() for rank in range(2)]


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_two_processes_are_one_to_rounding_and_the_first_alone_writes_and_speaks(tmp_path, alone, norm):
    work = tmp_path / "work"
    work.mkdir()
    first, second = pair(work, *TINY, "--norm", norm, "--sync-norm", "--out", "two")
    assert_close(work / "two", alone[norm])
    assert first.count("epoch 1/2") == 1 and first.count("report.html") == 1 and not second
    assert json.loads((work / "two" / "record.json").read_text())["processes"] == 2
    assert os.listdir(work) == ["two"]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe

inner = train.Trainer.check
def check(self, worst, epoch, step):
    inner(self, worst, epoch, step)
    if (self.group.rank, epoch, step) == (1, 2, 3):
        {what}
train.Trainer.check = check
from pursuitnet.program.cli import main
sys.argv[1:1] = ["train"]
main()
"""


@pytest.mark.slow
def test_a_process_that_dies_takes_the_job_down_and_another_number_goes_on(tmp_path, alone):
    script = tmp_path / "hurt.py"
    script.write_text(SCRIPT.format(what="os._exit(7)"))
    said = launch(tmp_path, *TINY, "--norm", "none", "--out", "run", script=[str(script)], code=1)
    assert said.count("has lost another one") == 1 and "--resume" in said
    assert len(train.records(tmp_path / "run")) == 1
    train.train(train.read_recipe(tmp_path / "run"), tmp_path / "run", resume=True)
    assert_close(tmp_path / "run", alone["none"])


@pytest.mark.slow
def test_one_process_told_to_stop_stops_all_at_the_same_step_and_they_go_on(tmp_path, alone):
    script = tmp_path / "hurt.py"
    script.write_text(SCRIPT.format(what="os.kill(os.getpid(), signal.SIGTERM)"))
    said = launch(tmp_path, *TINY, "--norm", "none", "--out", "run", script=[str(script)], code=1)
    assert "stopped after epoch" in said and "--resume" in said
    pair(tmp_path, "--out", "run", "--resume")
    assert_close(tmp_path / "run", alone["none"])


def test_the_place_that_a_launcher_gives():
    assert group_of({}) == SINGLE_PROCESS
    assert group_of({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == ProcessGroup(3, 8, 1)
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}
    assert group_of(step) == ProcessGroup(1, 2, 0)
    assert (
        group_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == SINGLE_PROCESS
    )  # a batch script that srun has not started
    for wrong in ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, {"WORLD_SIZE": "2"}):
        with pytest.raises(ValueError, match="expected whole numbers, the rank below the size"):
            group_of(wrong)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu[03-05,9],login1", "gpu03"),
        ("a1,a2", "a1"),
        ("rack[2,4]-ib", "rack2-ib"),
        ("n[12]", "n12"),
    ],
)
def test_the_first_machine_of_a_list(nodes, first):
    assert first_host(nodes) == first
