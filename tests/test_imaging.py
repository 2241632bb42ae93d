"""Images in, images out: files, training on them, and the program that applies what was trained."""

import itertools
import json
import os
import re
import shutil
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from programs import program

import pursuitnet as pn
from pursuitnet.program import sharing
from pursuitnet.program.apply import files as applying
from pursuitnet.program.apply.files import Settings, apply_to_files
from pursuitnet.program.callbacks.base import NoOpCallback
from pursuitnet.program.imaging import files, folders, measures
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.report import write_images
from pursuitnet.program.train import StoppedError, train
from pursuitnet.program.train.run import records
from pursuitnet.program.train.tasks import ImageTrainer, pictures_of
from pursuitnet.prox.norms import frozen_running_stats


def blobs(seed, size=(40, 36)):
    """A gray image of smooth blobs, uint8, and where they are bright."""
    draws = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    field = sum(np.cos(rows / draws.uniform(3, 9) + columns / draws.uniform(3, 9) + draws.uniform(0, 6)) for _ in "abc")
    return ((field + 3) / 6 * 255).astype(np.uint8), field > 0.3


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(7):
        Image.fromarray(blobs(i)[0]).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "images").mkdir()
    (folder / "targets").mkdir()
    for i in range(7):
        image, bright = blobs(i)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(np.where(bright, np.uint8(200), np.uint8(7))).save(folder / "targets" / f"{i}.tif")
    return folder


def denoising(folder, **choices):
    tiny = {"epochs": 1, "width": 4, "patch": 16, "batch_size": 4, "sigma": "25"}
    return Recipe(task="denoise", data="images", data_dir=folder, **{**tiny, **choices})


def of_pairs(task, folder, **choices):
    tiny = {"epochs": 2, "model": "msd_csc_3", "width": 2, "patch": 16, "batch_size": 4}
    return Recipe(task=task, data="images", data_dir=folder, **{**tiny, **choices})


@pytest.fixture(scope="module")
def runs(photographs, pairs, tmp_path_factory):
    """A trained run of every task."""
    folder = tmp_path_factory.mktemp("runs")
    train(denoising(photographs), folder / "denoise")
    train(of_pairs("segment", pairs), folder / "segment")
    train(of_pairs("regress", pairs), folder / "regress")
    return folder


