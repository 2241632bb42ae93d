"""The program as a user meets it: in a process of its own."""

import json
import shutil

import pytest
from programs import finished


def run(*arguments, cwd, code=0):
    """Run the program and return what it printed, or what it said about what went wrong."""
    done = finished("-m", "pursuitnet", *arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


TINY = ("--width", "4", "--epochs", "2", "--train-images", "300")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, run("train", *TINY, "--out", "one", cwd=folder)


def test_help_does_not_load_torch(tmp_path):
    probe = "import sys; sys.argv = ['pursuitnet', 'train', '--help']\nfrom pursuitnet.program.cli import main\n"
    probe += "try:\n    main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = finished("-c", probe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--unfolding" in done.stdout


def test_train_leaves_a_whole_run_folder(trained):
    folder, printed = trained
    names = {path.name for path in (folder / "one").iterdir()}
    assert names == {
        "recipe.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "checkpoint.previous.pt",
        "run.lock",
        "model.safetensors",
        "record.json",
        "report.html",
    }
    lines = (folder / "one" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert {"train_loss", "test_loss", "test_accuracy", "lr", "seconds"} <= set(json.loads(lines[0]))
    assert "epoch 2/2" in printed
    assert "\x1b" not in printed  # plain lines where there is no terminal


def test_evaluate_gives_the_same_accuracy_to_the_last_digit(trained):
    folder, _ = trained
    last = json.loads((folder / "one" / "metrics.jsonl").read_text().splitlines()[-1])
    assert repr(last["test_accuracy"]) in run("evaluate", "one", cwd=folder)


def test_an_existing_run_folder_is_left_as_it_is(trained):
    folder, _ = trained
    before = {path: path.read_bytes() for path in (folder / "one").iterdir()}
    said = run("train", *TINY, "--out", "one", cwd=folder, code=2)
    assert said.count("\n") == 1
    assert "one exists" in said
    assert before == {path: path.read_bytes() for path in (folder / "one").iterdir()}


def test_a_resumed_run_ends_as_the_uninterrupted_one(trained):
    folder, _ = trained
    run("train", *TINY[:2], "--epochs", "3", *TINY[4:], "--out", "long", cwd=folder)
    probe = (  # the same run, interrupted after its second epoch
        "import torch; from pathlib import Path\n"
        "from pursuitnet.program import train; from pursuitnet.program.recipe import Recipe\n"
        "r = Recipe(width=4, epochs=3, train_images=300)\n"
        "class Stop(train.Silent):\n"
        "    def epoch(self, record):\n"
        "        if record['epoch'] == 2: raise KeyboardInterrupt\n"
        "try: train.train(r, Path('cut'), Stop())\n"
        "except KeyboardInterrupt: pass\n"
    )
    assert finished("-c", probe, cwd=folder).returncode == 0
    assert not (folder / "cut" / "model.safetensors").exists()
    assert "--resume" in run("evaluate", "cut", cwd=folder, code=2)
    run("train", "--out", "cut", "--resume", cwd=folder)
    assert (folder / "cut" / "model.safetensors").read_bytes() == (folder / "long" / "model.safetensors").read_bytes()
    assert [(folder / f / "metrics.jsonl").read_text().count("\n") for f in ("cut", "long")] == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--modle", "x"], "--model"),
        (["train", "--model", "msd_csc_7"], "multiple of 3"),
        (["train", "--model", "alexnet"], "msd_csc_6"),
        (["train", "--data", "cifar11"], "cifar10"),
        (["train", "--data", "cifar10"], "--data-dir"),
        (["train", "--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
        (["train", "--data", "cifar10", "--data-dir", "."], "data_batch_1.bin"),
        (["train", "--unfolding", "-1"], "unfolding is -1"),
        (["train", "--epochs", "many"], "epochs"),
        (["train", "--solver", "adam"], "solver"),
        (["train", "--model", "resnet_20", "--unfolding", "2"], "no choice 'unfolding'"),
        (["train", "--resume"], "--out"),
        (["train", "--out", "nothing", "--resume"], "nothing"),
        (["train", "--device", "tpu"], "tpu"),
        (["evaluate", "nothing"], "holds no run"),
        (["evaluate"], "run"),
        (["tarin"], "tarin"),
    ],
)
def test_what_a_user_gets_wrong_ends_in_one_line_and_code_2(arguments, says, tmp_path):
    said = run(*arguments, cwd=tmp_path, code=2)
    assert said.startswith("pursuitnet: ")
    assert said.count("\n") == 1
    assert says.lower() in said.lower()
    assert not list(tmp_path.iterdir())


def test_a_damaged_weight_file_is_named(trained, tmp_path):
    shutil.copytree(trained[0] / "one", tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors is damaged" in run("evaluate", "run", cwd=tmp_path, code=2)


def test_models_lists_the_networks(tmp_path):
    assert "msd_csc_12" in run("models", cwd=tmp_path).splitlines()
