"""``pursuitnet learn``: image files in; dictionary, history and page out; and what it says where it cannot."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from programs import program
from safetensors import safe_open
from safetensors.torch import load_file

import pursuitnet as pn
from pursuitnet.program.learn import pixels
from pursuitnet.program.learn.dictionary import read_dictionary
from pursuitnet.program.learn.run import initial_dictionary
from pursuitnet.program.learn.settings import Settings

SMALL = ("--atoms", "2", "--size", "3", "--beta", "2")


def drawn(folder, count=3, size=(16, 12)):
    """Image files of random blocks."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        blocks = generator.integers(0, 255, (size[0] // 4, size[1] // 4))
        Image.fromarray(np.kron(blocks, np.ones((4, 4))).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def called(monkeypatch, capsys, *arguments):
    return program(monkeypatch, capsys, "learn", *arguments)


def test_a_run_leaves_a_dictionary_a_history_and_a_page(tmp_path, monkeypatch, capsys):
    images, out = drawn(tmp_path / "images"), tmp_path / "run"
    code, told, _ = called(monkeypatch, capsys, images, *SMALL, "--iterations", 2, "--out", out)
    assert code == 0 and "objective" in told and str(out / "learn.html") in told
    weight = load_file(out / "dictionary.safetensors")["weight"]
    assert weight.shape == (2, 1, 3, 3) and weight.flatten(1).norm(dim=1).max() <= 1 + 1e-6
    with safe_open(out / "dictionary.safetensors", "pt") as file:
        about = json.loads(file.metadata()["pursuitnet"])
    assert about["beta"] == 2 and about["padding"] == [2, 2] and about["prepare"] == "contrast"
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history and all(line["gap"] <= 1e-4 for line in history)
    x = torch.cat([pixels.read(path, False, "contrast") for path in pixels.files_of([images])])
    own = pn.solve(x, pn.ConvDictionary(weight, padding=2).requires_grad_(False), 2.0, max_steps=5000).objective.sum()
    assert history[-1]["objective"] == pytest.approx(float(own), rel=3e-4)
    page = (out / "learn.html").read_text()
    assert page.count("data:image/png") >= 2 and "most used first" in page


def test_a_run_goes_on_and_with_other_settings_it_does_not(tmp_path, monkeypatch, capsys):
    images, out = drawn(tmp_path / "images"), tmp_path / "run"
    called(monkeypatch, capsys, images, *SMALL, "--iterations", 1, "--out", out)
    code, _, said = called(monkeypatch, capsys, images, *SMALL, "--iterations", 2, "--out", out)
    assert code == 2 and "is not empty; name another --out, or pass --resume" in said
    code, told, _ = called(monkeypatch, capsys, images, *SMALL, "--iterations", 2, "--out", out, "--resume")
    assert code == 0 and told.split()[0] == "1"
    other = (*SMALL[:-1], "1.5")
    code, _, said = called(monkeypatch, capsys, images, *other, "--out", out, "--resume")
    assert code == 2 and "beta differs: give --beta 2.0, or name another --out" in said
    code, _, said = called(monkeypatch, capsys, images, *SMALL, "--color", "--robust", "--out", out, "--resume")
    assert code == 2 and "robust, color differ: leave out --robust, --color, or name another --out" in said
    code, _, said = called(monkeypatch, capsys, images, *SMALL, "--seed", 3, "--out", out, "--resume")
    assert code == 2 and "seed differs: give --seed 0, or name another --out" in said
    for damaged in ('{"atoms": "2"', "[]"):
        (out / "settings.json").write_text(damaged)
        code, _, said = called(monkeypatch, capsys, images, *SMALL, "--out", out, "--resume")
        assert code == 2 and "settings.json is damaged" in said and said.count("\n") == 1


def test_an_online_run_that_has_ended_is_resumed_to_the_same_result(tmp_path, monkeypatch, capsys):
    images, out = drawn(tmp_path / "images"), tmp_path / "run"
    called(monkeypatch, capsys, images, *SMALL, "--online", "--out", out)
    names = ("dictionary.safetensors", "history.jsonl")
    before = [(out / name).read_bytes() for name in names]
    code, _, _ = called(monkeypatch, capsys, images, *SMALL, "--online", "--out", out, "--resume")
    assert code == 0 and [(out / name).read_bytes() for name in names] == before


def test_images_one_by_one_of_several_sizes_and_with_an_identity_part(tmp_path, monkeypatch, capsys):
    first, second = drawn(tmp_path / "a", 2), drawn(tmp_path / "b", 2, (16, 20))
    online = (first, second, *SMALL[:-1], "2", "--online", "--robust", "--out", tmp_path / "online")
    code, told, _ = called(monkeypatch, capsys, *online)
    assert code == 0 and "   4  objective" in told
    assert load_file(tmp_path / "online" / "dictionary.safetensors")["weight"].shape == (2, 1, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.png", *SMALL), "missing.png does not exist; name image files"),
        (("EMPTY", *SMALL), "holds no image; expected files that end in"),
        (("IMAGES", "--atoms", "0"), "atoms is 0; expected at least 1"),
        (
            ("IMAGES", "--size", "50"),
            "has 16 x 12 pixels; expected at least the size of the atoms, 50; the other 2 files cannot be used either",
        ),
        (("IMAGES", *SMALL[:-1], "1000"), "beta is 1000, and the correlation of an atom of norm 1"),
        (("IMAGES", *SMALL[:-1], "1000", "--online"), "beta is 1000, and the correlation of an atom of norm 1"),
        (("FLAT", *SMALL, "--online"), "all images are constant"),
        (("IMAGES", "--atoms", "900", "--size", "3", "--online"), "the dictionary has 900 atoms"),
        (("IMAGES", *SMALL, "--resume"), "holds no run of learn to resume"),
        (("IMAGES", "--size", "4", "--robust"), "expected an odd number"),
        (("IMAGES", *SMALL, "--online", "--iterations", "3"), "--online uses every image once"),
        (("BROKEN", *SMALL), "is not an image that can be read"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_nothing(arguments, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no image")
    known = {"IMAGES": drawn(tmp_path / "images"), "EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken.png"}
    Image.new("L", (16, 12), 128).save(tmp_path / "flat.png")
    known["FLAT"] = tmp_path / "flat.png"
    given = [known.get(each, each) for each in arguments]
    code, told, error = called(monkeypatch, capsys, *given, "--out", tmp_path / "run")
    assert code == 2 and told == ""
    assert error.startswith("pursuitnet: ") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("online", [("--iterations", 1), ("--online",)], ids=["rounds", "online"])
def test_files_that_cannot_be_used_are_named_and_the_others_are_learned_from(online, tmp_path, monkeypatch, capsys):
    images, out = drawn(tmp_path / "images", 3), tmp_path / "run"
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:60])
    Image.fromarray(np.full((2, 30), 7, np.uint8)).save(images / "flat.png")
    (images / "phone.heic").write_bytes(b"ftypheic")
    code, lines, errors = called(monkeypatch, capsys, images, *SMALL, *online, "--tol", 0.1, "--out", out)
    assert code == 1 and errors.count("\n") == 3 and errors.count("pursuitnet: ") == 3
    assert errors.count(str(images / "1.png")) == 1
    assert f"{images / 'phone.heic'} is a photograph in the format HEIC, which is not read: convert it" in errors
    assert f"{images / 'flat.png'} has 2 x 30 pixels; expected at least the size of the atoms, 3" in errors
    assert str(out / "learn.html") in lines and "2 images" in (out / "learn.html").read_text()
    good = drawn(tmp_path / "good", 3)
    (good / "1.png").unlink()
    other = tmp_path / "other"
    called(monkeypatch, capsys, good, *SMALL, *online, "--tol", 0.1, "--out", other)
    assert torch.equal(*(load_file(folder / "dictionary.safetensors")["weight"] for folder in (out, other)))


def test_contrast_is_local_and_of_the_size_that_codes_are_measured_in():
    x = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    x[..., 20:] *= 0.1
    high, local = pixels.prepared(x, "highpass"), pixels.prepared(x, "contrast")
    assert abs(float(high.mean())) < 0.01 and 0.5 < float(local[..., :15].std()) < 1.5
    flat = torch.full((1, 1, 12, 12), 0.4)
    torch.testing.assert_close(pixels.smoothed(flat), flat)
    assert float(pixels.prepared(flat, "contrast").abs().max()) < 1e-3
    assert torch.equal(pixels.prepared(x, "none"), x)


def test_train_begins_with_the_dictionary_of_a_folder(tmp_path, monkeypatch, capsys):
    images, out = drawn(tmp_path / "images"), tmp_path / "atoms"
    called(monkeypatch, capsys, images, *SMALL, "--iterations", 1, "--out", out)
    tiny = ("--model", "resnet_8", "--width", 2, "--epochs", 1, "--train-images", 20, "--test-images", 10)
    options = (*tiny, "--init-dictionary", out, "--out", tmp_path / "run")
    code, _, error = program(monkeypatch, capsys, "train", *options)
    assert code == 0, error
    code, _, error = program(monkeypatch, capsys, "train", *options[:3], 3, *options[4:-1], tmp_path / "other")
    assert code == 2 and error.count("\n") == 1
    assert "has filters of shape (2, 1, 3, 3) (atoms, channels, *kernel); the first layer expects (3, 1, 3, 3)" in error


LAYERED = ("--atoms", "3,2", "--size", "3,3", "--beta", "2", "--seed", "1", "--atom-nonzeros", "5")


def test_several_layers_are_learned_and_resumed(tmp_path, monkeypatch, capsys):
    images, out = drawn(tmp_path / "images", 2, (12, 12)), tmp_path / "run"
    code, begun, said = called(monkeypatch, capsys, images, *LAYERED, "--iterations", 1, "--out", out)
    assert code == 0, said
    code, told, _ = called(monkeypatch, capsys, images, *LAYERED, "--iterations", 3, "--out", out, "--resume")
    assert code == 0 and "objective" in told
    tensors = load_file(out / "dictionary.safetensors")
    first, second = tensors["weight"], tensors["weight2"]
    assert first.shape == (3, 1, 3, 3) and second.shape == (2, 3, 3, 3) and tensors["usage"].shape == (2,)
    assert (second.flatten(1) != 0).sum(1).max() <= 5
    assert all(weight.flatten(1).norm(dim=1).max() <= 1 + 1e-6 for weight in (first, second))
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history[-1]["objective"] < 0.9 * float(begun.split()[2])
    x = torch.cat([pixels.read(path, False, "contrast") for path in pixels.files_of([images])])
    D = pn.ComposedDictionary([pn.ConvDictionary(first, padding=4), pn.ConvDictionary(second)]).requires_grad_(False)
    own = pn.solve(x, D, 2.0, max_steps=5000).objective.sum()
    assert history[-1]["objective"] == pytest.approx(float(own), rel=3e-4)
    page = (out / "learn.html").read_text()
    assert "2 atoms of 5×5 in 2 layers" in page and "Layer 1: 3 atoms, as they look in an image" in page
    layers = read_dictionary(out)
    assert [torch.equal(D.weight, w) for D, w in zip(layers, (first, second), strict=True)] == [True, True]
    assert [D.padding for D in layers] == [(4, 4), (0, 0)]


def test_deeper_layers_begin_with_what_correlates_with_patches(tmp_path):
    images = pixels.by_size([pixels.read(path, False, "contrast") for path in pixels.files_of([drawn(tmp_path / "i")])])
    first, second = initial_dictionary(Settings(atoms=(5, 3), size=(3, 2)), images).layers
    assert first.padding == (3, 3) and second.padding == (0, 0)
    patches = torch.nn.functional.unfold(torch.nn.functional.pad(images[0], [3] * 4), 4).mT.reshape(-1, 1, 4, 4)
    patches = patches - patches.mean((2, 3), keepdim=True)
    correlations = pn.ConvDictionary(first.weight).analyze(patches).flatten(1)
    nearest = torch.nn.functional.cosine_similarity(second.weight.flatten(1)[:, None], correlations[None], dim=2).amax(
        1
    )
    assert nearest.min() > 0.999 and second.weight.flatten(1).norm(dim=1).allclose(torch.ones(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--atoms", "8,4", "--size", "3"), "atoms is 8,4 and size 3; expected one of each for every layer"),
        (("--atoms", "many"), "atoms is 'many'; expected a whole number, or one for each of several layers"),
        (("--atoms", "8,4", "--size", "3,3", "--robust"), "--robust learns the identity part of one layer"),
        (("--atom-nonzeros", "3"), "atom-nonzeros is 3; expected at least 1, and several layers"),
        (("--atoms", "8,0", "--size", "3,3"), "atoms is 8,0; expected at least 1"),
    ],
)
def test_layers_that_cannot_be_are_refused(tmp_path, monkeypatch, capsys, options, words):
    images = drawn(tmp_path / "images")
    code, _, said = called(monkeypatch, capsys, images, *options, "--out", tmp_path / "run")
    assert code == 2 and words in said and not (tmp_path / "run").exists()