DTYPES = {".png": ("uint8", "uint16"), ".tif": ("uint8", "uint16", "float32"), ".npy": ("uint8", "uint16", "float32")}


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3), (5, 9, 8), (2, 9, 8, 3)])
@pytest.mark.parametrize(
    ("ending", "dtype"), [(e, d) for e, ds in {**DTYPES, ".zarr": ("uint16",)}.items() for d in ds]
)
def test_what_is_written_is_read(tmp_path, shape, ending, dtype):
    array = (np.arange(np.prod(shape)).reshape(shape) * 37 % 251).astype(dtype)
    path, pages = tmp_path / f"image{ending}", files.as_pages(array, tmp_path)
    assert pages.shape == {2: (1, 9, 8, 1), 3: (1, 9, 8, 3), 4: (2, 9, 8, 3)}[len(shape)] or shape == (5, 9, 8)
    if ending == ".png" and (pages.shape[0] > 1):
        with pytest.raises(ValueError, match="cannot hold"):
            files.write(path, pages, shape)
        return
    files.write(path, pages, shape)
    found = files.read(path)
    assert found.dtype == array.dtype and np.array_equal(found, pages)
    assert files.shape_of(path) == shape
    with pytest.raises(FileExistsError):
        files.write(path, pages, shape)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def png16(pixels):
    """A PNG of 16 bits whose rows use the five filters of the format in turn, written out byte by byte."""
    height, width, channels = pixels.shape
    step, data = 2 * channels, b""
    rows = [[0] * (width * step), *(list(row.astype(">u2").tobytes()) for row in pixels)]
    for number, (above, row) in enumerate(itertools.pairwise(rows)):
        data += bytes([number % 5])
        for i, value in enumerate(row):
            left, up, corner = row[i - step] if i >= step else 0, above[i], above[i - step] if i >= step else 0
            nearest = min((left, up, corner), key=lambda v, p=left + up - corner: abs(p - v))  # Paeth
            data += bytes([(value - (0, left, up, (left + up) // 2, nearest)[number % 5]) % 256])
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_a_png_of_16_bits_with_colors_or_alpha_keeps_all_its_bits(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 65_536, (11, 7, channels)).astype(np.uint16)
    (tmp_path / "image.png").write_bytes(png16(pixels))
    colors = pixels[..., :1] if channels == 2 else pixels[..., :3]
    found = files.read(tmp_path / "image.png")
    assert found.dtype == np.uint16 and np.array_equal(found, colors[None])
    if channels == 3:
        files.write(tmp_path / "again.png", found, pixels.shape)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "again.png")), pixels >> 8)  # as Pillow reads it
        (tmp_path / "image.png").write_bytes(png16(pixels)[:-30])
        with pytest.raises(ValueError, match=r"image\.png cannot be read as an image"):
            files.read(tmp_path / "image.png")


def test_tiff_is_read_without_tifffile(tmp_path, monkeypatch):
    arrays = [np.arange(60, dtype=t).reshape(s) for t in ("uint8", "uint16", "float32") for s in ((10, 6), (2, 5, 6))]
    monkeypatch.setattr(files, "_optional_module", lambda name: None)
    for number, array in enumerate(arrays):
        path = tmp_path / f"{number}.tif"
        files.write(path, files.as_pages(array, path), array.shape)
        assert np.array_equal(files.read(path), files.as_pages(array, path))


def test_units_and_ranges_are_each_other_s_inverse():
    for dtype in ("uint8", "uint16", "float32", "bool"):
        array = np.array([[0, 1]], dtype) if dtype != "uint16" else np.array([[0, 40_000, 65_535]], dtype)
        assert np.array_equal(files.to_dtype(files.unit(array), dtype), array)
    assert files.to_dtype(np.float32([-1, 0.5, 2]), "uint8").tolist() == [0, 128, 255]


def test_measures_are_those_of_the_field():
    metrics = pytest.importorskip("skimage.metrics")
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 12, 12)
    assert measures.psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1))
    assert measures.ssim(a, b) == pytest.approx(
        metrics.structural_similarity(a[0].numpy(), b[0].numpy(), data_range=1), abs=1e-6
    )
    assert measures.ssim(a[:, :5], b[:, :5]) is None
    counted = measures.counts(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1]), 3)
    assert measures.dice(counted).tolist() == pytest.approx([2 / 3, 4 / 5, 1])
    assert measures.iou(counted).tolist() == pytest.approx([1 / 2, 2 / 3, 1])


def test_a_run_of_every_task_says_what_it_measured(runs):
    for task, keys in {
        "denoise": {"test_psnr", "test_ssim"},
        "segment": {"test_accuracy", "test_dice", "test_iou", "test_dice_of_classes"},
        "regress": {"test_psnr", "test_ssim"},
    }.items():
        last = records(runs / task)[-1]
        assert keys <= set(last), task
        page = write_images(runs / task).read_text()
        images = re.findall(r"<figure>\s*<img[^>]*alt=\"5.png\">\s*<figcaption>(.*?)</figcaption>", page)
        assert len(images) == 1 and "input, result, target" in images[0]
        assert page.count("<td>") > 8 and "What the layers explain" in page
    about = sharing.trained(runs / "segment")
    assert about.classes == ("7", "200") and about.targets["dtype"] == "uint8" and about.network.halo > 0
    assert records(runs / "denoise")[-1]["test_psnr"] > 22  # that of the noise is 20.2


def test_segmentation_is_learned(pairs, tmp_path):
    last = train(of_pairs("segment", pairs, epochs=7, lr=0.1), tmp_path / "run")
    assert last["test_dice"] > 0.9


