"""A run and its data set: what was learned belongs to the run, wherever and however the data set is now."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs import program

import pursuitnet as pn
from pursuitnet import data
from pursuitnet.program import report, train
from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.ledger import key
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.sharing import weights
from pursuitnet.program.train import checkpoints
from pursuitnet.program.whitebox.inspect_run import inspect_run

CPU = torch.device("cpu")


def images(folder, count, low, high, seed=0, first=0):
    """Write gray images of 8 x 8 with levels in low..high."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([seed, low, first])
    for k in range(first, first + count):
        Image.fromarray(draw.integers(low, high, size=(8, 8), dtype=np.uint8)).save(folder / f"{k:03}.png")


def dataset(root, classes=(("cat", 0, 128), ("dog", 128, 256)), train=10, test=4):
    for name, low, high in classes:
        images(root / "train" / name, train, low, high)
        images(root / "test" / name, test, low, high, seed=1)
    return root


def recipe_for(root, **choices):
    network = {"model": "msd_csc_3", "unfolding": 0, "width": 2, "normalize": True}
    given = {**network, "epochs": 2, "batch_size": 8, "device": "cpu", "shift": 0, **choices}
    return Recipe(data="folder", data_dir=root, **given)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A data set of cats and dogs, a run finished on it, and one that was stopped after an epoch."""
    place = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PURSUITNET_CACHE", str(place / "cache"))
        recipe = recipe_for(dataset(place / "data"))
        train.train(recipe, place / "run")
        with pytest.raises(KeyboardInterrupt):
            train.train(recipe, place / "cut", Stop())
    return place


@pytest.fixture
def place(first, tmp_path):
    """A copy of it to change; the runs still say that their data are where they were."""
    shutil.copytree(first, tmp_path / "all")
    return tmp_path / "all"


class Stop(train.NoOpCallback):
    def on_epoch_end(self, record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt


def resume(place, **machine):
    recipe = replace(train.read_recipe(place / "cut"), data_dir=place / "data", **machine)
    return train.train(recipe, place / "cut", resume=True)


def evaluated(place, **settings):
    return evaluate_run(place / "run", Settings(**settings), data_dir=place / "data")


# the data set is another one now


def third(root):
    for split in ("train", "test"):
        images(root / split / "fox", 4, 0, 256)


def renamed(root):
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / "ant")


@pytest.mark.parametrize(("change", "name", "said"), [(third, "fox", "with class fox"), (renamed, "ant", "class dog")])
def test_classes_that_the_run_does_not_know_are_refused_everywhere(place, change, name, said):
    change(place / "data")
    for look in (evaluate_run, inspect_run, report.write):
        options = {"settings": Settings()} if look is evaluate_run else {}
        with pytest.raises(ValueError, match=rf"has class '{name}', which the run does not know; expected .*cat, dog"):
            look(place / "run", **options, data_dir=place / "data")
    with pytest.raises(ValueError, match=rf"is not what the run was trained on: .*{said}"):
        resume(place)


def added(root):
    images(root / "train" / "cat", 2, 0, 128, first=90)


def replaced(root):
    images(root / "train" / "cat", 1, 0, 128, seed=7)


def replaced_for_testing(root):
    images(root / "test" / "dog", 1, 128, 256, seed=7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (added, "22 images to train on instead of 20"),
        (replaced, r"other images to train on \(SHA-256 \w{8}… instead of \w{8}…\)"),
        (replaced_for_testing, r"other images to test on \(SHA-256"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(place, change, said):
    before = {path: path.read_bytes() for path in (place / "cut").iterdir()}
    change(place / "data")
    with pytest.raises(ValueError, match=rf"data is not what the run was trained on: {said}.*Put it back as it was"):
        resume(place)
    assert before == {path: path.read_bytes() for path in (place / "cut").iterdir()}


def test_a_run_goes_on_with_the_same_images_elsewhere_to_the_same_weights(place):
    assert train.read_recipe(place / "cut").data_dir != place / "data"
    resume(place)
    ends = [(place / name / "model.safetensors") for name in ("run", "cut")]
    one, other = (weights.unpack(path)[0] for path in ends)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_normalization_is_that_of_the_weights(place):
    known, before = pn.trained(place / "run"), evaluated(place)
    assert not before.notes
    images(place / "data" / "train" / "cat", 100, 0, 2, first=100)
    now = train.open_run(place / "run", place / "data").images
    assert torch.equal(now.mean, known.mean) and torch.equal(now.std, known.std)
    assert train.images_of(recipe_for(place / "data")).mean < 0.5 * known.mean
    after = evaluated(place)
    assert after.evaluation == before.evaluation and not after.notes  # the test images are the same


def test_other_test_images_are_said(place, capsys):
    images(place / "data" / "test" / "dog", 3, 128, 256, first=50)
    found = evaluated(place)
    assert found.notes == (f"{place / 'data'} is not what the run was trained on: 11 images to test on instead of 8",)
    assert found.notes[0] in list(found.lines())
    with pytest.warns(UserWarning, match="11 images to test on instead of 8"):
        inspect_run(place / "run", images=2, unfolding=0, data_dir=place / "data")
    with pytest.warns(UserWarning, match="11 images to test on instead of 8"):
        report.write(place / "run", place / "data")


def test_adaptation_says_that_the_clean_images_are_others(tmp_path):
    root = dataset(tmp_path / "data")
    train.train(recipe_for(root, model="msd_csc_3"), tmp_path / "run")
    added(root)
    settings = Settings(corruptions=("contrast",), adapt="usage")
    assert "22 images to train on instead of 20" in " ".join(evaluate_run(tmp_path / "run", settings).notes)
    assert not evaluate_run(tmp_path / "run", Settings()).notes


def test_classes_are_matched_by_name(tmp_path):
    classes = [("ant", 0, 60), ("cat", 90, 150), ("dog", 190, 256)]
    train.train(recipe_for(dataset(tmp_path / "three", classes)), tmp_path / "run")
    dataset(tmp_path / "two", classes[1:])
    opened = train.open_run(tmp_path / "run", tmp_path / "two")
    assert opened.images.test[1].unique().tolist() == [1, 2]
    level = opened.images.test[0].float().mean((1, 2, 3))
    assert (level[opened.images.test[1] == 1] < 150).all() and (level[opened.images.test[1] == 2] > 190).all()
    whole = train.open_run(tmp_path / "run").images.test
    same = whole[1] > 0
    expected = train.evaluate_split(opened.model, opened.images, (whole[0][same], whole[1][same]))[1]
    found = evaluate_run(tmp_path / "run", Settings(), data_dir=tmp_path / "two")
    assert found.evaluation.top1 == expected
    assert [
        name for name, share in zip(found.evaluation.classes, found.evaluation.per_class, strict=True) if share is None
    ] == ["ant"]
    assert "without class ant; 8 images to test on instead of 12" in found.notes[0]


def test_channels_that_the_network_does_not_take_are_refused_and_grey_is_a_color(tmp_path):
    root, gray = dataset(tmp_path / "color"), dataset(tmp_path / "gray")
    path = root / "train" / "cat" / "000.png"
    Image.open(path).convert("RGB").save(path)
    train.train(recipe_for(root), tmp_path / "color_run")
    train.train(recipe_for(gray), tmp_path / "gray_run")
    assert train.open_run(tmp_path / "color_run", gray).images.test[0].shape == (8, 3, 8, 8)
    with pytest.raises(ValueError, match=r"color have 3 channels; expected 1, as in training"):
        train.open_run(tmp_path / "gray_run", root)


def test_images_that_may_have_been_trained_on_are_said(tmp_path):
    for name, low, high in (("cat", 0, 128), ("dog", 128, 256)):
        images(tmp_path / "data" / name, 12, low, high)
    train.train(recipe_for(tmp_path / "data"), tmp_path / "run")
    images(tmp_path / "data" / "cat", 1, 0, 128, first=50)
    shutil.copy(tmp_path / "data" / "cat" / "050.png", tmp_path / "data" / "cat" / "000_.png")
    note = evaluate_run(tmp_path / "run", Settings()).notes[0]
    assert note.endswith("without a folder of their own, test images may be among those it was trained on")


# runs of older versions


def aged(folder):
    """Take away from a run what older versions did not write."""
    path = folder / "model.safetensors"
    if path.exists():
        state, about = weights.unpack(path)
        del about["data"]
        path.write_bytes(weights.pack(state, about))
    state = checkpoints.load(folder, CPU)[0]
    del state["data"]
    checkpoints.save(folder, state)
    RunFolder(folder).previous_checkpoint.unlink()


def test_runs_of_older_versions_are_read_with_a_warning_or_nothing(place):
    aged(place / "run")
    aged(place / "cut")
    assert pn.trained(place / "run").data is None
    assert evaluated(place).notes == ()
    with pytest.warns(UserWarning, match="does not say on which images it was trained; going on with those in"):
        resume(place)


def test_an_older_run_does_not_go_on_with_another_number_of_classes(place):
    aged(place / "cut")
    third(place / "data")
    with (
        pytest.warns(UserWarning, match="does not say on which images"),
        pytest.raises(ValueError, match="holds weights of another network than msd_csc_3: size mismatch for head"),
    ):
        resume(place)


def test_an_older_run_keeps_its_std(place):
    state, about = weights.unpack(place / "run" / "model.safetensors")
    del about["data"]
    (place / "run" / "model.safetensors").write_bytes(weights.pack(state, {**about, "std": [1e-6]}))
    assert train.open_run(place / "run", place / "data").images.std.tolist() == pytest.approx([1e-6])


def test_new_fields_leave_the_records_of_the_ledger_what_they_are():
    assert key(Recipe(data="cifar10"), "x") == key(Recipe.from_json({"data": "cifar10"}), "x")
    old = {name: value for name, value in Recipe().to_json().items() if name not in ("skip_broken", "white_level")}
    assert Recipe.from_json(old) == Recipe()
    assert key(Recipe(data="folder", skip_broken=True), "x") != key(Recipe(data="folder"), "x")


# the first so many


def test_every_beginning_of_a_stratified_order_holds_each_class_in_proportion():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = data.stratified(labels)
    assert sorted(order.tolist()) == list(range(100))
    for n in range(1, 101):
        counts = labels[order[:n]].bincount(minlength=3).double()
        assert (counts - n * torch.tensor([0.6, 0.3, 0.1]).double()).abs().max() <= 1.5
        assert n < 3 or counts.min() > 0
    assert torch.equal(order, data.stratified(labels))
    assert not torch.equal(order, data.stratified(labels, 1))
    assert order[:60].sort().values.tolist() != list(range(60))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("many") / "data", train=40, test=20)


def test_the_first_so_many_of_a_folder_are_of_all_classes(many):
    recipe = recipe_for(many, train_images=40, test_images=20, val_images=10)
    found = train.images_of(recipe)
    assert found.train[1].bincount().tolist() == [15, 15]
    assert found.val[1].bincount().tolist() == [5, 5]
    assert found.test[1].bincount().tolist() == [10, 10]
    for labels in (found.train[1], found.test[1]):
        assert all((labels[:n].double().mean() - 0.5).abs() <= 2 / n for n in range(1, len(labels)))
    assert (
        train.images_of(replace(recipe, seed=1)).test[0].equal(found.test[0])
    )  # seeds are compared on the same images
    assert not train.images_of(replace(recipe, seed=1)).val[0].equal(found.val[0])
    for seed in range(1, 6):
        held, kept = train.images.held_out(replace(recipe, seed=seed), torch.tensor([0, 1] * 20))
        assert (held % 2).sum() == 5 and len(kept) == 30
    less = train.images_of(replace(recipe, test_images=7)).test
    assert torch.equal(less[0], found.test[0][:7])


def test_evaluate_inspect_and_adapt_look_at_all_classes(many, tmp_path, monkeypatch):
    train.train(recipe_for(many, model="msd_csc_3", epochs=1), tmp_path / "run")
    found = evaluate_run(tmp_path / "run", Settings(test_images=20)).evaluation
    assert [sum(row) for row in found.confusion] == [10, 10]
    seen = {}
    monkeypatch.setattr(
        "pursuitnet.program.whitebox.inspect_run.inspect", lambda model, x, labeled, **_: seen.update(x=x, y=labeled)
    )
    inspect_run(tmp_path / "run", images=8, test_images=10)
    assert seen["y"][1].bincount().tolist() == [5, 5]
    assert sum(float(x.mean()) < 0.5 for x in seen["x"]) == 4

    class SeenError(Exception):
        pass

    def stop(clean, *_):
        raise SeenError(sum(float(x.float().mean()) < 128 for x in clean))

    monkeypatch.setattr("pursuitnet.program.evaluation.evaluate_run.Adaptation.to", stop)
    monkeypatch.setattr("pursuitnet.program.evaluation.evaluate_run.ADAPTATION_IMAGES", 20)
    with pytest.raises(SeenError, match="10"):
        evaluate_run(tmp_path / "run", Settings(corruptions=("contrast",), adapt="usage"))


def test_the_first_so_many_of_a_packaged_set_are_its_first():
    pixels, labels = data.load("digits")
    found = train.images_of(Recipe(train_images=50, test_images=30))
    assert torch.equal(found.train[0], pixels[:50]) and torch.equal(found.train[1], labels[:50])
    assert torch.equal(found.test[0], data.load("digits", split="test")[0][:30])


# elsewhere


def test_a_moved_run_goes_on_and_is_reported_evaluated_and_inspected(first, tmp_path, monkeypatch, capsys):
    shutil.copytree(first, tmp_path / "all")
    place, call = tmp_path / "moved", partial(program, monkeypatch, capsys)
    (tmp_path / "all").rename(place)
    for name in ("cut", "run"):  # as begun on a machine with two GPUs, where the data are no more
        values = json.loads((place / name / "recipe.json").read_text())
        values |= {"data_dir": str(tmp_path / "gone"), "device": "cuda:1"}
        (place / name / "recipe.json").write_text(json.dumps(values))
    data_dir = ("--data-dir", place / "data")
    for command in ("evaluate", "inspect"):
        code, _, said = call(command, place / "run", "--device", "cpu")
        assert code == 2 and f"are not in {tmp_path / 'gone'}: name their folder with --data-dir" in said
    assert call("train", "--out", place / "cut", "--resume", "--device", "cpu", *data_dir)[0] == 0
    assert (place / "cut" / "report.html").exists()
    assert train.read_recipe(place / "cut").data_dir == place / "data"
    assert call("evaluate", place / "cut")[0] == 0
    assert call("evaluate", place / "run", *data_dir, "--device", "cpu")[0] == 0
    assert call("inspect", place / "run", "--images", 2, "--unfolding", 0, *data_dir, "--device", "cpu")[0] == 0


def test_the_report_is_made_where_the_program_was_told_to_train(tmp_path, monkeypatch, capsys):
    got = []
    monkeypatch.setattr("pursuitnet.program.report.page.write", lambda *given: got.append(given) or given[0])
    monkeypatch.setattr("pursuitnet.program.train.train", lambda *given, **more: {"test_accuracy": 0.0, "epoch": 1})
    program(monkeypatch, capsys, "train", "--out", tmp_path / "run", "--device", "cpu", "--data-dir", tmp_path)
    assert got == [(tmp_path / "run", tmp_path, "cpu")]


def test_a_device_that_is_not_here_names_the_option(first, monkeypatch, capsys):
    code, _, said = program(monkeypatch, capsys, "evaluate", first / "run", "--device", "cuda:99")
    assert code == 2 and "device is 'cuda:99', which is not available here (--device names another)" in said


def test_a_relative_data_folder_works_from_elsewhere(tmp_path, monkeypatch):
    dataset(tmp_path / "here" / "data")
    monkeypatch.chdir(tmp_path / "here")
    train.train(recipe_for(Path("data")), Path("run"))
    assert train.read_recipe(Path("run")).data_dir == tmp_path / "here" / "data"
    monkeypatch.chdir(tmp_path)
    assert evaluate_run(Path("here", "run"), Settings()).evaluation.images == 8
    os.rename("here/data", "here/other")
    with pytest.raises(FileNotFoundError, match=r"are not in .*here/data: name their folder with --data-dir"):
        evaluate_run(Path("here", "run"), Settings())


# constant channels


@pytest.mark.parametrize("odd", [0, 1])
def test_a_channel_that_is_constant_up_to_rounding_is_divided_by_one(tmp_path, odd):
    root = dataset(tmp_path / "data")
    for path in root.rglob("*.png"):
        gray = np.asarray(Image.open(path))
        Image.fromarray(np.dstack([gray, np.full_like(gray, 40), gray])).save(path)
    if odd:
        path = root / "train" / "cat" / "001.png"
        pixels = np.array(Image.open(path))
        pixels[0, 0, 1] += 1
        Image.fromarray(pixels).save(path)
    found = train.images_of(recipe_for(root))
    assert found.std[1] == 1 and 0.2 < found.std[0] < 0.4
    level = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    low, high = (found.prepared(level + value)[0, 1].mean() for value in (40, 41))
    assert float(high - low) == pytest.approx(1 / 255, rel=1e-4) and abs(float(low)) < 1e-3


def test_small_deviations_that_are_none_of_rounding_stay():
    std = torch.tensor([0.0, 1e-6, 0.5 / 255 / 12**0.5, 1.01 / 255 / 12**0.5, 0.3])
    assert data.divisor(std).tolist() == [1, 1, 1, std[3].item(), std[4].item()]
