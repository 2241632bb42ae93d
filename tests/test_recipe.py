"""Recipes: by name, from files, on the command line, and what is refused."""

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pursuitnet.program import cli, train
from pursuitnet.program.recipe import RECIPES, Recipe
from pursuitnet.program.reproduce.ledger import identity
from pursuitnet.utils.records import settings_of


@pytest.fixture
def asked(monkeypatch):
    """What the program is asked to train, without training it."""
    monkeypatch.setattr("pursuitnet.program.report.page.write", lambda folder, *machine: folder)

    def ask(*arguments):
        got = []

        def take(recipe, *given, **options):
            got.append(recipe)
            return {"test_accuracy": 0.0, "epoch": 1}

        monkeypatch.setattr("pursuitnet.program.train.train", take)
        cli.app(
            ["train", *arguments, *([] if "--out" in arguments else ["--out", "nowhere"])],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        return got[0]

    return ask


def test_the_papers_recipes_have_its_numbers():
    residual, msd = Recipe.named("residual"), Recipe.named("msd")
    assert (residual.epochs, residual.batch_size, residual.momentum, residual.nesterov) == (200, 128, 0.9, True)
    assert (msd.epochs, msd.momentum, msd.nesterov) == (150, 0.9, False)
    ends = [(e, train.learning_rate(residual, e)) for e in (0.01, 100, 100.01, 150, 150.01, 200)]
    assert [rate for _, rate in ends] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    rates = [train.learning_rate(msd, e) for e in (0.01, 75, 75.01, 115, 115.01, 150)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])


def test_the_deep_recipe_warms_up_and_is_otherwise_the_papers():
    deep, residual = Recipe.named("residual_deep"), Recipe.named("residual")
    assert train.learning_rate(deep, 0.25) == pytest.approx(0.025)
    assert {f.name for f in fields(Recipe) if getattr(deep, f.name) != getattr(residual, f.name)} == {"model", "warmup"}


def test_one_cycle_rises_over_the_warmup_and_falls_to_zero():
    recipe = Recipe(schedule="onecycle", epochs=30, warmup=6, lr=0.4)
    assert [train.learning_rate(recipe, e) for e in (3, 6, 18, 30)] == pytest.approx([0.2, 0.4, 0.2, 0.0])
    short = Recipe(schedule="onecycle", epochs=5, warmup=6, lr=0.4)  # a fifth of the epochs at most
    assert [train.learning_rate(short, e) for e in (0.5, 1, 3, 5)] == pytest.approx([0.2, 0.4, 0.2, 0.0])
    assert train.learning_rate(Recipe(schedule="constant", warmup=0, lr=0.4), 9.9) == 0.4


@pytest.mark.parametrize("suffix", [".toml", ".yaml", ".yml", ".json"])
def test_a_file_is_a_recipe_and_what_is_given_beside_it_wins(tmp_path, asked, suffix):
    path = tmp_path / f"mine{suffix}"
    if suffix == ".toml":
        path.write_text('model = "msd_csc_9"\nlr = 1\ndrops = [0.25, 0.5]\nschedule = "steps"\nnesterov = false\n')
    elif suffix == ".json":
        path.write_text(
            json.dumps(
                {"model": "msd_csc_9", "lr": 1, "milestones": [0.25, 0.5], "schedule": "steps", "nesterov": False}
            )
        )
    else:
        path.write_text("model: msd_csc_9\nlr: 1\ndrops: [0.25, 0.5]\nschedule: steps\nnesterov: no\n")
    expected = Recipe(model="msd_csc_9", lr=1.0, milestones=(0.25, 0.5), schedule="steps", nesterov=False)
    assert Recipe.named(path) == expected == asked("--recipe", str(path))
    given = asked("--lr", "0.5", "--recipe", str(path), "--nesterov", "--milestones", "0.1")
    assert given == Recipe(model="msd_csc_9", lr=0.5, milestones=(0.1,), schedule="steps", nesterov=True)


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_on_the_command_line_is_that_of_the_library(asked, name):
    assert asked("--recipe", name) == Recipe.named(name)
    assert asked("--recipe", name, "--data", "digits", "--epochs", "3").epochs == 3