def test_values_of_any_range_are_learned_and_given_back(pairs, tmp_path):
    """Temperatures of 273 to 373, say: the network returns 0 to 1, and the files hold what the targets do."""
    for kind in ("images", "targets"):
        (tmp_path / kind).mkdir()
    for path in (pairs / "images").iterdir():
        image = files.read(path)[0, ..., 0]
        np.save(tmp_path / "images" / f"{path.stem}.npy", image.astype(np.float32) * 3 - 100)
        np.save(tmp_path / "targets" / f"{path.stem}.npy", image.astype(np.float64) / 255 * 100 + 273)
    last = train(of_pairs("regress", tmp_path, epochs=6, lr=0.1), tmp_path / "run")
    assert last["test_psnr"] > 18  # of the best constant it is 17
    list(apply_to_files(tmp_path / "run", [tmp_path / "images" / "5.npy"], tmp_path / "out", Settings()))
    found, target = np.load(tmp_path / "out" / "5.npy"), np.load(tmp_path / "targets" / "5.npy")
    assert found.dtype == np.float64 and np.abs(found - target).mean() < 12


def test_balanced_labels_count_the_same(pairs):
    trainer = ImageTrainer(of_pairs("segment", pairs, balance="weights"))
    labels = torch.cat([trainer.pictures.target(pair.target).flatten() for pair in trainer.pictures.train[0]])
    shares = [float(trainer.weights[k] * (labels == k).float().mean()) for k in (0, 1)]
    assert shares == pytest.approx([0.5, 0.5])
    (image,), target, _ = next(trainer.batches(1, 0))
    logits = trainer.model.train()(image)
    each = torch.nn.functional.cross_entropy(logits, target[:, 0], reduction="none")
    weights = trainer.weights[target[:, 0]]
    with frozen_running_stats(trainer.model):
        found = trainer._loss(trainer.model, (image,), target)
    torch.testing.assert_close(found, (weights * each).sum() / weights.sum())


def test_a_denoiser_for_a_range_of_noise(photographs, tmp_path):
    recipe = denoising(photographs, sigma="5-55", model="csc_denoiser")
    trainer = ImageTrainer(recipe)
    (noisy, sigma), clean, count = next(trainer.batches(1, 0))
    assert noisy.shape == clean.shape == (4, 1, 16, 16) and count == 4
    assert 5 / 255 <= sigma.min() < sigma.max() <= 55 / 255
    assert float((noisy - clean).std()) == pytest.approx(float(sigma.square().mean().sqrt()), rel=0.2)
    assert trainer.tested_noise == 25 / 255


def test_a_batch_depends_on_seed_epoch_and_number_alone(photographs):
    trainer = ImageTrainer(denoising(photographs))
    all_of_them = list(trainer.batches(2, 0))
    for ((noisy, _), clean, _), ((again, _), same, _) in zip(all_of_them[2:], trainer.batches(2, 2), strict=True):
        assert torch.equal(noisy, again) and torch.equal(clean, same)
    assert not torch.equal(all_of_them[0][1], next(trainer.batches(3, 0))[1])


