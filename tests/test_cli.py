"""The program as a user meets it."""

import json
import re
import shutil

import pytest
from programs import LoadedPython, called, finished

from pursuitnet.program import cli, train
from pursuitnet.program.recipe import Recipe

TINY = ("--model", "msd_csc_3", "--width", "2", "--epochs", "2", "--train-images", "64", "--test-images", "40")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, called("train", *TINY, "--out", "one", cwd=folder)


HELP = """
import sys
from pursuitnet.program import cli

for command in sys.argv[1:]:
    sys.argv = ["pursuitnet", *command.split(), "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, command
    loaded = {"torch", "matplotlib", "scipy", "sklearn"} & set(sys.modules)
    assert not loaded, f"{command} --help loads {loaded}"
"""


def test_no_help_loads_torch(tmp_path):
    commands = ["", *(name for name in cli.app if not name.startswith("-"))]
    assert {"train", "inspect", "simulate"} <= set(commands)
    done = finished("-c", HELP, *commands, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(commands)
    assert all(option in done.stdout for option in ("--unfolding", "--variations", "--test-images"))


def test_the_list_of_commands_says_what_each_does(tmp_path):
    listed = finished("-m", "pursuitnet", "--help", cwd=tmp_path).stdout
    for name in cli.app:
        assert name.startswith("-") or re.search(rf" {name} +\w", listed), f"pursuitnet --help says nothing of {name}"


def test_the_module_is_the_program(tmp_path):
    done = finished("-m", "pursuitnet", "models", cwd=tmp_path, kind=LoadedPython)
    assert (done.returncode, done.stderr) == (0, "") and "msd_csc_12" in done.stdout.splitlines()
    done = finished("-m", "pursuitnet", "train", "--modle", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("pursuitnet: ")


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
    assert repr(last["test_accuracy"]) in called("evaluate", "one", cwd=folder)


def test_an_existing_run_folder_is_left_as_it_is(trained):
    folder, _ = trained
    before = {path: path.read_bytes() for path in (folder / "one").iterdir()}
    error_line = called("train", *TINY, "--out", "one", cwd=folder, code=2)
    assert error_line.count("\n") == 1
    assert "one exists" in error_line
    assert before == {path: path.read_bytes() for path in (folder / "one").iterdir()}


class Stop(train.NoOpCallback):
    """Interrupts a run after its second epoch."""

    def on_epoch_end(self, record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_as_the_uninterrupted_one(trained):
    folder, _ = trained
    recipe = Recipe(model="msd_csc_3", width=2, epochs=3, train_images=64, test_images=40)
    train.train(recipe, folder / "long")
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, folder / "cut", Stop())
    assert not (folder / "cut" / "model.safetensors").exists()
    assert "--resume" in called("evaluate", "cut", cwd=folder, code=2)
    called("train", "--out", "cut", "--resume", cwd=folder)
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
        (["evaluate", "nothing"], "nothing does not exist; name a run folder"),
        (["evaluate"], "run"),
        (["tarin"], "tarin"),
    ],
)
def test_what_a_user_gets_wrong_ends_in_one_line_and_code_2(arguments, says, tmp_path):
    error_line = called(*arguments, cwd=tmp_path, code=2)
    assert error_line.startswith("pursuitnet: ")
    assert error_line.count("\n") == 1
    assert says.lower() in error_line.lower()
    assert not list(tmp_path.iterdir())


def test_a_damaged_weight_file_is_named(trained, tmp_path):
    shutil.copytree(trained[0] / "one", tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors is damaged" in called("evaluate", "run", cwd=tmp_path, code=2)