def test_the_recipe_of_a_run_is_a_recipe_again(tmp_path, asked):
    recipe = Recipe(data_dir=Path("here"), unfolding=2, milestones=(0.3,), label_smoothing=0.1, val_images=7)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    assert Recipe.named(tmp_path / "recipe.json") == recipe == asked("--recipe", str(tmp_path / "recipe.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "unknown field 'epoch'; did you mean epochs?"),
        ("xyz = 3", "unknown field 'xyz'; the fields are data, "),
        ('epochs = "three"', "epochs = 'three'; expected a whole number"),
        ("epochs = 3.5", "epochs = 3.5; expected a whole number"),
        ("lr = true", "lr = True; expected a number"),
        ('solver = "lars"', "solver = 'lars'; expected ista or fista"),
        ("drops = 0.5", "milestones = 0.5; expected a list of numbers"),
        ("drops = [0.5, 0.25]", "milestones are (0.5, 0.25); expected shares"),
        ("label_smoothing = 1.0", "label_smoothing is 1.0; expected"),
        ("lr = nan", "lr is nan; expected a number"),
        ("image_size = 32", "image_size is for a folder of images"),
        ("lr = 1" + "0" * 400, "expected a number"),
        ("drops = [1" + "0" * 400 + "]", "expected a number"),
        ("epochs = ", "cannot be read as a recipe"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe.named(path)


def test_a_list_and_broken_yaml_are_no_recipes(tmp_path):
    for text, message in (("- 1", "expected a table of fields"), ("a: [1", "cannot be read as a recipe")):
        (tmp_path / "wrong.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            Recipe.named(tmp_path / "wrong.yaml")
    with pytest.raises(FileNotFoundError, match=r"fsat is no recipe; did you mean fast\?"):
        Recipe.named("fsat")


def test_a_run_goes_on_with_its_own_recipe_on_another_machine():
    recipe = Recipe(epochs=30, data_dir=Path("there"))
    moved = recipe.resumed_with(Recipe(epochs=30, device="cpu", data_dir=Path("here")))
    assert moved == Recipe(epochs=30, data_dir=Path("here"), device="cpu")
    with pytest.raises(ValueError, match="leave out epochs, lr"):
        recipe.resumed_with(Recipe(lr=1.0))


@pytest.mark.parametrize(
    ("suffix", "text"), [(".json", '{"lr": 1e-05}'), (".yaml", "lr: 1e-05\n"), (".toml", "lr = 1e-05\n")]
)
def test_a_small_number_is_one_in_every_format_with_and_without_a_byte_order_mark(tmp_path, suffix, text):
    for mark in ("", "\ufeff"):
        (tmp_path / f"mine{suffix}").write_text(mark + text, encoding="utf-8")
        assert Recipe.named(tmp_path / f"mine{suffix}").lr == 1e-05


def test_numbers_in_yaml_are_those_of_its_version_1_2(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: 12:30:00\nb: 010\nc: 1E5\nd: -.5\ne: 3\nf: no\ng: .inf\nh: 2024-01-01\ni: 1e\n")
    assert settings_of(path, "settings") == {
        "a": "12:30:00", "b": 10, "c": 1e5, "d": -0.5, "e": 3, "f": False, "g": math.inf, "h": "2024-01-01", "i": "1e",
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"\xff\xfel\x00", b"lr: \xe9"])
@pytest.mark.parametrize("suffix", [".json", ".yaml", ".toml"])
def test_another_encoding_names_the_file(tmp_path, suffix, content):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine\{suffix} is damaged or not in UTF-8"):
        Recipe.named(path)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [(".json", "[" * 100_000), (".yaml", "a: " + "[" * 1000), (".toml", "a = " + "[" * 5000), (".json", "1" * 5000)],
)
def test_what_no_parser_takes_is_one_sentence(tmp_path, suffix, text):
    (tmp_path / f"deep{suffix}").write_text(text)
    with pytest.raises(ValueError, match=rf"deep\{suffix} cannot be read as a recipe: "):
        Recipe.named(tmp_path / f"deep{suffix}")


def test_a_seed_that_no_generator_takes_is_refused_at_once():
    for seed in (2**44, -(2**43) - 1):
        with pytest.raises(ValueError, match=rf"seed is {seed}; expected"):
            Recipe(seed=seed)
    for seed in (2**44 - 1, -(2**43)):
        torch.Generator().manual_seed(Recipe(seed=seed).seed * 1_000_003 + 10_000)


def test_a_shift_out_of_the_image_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="shift is 8; expected at most 7"):
        train.train(Recipe(shift=8, device="cpu"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_sign_of_the_penalty_and_the_dilations_are_options_that_leave_older_recipes_as_they_are(asked):
    recipe = asked("--model", "msd_csc_3", "--penalty", "free", "--dilations", "block", "--width", "1")
    assert recipe.choices() == {"penalty": "free", "dilations": "block", "width": 1}
    layers = train.model_of(recipe).pursuits()
    assert all(layer.threshold.free for layer in layers)
    assert [layer.dictionary.dictionary.dilation for layer in layers] == [(1, 1)] * 3
    assert {"penalty", "dilations"} <= set(identity(recipe))
    assert not {"penalty", "dilations"} & set(identity(Recipe(model="msd_csc_3")))
    assert not Recipe(model="msd_csc_3").choices()


@pytest.fixture
def resumed(tmp_path, asked):
    """What --resume trains where the run has 30 epochs, unlike the default, and was on another device."""
    run = Recipe(epochs=30, lr=0.1, nesterov=False, unfolding=2, device="cuda:1", data_dir=Path("there"))
    (tmp_path / "recipe.json").write_text(json.dumps(run.to_json()))
    return run, lambda *given: asked("--resume", *given, "--out", str(tmp_path))


def test_what_is_given_with_resume_is_given_whatever_its_value(resumed):
    run, resume = resumed
    assert resume() == run
    assert resume("--epochs", "30", "--lr", "0.1", "--no-nesterov") == run  # what it has already
    assert resume("--device", "auto") == replace(run, device="auto")  # the default, asked for
    assert resume("--device", "cpu", "--data-dir", "here") == replace(run, device="cpu", data_dir=Path("here"))
    plain = Recipe()
    for given in (["--epochs", str(plain.epochs)], ["--lr", str(plain.lr)], ["--nesterov"], ["--epochs", "11"]):
        with pytest.raises(ValueError, match=f"leave out {given[0][2:]}, or start another run"):
            resume(*given)
    with pytest.raises(ValueError, match="leave out"):
        resume("--recipe", "fast")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1.5}, "epochs = 1.5; expected a whole number"),
        ({"epochs": True}, "epochs = True; expected a whole number"),
        ({"unfolding": 2.5}, "unfolding = 2.5; expected a whole number"),
        ({"lr": "0.1"}, "lr = '0.1'; expected a number"),
        ({"lr": None}, "lr = None; expected a number"),
        ({"model": 6}, "model = 6; expected a word"),
        ({"milestones": 0.5}, "milestones = 0.5; expected a list of numbers"),
        ({"compile": "no"}, "compile = 'no'; expected true or false"),
        ({"solver": "lars"}, "solver = 'lars'; expected ista or fista"),
        ({"data_dir": 3}, "data_dir = 3; expected a path"),
    ],
)
def test_types_are_checked_where_a_recipe_is_made(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Recipe(**values)
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(Recipe(), **values)


def test_what_can_be_taken_is_taken():
    found = Recipe(epochs=np.int64(3), lr=np.float32(0.5), warmup=2, milestones=[0.25, 0.5], data_dir="here")
    assert found == Recipe(epochs=3, lr=0.5, warmup=2.0, milestones=(0.25, 0.5), data_dir=Path("here"))
    assert [type(getattr(found, name)) for name in ("epochs", "lr", "warmup", "milestones")] == [
        int,
        float,
        float,
        tuple,
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--epochs", "1.9"],
        ["train", "--unfolding", "2.5"],
        ["train", "--seed", "nan"],
        ["evaluate", "nothing", "--test-images", "20.5"],
        ["evaluate", "nothing", "--unfolding", "1.5"],
        ["inspect", "nothing", "--images", "6.4"],
        ["simulate", "fig4", "--seeds", "1.5"],
        ["reproduce", "table2", "--jobs", "1.5"],
        ["reproduce", "table2", "--seeds", "1.5"],
    ],
)
def test_a_fraction_is_no_whole_number_on_the_command_line(arguments):
    with pytest.raises(ValueError, match=rf"{arguments[-2]} is {arguments[-1]}; expected a whole number"):
        cli.app(arguments, exit_on_error=False, print_error=False)


PAGE = Path(__file__).parents[1] / "docs" / "training.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the repository, not the package")
@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_every_option_is_in_the_table_of_training(name):
    table = PAGE.read_text(encoding="utf-8").partition("## All options")[2].partition("\n## ")[0]
    assert f"`--{name.replace('_', '-')}`" in table