def test_a_run_goes_on_to_the_same_weights(photographs, tmp_path):
    recipe = denoising(photographs, epochs=2, width=2, train_images=3)
    train(recipe, tmp_path / "whole")

    class Stop(NoOpCallback):
        """Asks the run to stop in its second epoch, as a signal does."""

        def on_step_end(self, epoch, step, steps):
            if (epoch, step) == (2, 3):
                os.kill(os.getpid(), 15)

    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "broken", Stop())
    train(recipe, tmp_path / "broken", resume=True)
    whole, broken = (pn.load(tmp_path / name).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_pairs_are_drawn_together_and_turned_alike(pairs):
    trainer = ImageTrainer(of_pairs("regress", pairs))
    (image,), target, _ = next(trainer.batches(1, 0))
    bright = image > (0.3 + 3) / 6
    near = (image - (0.3 + 3) / 6).abs() > 0.01
    assert torch.equal(bright[near], (target > 0.5)[near])


def test_images_without_folders_of_their_own_are_held_out(photographs, pairs):
    train_, test = folders.splits(photographs, paired=False, gray=True)
    assert [p.name for p in test] == ["5.png"] and len(train_) == 6
    train_, test = folders.splits(pairs, paired=True, gray=False)
    assert [p.name for p in test] == ["5.png"]


def test_so_many_of_a_folder_or_of_a_stack_are_a_fixed_random_choice(tmp_path):
    """As of what a microscope takes: in the order of time, dark images first."""
    for split, number in (("train", 3), ("test", 1)):
        (tmp_path / split).mkdir()
        for i in range(number):
            pages = [Image.fromarray(np.full((12, 12), 16 * (8 * i + j) % 256, np.uint8)) for j in range(8)]
            pages[0].save(tmp_path / split / f"{i}.tif", save_all=True, append_images=pages[1:])
    one, again = (pictures_of(denoising(tmp_path, patch=8, train_images=8, test_images=4)) for _ in range(2))
    assert [len(split[0]) for split in (one.train, one.test)] == [8, 4] and one.identity == again.identity
    names = [pair.name for pair in one.train[0]]
    assert len(set(names)) == 3
    gray = [int(pair.image.max()) for pair in one.test[0]]
    assert len(set(gray)) == 4 and max(gray) >= 64  # not the first four
    whole = pictures_of(denoising(tmp_path, patch=8, train_images=99))
    assert [pair.name for pair in whole.train[0]] == [f"{i}.tif" for i in range(3) for _ in range(8)]


def test_pages_of_a_tiff_are_images_and_16_bits_keep_their_range(tmp_path):
    stack = np.stack([blobs(i)[0].astype(np.uint16) * 16 for i in range(4)])
    files.write(tmp_path / "stack.tif", stack[..., None], stack.shape)
    pictures = pictures_of(denoising(tmp_path, patch=8))
    assert len(pictures.train[0]) == 3 and len(pictures.test[0]) == 1
    images = [pictures.image(pair.image) for pair in pictures.train[0]]
    assert min(float(i.min()) for i in images) == pytest.approx(0, abs=1e-6)
    assert max(float(i.max()) for i in images) == pytest.approx(1)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"sigma": None}, "sigma is None; expected one to denoise"),
        ({"sigma": "fast"}, "expected a number ≥ 0 such as 25, or a range such as 5-55"),
        ({"sigma": "55-5"}, "expected a number ≥ 0"),
        ({"task": "segment"}, "and none otherwise"),
        ({"task": "classify"}, "task is classify and data is images"),
        ({"data": "digits"}, "task is denoise and data is digits"),
        ({"data_dir": None}, "expected the folder of the images"),
        ({"balance": "weights"}, "expected weights or sampler to classify"),
        ({"normalize": True, "shift": 2}, "shift and normalize cannot be chosen for the task denoise"),
        ({"model": "csc_denoiser", "freeze_backbone": True}, "freeze_backbone cannot be chosen for the task denoise"),
        (
            {"dilations": "block"},
            "dilations is 'block'; expected whole numbers from 1 to 32767, as a list such as 1,2,4,8",
        ),
        (
            {"dilations": "4-1"},
            "expected whole numbers from 1 to 32767, as a list such as 1,2,4,8 or a range such as 1-10",
        ),
        ({"dilations": "0-3"}, "expected whole numbers from 1"),
        ({"dilations": "1,,2"}, "expected whole numbers from 1"),
        ({"dilations": ""}, "expected whole numbers from 1"),
        ({"dilations": "5-"}, "expected whole numbers from 1"),
        ({"dilations": "1-2-3"}, "expected whole numbers from 1"),
        ({"dilations": "1-999999999999"}, "expected whole numbers from 1"),
        ({"margin": 0.1, "temperature": 0.5}, "margin and temperature cannot be chosen"),
        ({"class_weights": (1.0, 2.0)}, "class_weights cannot be chosen"),
        ({"padding_mode": "reflect"}, "padding_mode cannot be chosen"),
    ],
)
def test_recipes_that_cannot_be_are_refused(photographs, choices, said):
    with pytest.raises(ValueError, match=said):
        replace(denoising(photographs), **choices)


