"""experiments/gpu_minutes.py: what is cut off comes back as an archive, and the next call goes on from it."""

import argparse
import importlib
import json
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from programs import start_loaded

from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce import cells, jobs, plan
from pursuitnet.program.reproduce.cells import Cell

TINY = Recipe(model="msd_csc_3", width=2, epochs=2, train_images=64, test_images=40, batch_size=32, device="cpu")


@pytest.fixture
def gpu_minutes(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "experiments"), *sys.path])
    return importlib.import_module("gpu_minutes")


class StopAfterOne(train.NoOpCallback):
    def on_epoch_end(self, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt


def test_a_cell_that_was_cut_off_goes_on_in_the_next_call(gpu_minutes, tmp_path, monkeypatch):
    cell = Cell("MSD-CSC", 3, replace(TINY, unfolding=1, epochs=3), None)
    monkeypatch.setitem(cells.TABLES, "table3", lambda: (cell,))
    monkeypatch.setattr(gpu_minutes, "CELLS", (("table3", "msd_csc_3", 1),))
    start_loaded(monkeypatch, jobs)
    (run,) = plan.planned_runs([cell], 1, tmp_path, "cpu")
    first, second = tmp_path / "first" / "out", tmp_path / "second" / "out"
    begun = first.parent / "gpu-minutes" / "runs" / run.key
    with pytest.raises(KeyboardInterrupt):
        train.train(run.recipe, begun, StopAfterOne())
    call = ["gpu_minutes.py", "--only", "cells", "--device", "cpu", "--data", str(tmp_path)]

    monkeypatch.setattr(sys, "argv", [*call, "--minutes", "0.1", "--out", str(first)])  # no time but for packing
    gpu_minutes.main()
    assert len(list(first.iterdir())) <= 8
    with tarfile.open(first / "runs-1.tar") as archive:
        assert f"{run.key}/checkpoint.pt" in archive.getnames()

    monkeypatch.setattr(sys, "argv", [*call, "--minutes", "5", "--out", str(second), "--archive", str(first)])
    gpu_minutes.main()
    with tarfile.open(second / "records.tar") as archive:
        record = json.load(archive.extractfile(f"{run.key}.json"))
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2, 3]
    assert record["epochs"][0] == train.records(begun)[0]  # its seconds too: it was not trained again


def test_a_part_that_does_not_exist_and_missing_data_are_named(gpu_minutes, tmp_path, monkeypatch, capsys):
    for options, message in (
        (["--only", "test"], "--only has test; the parts are tests, benchmarks, medium, cells"),
        (["--only", "cells"], "need the folder of CIFAR-10"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu_minutes.py", "--minutes", "1", "--out", str(tmp_path), *options])
        with pytest.raises(SystemExit):
            gpu_minutes.main()
        assert message in capsys.readouterr().err


def test_a_command_that_takes_too_long_is_ended(gpu_minutes, tmp_path):
    said = []
    gpu_minutes.command([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "out.txt", 0, said.append)
    gpu_minutes.command([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "out.txt", 200, said.append)
    assert "cut off" in said[0] and "ended with 3" in said[1]


def test_as_many_runs_at_once_as_were_measured_to_be_best(gpu_minutes, tmp_path):
    arguments = argparse.Namespace(at_once=None, out=tmp_path, archive=[])
    assert gpu_minutes.sharing(arguments) == (8, False)
    rates = {"processes": {"1": 5.0, "4": 4.0}, "multi-process service": {"1": 4.0, "12": 9.0}}
    (tmp_path / "gpu.json").write_text(json.dumps({"throughput": rates}))
    assert gpu_minutes.sharing(arguments) == (12, True)
    arguments.at_once = 3
    assert gpu_minutes.sharing(arguments) == (3, False)
