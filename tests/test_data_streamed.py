"""Folders of images that are read for every batch: the same batches, runs and identities as from memory."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from programs import LoadedPython, finished

import pursuitnet as pn
from pursuitnet import data
from pursuitnet.data import folder as folders
from pursuitnet.program import report, train
from pursuitnet.program.evaluation.evaluate_run import Settings, evaluate_run
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import weights
from pursuitnet.program.train.images import batches, images_of
from pursuitnet.program.whitebox.inspect_run import inspect_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name, low in (("cat", 0), ("dog", 128)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draw.integers(low, low + 128, (9, 10, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PURSUITNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def recipe_for(root, **choices):
    network = {"model": "msd_csc_3", "unfolding": 0, "width": 2, "normalize": True}
    given = {**network, "epochs": 2, "batch_size": 8, "device": "cpu", "image_size": 8}
    return Recipe(data="folder", data_dir=root, **{**given, **choices})


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("choices", [{}, {"val_images": 6, "train_images": 20, "test_images": 7}])
def test_streamed_images_are_those_in_memory(root, workers, choices):
    recipe = recipe_for(root, **choices)
    there = images_of(recipe, CPU)
    streamed = images_of(replace(recipe, in_memory=False, workers=workers), CPU)
    assert isinstance(streamed.train[0], data.Streamed) and isinstance(there.train[0], torch.Tensor)
    assert streamed.identity == there.identity
    assert torch.equal(streamed.mean, there.mean) and torch.equal(streamed.std, there.std)
    for split in ("train", "val", "test"):
        one, other = getattr(there, split), getattr(streamed, split)
        assert one[0].shape == other[0].shape and torch.equal(one[0], other[0].read()) and torch.equal(one[1], other[1])
    state = torch.random.get_rng_state()
    for skip in (0, 1):
        pairs = zip(batches(recipe, 2, there, skip), batches(recipe, 2, streamed, skip), strict=True)
        for (x, labels, n), (y, same, m) in pairs:
            assert torch.equal(x, y) and torch.equal(labels, same) and n == m and x.stride() == y.stride()
    assert torch.equal(state, torch.random.get_rng_state())


class Stop(train.NoOpCallback):
    def on_step_end(self, epoch, step, steps):
        if (epoch, step) == (2, 2):
            raise KeyboardInterrupt


def test_a_run_ends_the_same_from_memory_streamed_and_gone_on_with_the_other_way(root, tmp_path):
    recipe = recipe_for(root)
    pn.train(recipe, tmp_path / "memory")
    with pytest.raises(KeyboardInterrupt):
        pn.train(replace(recipe, in_memory=False, workers=1), tmp_path / "cut", Stop(), every=0.0)
    pn.train(replace(recipe, in_memory=True), tmp_path / "cut", resume=True)
    pn.train(replace(recipe, in_memory=False, workers=2), tmp_path / "streamed")
    one, *others = (weights.unpack(tmp_path / name / "model.safetensors")[0] for name in ("memory", "cut", "streamed"))
    assert all(torch.equal(one[name], other[name]) for other in others for name in one)
    hard = Settings(corruptions=("contrast",))
    found = [evaluate_run(tmp_path / name, hard) for name in ("memory", "streamed")]
    assert found[0].evaluation == found[1].evaluation and found[0].robustness == found[1].robustness
    assert inspect_run(tmp_path / "streamed", 1, 0, 6).labeled == 6
    assert report.write(tmp_path / "streamed").is_file()


def test_many_images_are_streamed_by_themselves(root, monkeypatch):
    recipe = recipe_for(root)
    monkeypatch.setattr(folders, "memory", lambda: 4 * 34 * 3 * 64)
    assert isinstance(images_of(recipe, CPU).train[0], torch.Tensor)
    monkeypatch.setattr(folders, "memory", lambda: 4 * 34 * 3 * 64 - 1)
    assert isinstance(images_of(recipe, CPU).train[0], data.Streamed)
    assert isinstance(images_of(replace(recipe, in_memory=True), CPU).train[0], torch.Tensor)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_named_or_left_out_as_in_memory(root, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("pursuitnet.data.streamed.BATCH", 8)  # a single batch is read without processes
    shutil.copytree(root, tmp_path / "data")
    path = tmp_path / "data" / "train" / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:-60])
    recipe = recipe_for(tmp_path / "data", in_memory=False, workers=workers)
    with pytest.raises(ValueError, match=r"cat/3\.png.*or pass skip_broken"):
        images_of(recipe, CPU)
    with pytest.warns(UserWarning, match="broken files left out of those to train on: 1"):
        left = images_of(replace(recipe, skip_broken=True), CPU)
    with pytest.warns(UserWarning, match="broken files left out"):
        there = images_of(replace(recipe, skip_broken=True, in_memory=True), CPU)
    assert left.identity == there.identity and len(left.train[1]) == 23


def test_the_program_streams_and_stops_in_good_order(root, tmp_path):
    arguments = ("--data", "folder", "--data-dir", root, "--image-size", 8, "--model", "resnet_8", "--width", 2)
    options = ("--batch-size", 8, "--epochs", 1, "--no-in-memory", "--workers", 2, "--device", "cpu")
    call = ("-m", "pursuitnet", "train", *arguments, *options, "--out", "run")
    done = finished(*call, cwd=tmp_path, kind=LoadedPython)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_folder_is_not_streamed():
    with pytest.raises(ValueError, match="workers is -1; expected at least 0"):
        Recipe(workers=-1)
    assert "in_memory" not in Recipe(in_memory=False).images()


def test_what_was_looked_at_once_is_not_read_again_until_a_file_changes(root, tmp_path, monkeypatch):
    shutil.copytree(root, tmp_path / "data")
    monkeypatch.setenv("PURSUITNET_CACHE", str(tmp_path / "cache"))
    recipe, read = recipe_for(tmp_path / "data", in_memory=False, workers=0, normalize=True), []
    load = folders._loaded
    monkeypatch.setattr(folders, "_loaded", lambda paths, decode, k: read.append(paths[k]) or load(paths, decode, k))
    first = images_of(recipe, CPU)
    assert len(read) == 24 + 10 + 24  # the identity of both splits, and the statistics
    read.clear()
    again = images_of(recipe, CPU)
    assert not read and again.identity == first.identity and torch.equal(again.std, first.std)
    images_of(replace(recipe, val_images=4), CPU)
    assert len(read) == 20  # other statistics of the same images
    path = tmp_path / "data" / "train" / "dog" / "0.png"
    Image.fromarray(np.full((9, 10, 3), 7, np.uint8)).save(path)
    changed = images_of(recipe, CPU)
    assert changed.identity.train != first.identity.train and changed.identity.test == first.identity.test
    for note in (tmp_path / "cache" / "decoded").glob("*.json"):
        note.write_text("{")
    assert images_of(recipe, CPU).identity == changed.identity