def test_a_recipe_of_a_task_has_its_own_defaults(photographs):
    recipe = Recipe(task="denoise", data="images", data_dir=photographs, sigma="25")
    assert (recipe.model, recipe.optimizer, recipe.batch_size) == ("csc_denoiser", "adam", 8)
    assert Recipe.from_json(recipe.to_json()) == recipe
    named = Recipe(task="segment", data="images", data_dir=photographs, model="msd_csc_6")
    assert named.model == "msd_csc_6"
    assert (Recipe().model, Recipe().optimizer, Recipe().lr) == ("msd_csc_6", "sgd", 0.05)
    assert type(Recipe().model) is str
    assert replace(recipe, sigma=25) == recipe


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("2,5", [2, 5, 2]), ("3-4", [3, 4, 3]), ([1, 8], [1, 8, 1]), ("1-2,9", [1, 2, 9]), (7, None)],
)
def test_the_dilations_of_a_recipe_are_those_of_the_network(pairs, tmp_path, chosen, expected):
    if expected is None:
        with pytest.raises(ValueError, match="dilations = 7; expected a word"):
            of_pairs("segment", pairs, dilations=chosen)
        return
    recipe = of_pairs("segment", pairs, dilations=chosen)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json() | {"dilations": chosen}))
    assert Recipe.named(tmp_path / "recipe.json") == recipe == Recipe.from_json(recipe.to_json())
    layers = ImageTrainer(recipe).model.pursuits()
    assert [layer.dictionary.dictionary.dilation[0] for layer in layers] == expected


def test_weights_of_classes_are_those_of_labels(pairs):
    """Only their ratio counts in the loss, which is a weighted mean."""
    weights = ImageTrainer(of_pairs("segment", pairs, class_weights=(1.0, 3.0))).weights
    assert weights[1] == pytest.approx(3 * weights[0])
    with pytest.raises(ValueError, match="there are 3 class_weights; expected 2, one a class"):
        ImageTrainer(of_pairs("segment", pairs, class_weights=(1.0, 3.0, 1.0)))


@pytest.mark.parametrize("task", ["segment", "regress", "denoise"])
def test_training_starts_from_the_weights_of_a_run(runs, pairs, photographs, task, tmp_path):
    first = pn.trained(runs / task)
    begun = {"init": str(runs / task), "epochs": 1}
    recipe = denoising(photographs, **begun) if task == "denoise" else of_pairs(task, pairs, **begun)
    at_first, others = first.network.state_dict(), ImageTrainer(recipe, fresh=False).model.state_dict()
    found = ImageTrainer(recipe).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in at_first.items())
    assert not all(torch.equal(others[name], value) for name, value in at_first.items())
    if task != "denoise":
        train(replace(recipe, freeze_backbone=True), tmp_path / "head")
        trained_head = pn.trained(tmp_path / "head").network.state_dict()
        assert {name.split(".")[0] for name in found if not torch.equal(trained_head[name], found[name])} == {"head"}


def test_weights_of_other_dilations_are_refused(runs, pairs):
    """They have the same shapes, and would be of another network."""
    with pytest.raises(ValueError, match=r"is a network of .* asks for .*--dilations 2,5.*: expected the same"):
        ImageTrainer(of_pairs("segment", pairs, init=str(runs / "segment"), dilations="2,5"))
    ImageTrainer(of_pairs("segment", pairs, init=str(runs / "segment"), dilations="1-3"))  # those of its three layers


def test_a_run_that_starts_from_another_keeps_its_scales_and_is_resumed_and_reported_with_them(runs, pairs, tmp_path):
    """Weights that were learned for pixels and targets on one scale would be wrong on another."""
    for kind in ("images", "targets"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for path in (pairs / kind).iterdir():
            np.save(tmp_path / "data" / kind / f"{path.stem}.npy", files.read(path)[0].astype(np.float32) / 100 - 0.5)
    recipe = of_pairs("regress", tmp_path / "data", epochs=1)
    train(recipe, tmp_path / "first")
    first = pn.trained(tmp_path / "first")
    for path in (tmp_path / "data" / "targets").iterdir():
        np.save(path, 3 * np.load(path) + 1)
    again = replace(recipe, init=str(tmp_path / "first"))
    own = ImageTrainer(recipe).pictures.scale
    assert own != (first.targets["low"], first.targets["high"]) == ImageTrainer(again).pictures.scale
    train(again, tmp_path / "one")
    long = replace(again, epochs=2)
    expected = train(long, tmp_path / "two")

    class Stop(NoOpCallback):
        def on_epoch_end(self, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(long, tmp_path / "cut", Stop())
    shutil.rmtree(tmp_path / "first")  # what it has learned from is not needed any more
    found = train(long, tmp_path / "cut", resume=True)
    assert found["test_psnr"] == expected["test_psnr"]
    assert pn.trained(tmp_path / "cut").targets == first.targets
    assert write_images(tmp_path / "cut").exists()


def test_the_boundary_of_a_run_is_chosen_and_kept(pairs, tmp_path):
    recipe = replace(of_pairs("segment", pairs), model="msd_csc_4", boundary="reflect", epochs=1, train_images=2)
    train(recipe, tmp_path / "run")
    layers = sharing.trained(tmp_path / "run").network.pursuits()
    assert all(isinstance(layer.dictionary.dictionary, pn.ReflectingDictionary) for layer in layers)
    with pytest.raises(ValueError, match="msd_csc_3 has no choice 'boundary'"):
        train(Recipe(model="msd_csc_3", boundary="reflect", device="cpu"), tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_folders_that_do_not_fit_are_refused(tmp_path, pairs):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        pictures_of(denoising(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="holds no images"):
        pictures_of(denoising(tmp_path))
    Image.fromarray(blobs(0)[0]).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="expected two at least"):
        pictures_of(denoising(tmp_path))
    (tmp_path / "two.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"two\.png cannot be read as an image"):
        pictures_of(denoising(tmp_path))
    (tmp_path / "two.png").rename(tmp_path / "two.HEIC")
    with pytest.raises(ValueError, match=r"two\.HEIC cannot be read as an image \(HEIC is not read\)"):
        pictures_of(denoising(tmp_path))
    with pytest.raises(ValueError, match="model is csc_denoiser, which denoises"):
        ImageTrainer(of_pairs("segment", pairs, model="csc_denoiser", width=None))


def test_apply_keeps_types_and_ranges(runs, photographs, tmp_path):
    gray = np.asarray(Image.open(photographs / "0.png"))
    noisy = np.clip(gray + np.random.default_rng(0).normal(0, 25, gray.shape), 0, 255).round().astype(np.uint8)
    color = np.stack([noisy, noisy[::-1], noisy], -1)
    given = {"a.png": noisy, "b.png": color, "c.npy": noisy.astype(np.uint16) * 257, "d.tif": np.stack([noisy] * 5)}
    given["f.png"] = color.astype(np.uint16) * 257
    for name, array in {**given, "e.npy": noisy.astype(np.float32) / 255}.items():
        files.write(tmp_path / name, files.as_pages(array, tmp_path), array.shape)
        given[name] = array
    out = tmp_path / "out"
    done = list(apply_to_files(runs / "denoise", [tmp_path / name for name in given], out, Settings()))
    assert not any(d.failed for d in done), [str(d) for d in done]
    for name, array in given.items():
        pages = files.read(out / name)
        assert pages.dtype == array.dtype and files.shape_of(out / name) == array.shape
        found = files.unit(pages)[0, ..., 0]
        assert np.abs(found - gray / 255.0).mean() < 0.6 * np.abs(noisy / 255.0 - gray / 255.0).mean(), name
    network = pn.load(runs / "denoise")
    expected = pn.apply(network, torch.from_numpy(noisy / np.float32(255))[None], sigma=25 / 255)
    assert np.array_equal(files.read(out / "a.png")[0, ..., 0], files.to_dtype(expected[0].numpy(), "uint8"))


def test_apply_gives_labels_as_the_targets_have_them(runs, pairs, tmp_path):
    list(apply_to_files(runs / "segment", [pairs / "images"], tmp_path, Settings()))
    labels = files.read(tmp_path / "5.png")
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {7, 200}
    list(apply_to_files(runs / "regress", [pairs / "images" / "0.png"], tmp_path / "values", Settings()))
    assert files.read(tmp_path / "values" / "0.png").dtype == np.uint8


@pytest.mark.parametrize("task", ["denoise", "segment", "regress"])
def test_tiles_give_the_same_files(runs, pairs, tmp_path, task):
    for tile in ("none", 11):
        given = [pairs / "images" / f"{i}.png" for i in range(4)]
        list(apply_to_files(runs / task, given, tmp_path / str(tile), Settings(tile)))
    for path in given:
        whole, tiled = (files.read(tmp_path / tile / path.name).astype(int) for tile in ("none", "11"))
        assert np.abs(whole - tiled).max() <= (1 if task != "segment" else 0)


def test_a_damaged_file_is_named_and_the_rest_goes_on(runs, photographs, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no image")
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes((photographs / name).read_bytes())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.png").write_bytes(b"mine")
    given = runs / "denoise", tmp_path, tmp_path / "missing.png", "--out", tmp_path / "out"
    code, said, errors = program(monkeypatch, capsys, "apply", *given)
    assert code == 1
    assert "bad.png cannot be read as an image" in errors and "missing.png is missing" in errors
    assert "1.png exists, and is not overwritten" in errors
    assert (tmp_path / "out" / "1.png").read_bytes() == b"mine"
    assert files.read(tmp_path / "out" / "0.png").shape == (1, 40, 36, 1)
    assert "0.png" in said and "Traceback" not in errors


def test_without_any_image_no_folder_is_left(runs, tmp_path, monkeypatch, capsys):
    given = runs / "denoise", tmp_path / "one.png", tmp_path / "two.png", "--out", tmp_path / "out"
    code, _, errors = program(monkeypatch, capsys, "apply", *given)
    assert code == 1 and "one.png is missing" in errors and "two.png is missing" in errors
    assert not (tmp_path / "out").exists()


def test_apply_goes_on_where_it_was(runs, tmp_path, monkeypatch):
    """Killed after some tiles of a large result, the next call computes the others only, and ends with the same."""
    image = np.concatenate([blobs(i)[0] for i in range(3)])
    np.save(tmp_path / "image.npy", image)
    list(apply_to_files(runs / "denoise", [tmp_path / "image.npy"], tmp_path / "whole", Settings(20)))
    from pursuitnet.program.apply import canvas

    monkeypatch.setattr(canvas, "LARGE", 1)
    monkeypatch.setattr(canvas, "EVERY", 0.0)
    compute, computed = applying.results_of, []

    def killed(loaded, batch):
        if len(computed) == 5:
            raise KeyboardInterrupt
        computed.extend(batch)
        return compute(loaded, batch)

    monkeypatch.setattr(applying, "results_of", killed)
    with pytest.raises(KeyboardInterrupt):
        list(apply_to_files(runs / "denoise", [tmp_path / "image.npy"], tmp_path / "out", Settings(20)))
    assert not (tmp_path / "out" / "image.npy").exists()
    first, computed = list(computed), []
    monkeypatch.setattr(applying, "results_of", lambda l, batch: computed.extend(batch) or compute(l, batch))
    list(apply_to_files(runs / "denoise", [tmp_path / "image.npy"], tmp_path / "out", Settings(20)))
    assert len(first) == 5 and len(computed) == 12 - 5
    assert np.array_equal(np.load(tmp_path / "out" / "image.npy"), np.load(tmp_path / "whole" / "image.npy"))
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert left == {"image.npy", "apply.json", "run.lock"}
    (again,) = apply_to_files(runs / "denoise", [tmp_path / "image.npy"], tmp_path / "out", Settings(20))
    assert "done before" in str(again) and len(computed) == 7
    assert json.loads((tmp_path / "out" / "apply.json").read_text())["image.npy"]
    (other,) = apply_to_files(runs / "denoise", [tmp_path / "image.npy"], tmp_path / "out", Settings(20, sigma=10.0))
    assert other.failed and "not overwritten" in str(other)


def test_the_program_trains_and_says_what_it_found(photographs, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    tiny = ("--width", 2, "--patch", 16, "--epochs", 1, "--batch-size", 8, "--train-images", 2, "--test-images", 1)
    where = ("--data", "images", "--data-dir", photographs, "--out", run)
    code, said, errors = program(monkeypatch, capsys, "train", "--task", "denoise", "--sigma", "5-55", *where, *tiny)
    assert code == 0, errors
    assert "PSNR" in said and "report.html" in said
    page = (run / "report.html").read_text()
    assert "test PSNR in the last epoch" in page and "What the layers explain" in page
    code, said, errors = program(monkeypatch, capsys, "runs", tmp_path, "--out", tmp_path / "runs.html")
    assert code == 0 and "csc_denoiser" in said, errors
    assert " dB" in (tmp_path / "runs.html").read_text()
    for command in ("evaluate", "inspect", "export"):
        code, said, errors = program(monkeypatch, capsys, command, run)
        assert code == 2 and "pursuitnet apply" in errors, errors


def test_runs_that_classify_have_no_images_to_give(tmp_path):
    train(Recipe(model="msd_csc_3", width=2, epochs=1, train_images=16, test_images=4, batch_size=8), tmp_path / "run")
    with pytest.raises(ValueError, match="classifies images; expected a run of --task"):
        list(apply_to_files(tmp_path / "run", [], tmp_path / "out", Settings()))


@pytest.mark.parametrize("task", ["denoise", "segment"])
def test_tiles_that_are_computed_together_give_the_same_files(runs, tmp_path, monkeypatch, task):
    """Several pages of their own noise, and tiles of several sizes, as on a GPU."""
    np.save(tmp_path / "image.npy", np.stack([blobs(i, (16, 150))[0] for i in range(2)]))
    list(apply_to_files(runs / task, [tmp_path / "image.npy"], tmp_path / "one", Settings(16)))
    compute, sizes = applying.results_of, []
    monkeypatch.setattr(applying, "results_of", lambda l, batch: sizes.append(len(batch)) or compute(l, batch))
    monkeypatch.setattr(applying, "_pixels_at_once", lambda loaded, settings: 20_000)
    list(apply_to_files(runs / task, [tmp_path / "image.npy"], tmp_path / "many", Settings(16)))
    assert max(sizes) > 1
    one, many = (np.load(tmp_path / folder / "image.npy").astype(float) for folder in ("one", "many"))
    assert one.shape == many.shape and (np.abs(one - many) <= (1 if task == "denoise" else 0)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tiles_are_computed_in_batches_on_a_gpu(runs, tmp_path):
    image = np.concatenate([blobs(i)[0] for i in range(3)])
    np.save(tmp_path / "image.npy", image)
    results = [
        list(apply_to_files(runs / "denoise", [tmp_path / "image.npy"], tmp_path / device, Settings(8, device=device)))
        and np.load(tmp_path / device / "image.npy").astype(float)
        for device in ("cpu", "cuda")
    ]
    assert np.abs(results[0] - results[1]).max() <= 1
