"""Predictions for image files: classes and probabilities, a table, and a page that explains them."""

import csv
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image
from programs import finished, program

import pursuitnet as pn
from pursuitnet.data import pixels as reading
from pursuitnet.data.unlabeled import find_images
from pursuitnet.program import train
from pursuitnet.program.predict.explanation import explain, origins
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import Trained, weights


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photographs of cats (dark) and dogs (bright) of 12 x 10 pixels, and a run that has learned them at 8 x 8."""
    place = tmp_path_factory.mktemp("predict")
    draw = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, low in (("cat", 0), ("dog", 128)):
            folder = place / "data" / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(draw.integers(low, low + 128, (12, 10, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PURSUITNET_CACHE", str(place / "cache"))
        recipe = Recipe(
            data="folder", data_dir=place / "data", image_size=8, model="msd_csc_3", width=3, epochs=4, batch_size=8,
            device="cpu", shift=0,
        )  # fmt: skip
        train.train(recipe, place / "run")
    return place


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        shutil.copytree(place / "data" / "test" / name, tmp_path / name)
    return tmp_path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def made(name, classes=4, in_chans=3, **choices):
    recipe = Recipe(model=name, **choices)
    torch.manual_seed(0)
    network = pn.create_model(name, classes, in_chans, **recipe.choices())
    with torch.no_grad():
        for _ in range(10):  # the statistics of evaluation are those of some images
            network(torch.rand(4, in_chans, 16, 16) - 0.4)
    network.eval()
    mean, std = torch.full((in_chans,), 0.4), torch.full((in_chans,), 0.3)
    return Trained(network, recipe, tuple("abcdefghij"[:classes]), mean, std)


# from files to classes


def test_files_folders_and_patterns_are_answered_in_order_as_in_training(place, here, monkeypatch, capsys):
    names = ("dog/2.png", "cat", "do?/[01].png", "dog/2.png")
    code, said, _ = program(monkeypatch, capsys, "predict", place / "run", *names, "--csv", "out.csv")
    assert code == 0 and said.splitlines()[-1] == "out.csv"
    table = rows(here / "out.csv")
    files = ["dog/2.png", *(f"cat/{k}.png" for k in range(4)), "dog/0.png", "dog/1.png"]
    assert [row["file"] for row in table] == files
    about = pn.trained(place / "run")
    for row in table:
        image = reading.decoded(here / row["file"], 3, (8, 8), fit=True, white=255)
        p = about.network(about.prepare(torch.tensor(image)[None])).softmax(dim=1)[0].detach()
        best = int(p.argmax())
        assert row["class"] == about.classes[best] == row["file"][:3]
        assert float(row["probability"]) == pytest.approx(float(p[best]), rel=1e-4)
        assert float(row["probability"]) + float(row["probability_2"]) == pytest.approx(1, abs=1e-4)


def test_a_broken_and_a_missing_file_are_named_the_others_answered_and_the_code_is_1(place, here, monkeypatch, capsys):
    (here / "cat" / "1.png").write_bytes((here / "cat" / "0.png").read_bytes()[:60])
    code, said, errors = program(monkeypatch, capsys, "predict", place / "run", "cat", "gone.png", "--csv", "out.csv")
    assert code == 1
    assert [line.split("  ")[0] for line in said.splitlines()] == ["cat/0.png", "cat/2.png", "cat/3.png", "out.csv"]
    assert len(errors.splitlines()) == 2 and all(line.startswith("pursuitnet: ") for line in errors.splitlines())
    assert "cat/1.png" in errors and "gone.png is missing: check the name, or the pattern" in errors
    assert {row["file"]: bool(row["error"]) for row in rows(here / "out.csv")} == {
        "cat/0.png": False, "cat/1.png": True, "cat/2.png": False, "cat/3.png": False, "gone.png": True,
    }  # fmt: skip


def test_without_an_image_that_can_be_read_no_page_is_written(place, here, monkeypatch, capsys):
    code, said, errors = program(monkeypatch, capsys, "predict", place / "run", "gone/*.png", "--explain")
    assert (code, said) == (1, "") and "gone/*.png is missing" in errors
    assert not (here / "explain.html").exists()


def test_photographs_in_a_format_that_cannot_be_read_are_named(place, here, monkeypatch, capsys):
    for name in ("4.HEIC", "5.nef"):
        (here / "cat" / name).write_bytes(b"\0\0\0\x18ftypheic")
    code, said, errors = program(monkeypatch, capsys, "predict", place / "run", "cat")
    assert code == 1 and len(said.splitlines()) == 4
    assert "cat/4.HEIC is a photograph in the format HEIC, which is not read: convert it to JPEG or PNG" in errors
    assert "cat/5.nef is a photograph in the format NEF" in errors


def test_lists_and_notes_beside_images_are_no_images(place, here, monkeypatch, capsys):
    (here / "cat" / "notes.txt").write_text("no image")
    code, said, _ = program(monkeypatch, capsys, "predict", place / "run", "cat", "--top", "1")
    assert code == 0 and len(said.splitlines()) == 4 and all(line.count("%") == 1 for line in said.splitlines())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_any_format_that_training_takes_is_taken(place, here, monkeypatch, capsys, mode):
    array = np.full((30, 20), 60_000 if mode == "I;16" else 230, np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(array)
    (image if mode == "I;16" else image.convert(mode)).save(here / "one.tif" if mode != "P" else here / "one.gif")
    code, said, _ = program(monkeypatch, capsys, "predict", place / "run", *here.glob("one.*"))
    assert code == 0 and "dog" in said


def test_twelve_bits_ask_for_white_and_take_it(place, here, monkeypatch, capsys):
    Image.fromarray(np.full((8, 8), 3_900, np.uint16)).save(here / "one.tif")
    code, _, errors = program(monkeypatch, capsys, "predict", place / "run", "one.tif")
    assert code == 2 and errors.count("\n") == 1 and "--white-level" in errors
    code, said, _ = program(monkeypatch, capsys, "predict", place / "run", "one.tif", "--white-level", "4095")
    assert code == 0 and "one.tif  dog" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no images are named"),
        (("empty",), "there are no images in empty"),
        (("cat", "--top", "0"), "top is 0; expected at least 1"),
        (("cat", "--csv", "mine.txt"), "mine.txt exists and is not a table of predictions; name another --csv"),
        (("cat", "--page", "mine.txt"), "mine.txt exists and is not a page of predictions; name another --page"),
        (("cat", "--csv", "cat/0.png"), "cat/0.png exists and is not a table"),
        (("cat", "--csv", "none/out.csv"), "none is not a folder; create it, or name another --csv"),
        (("cat", "--page", "none/page.html"), "none is not a folder; create it, or name another --page"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_nothing_is_lost(place, here, monkeypatch, capsys, arguments, says):
    (here / "mine.txt").write_text("my own words")
    (here / "empty").mkdir()
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, said, errors = program(monkeypatch, capsys, "predict", place / "run", *arguments)
    assert (code, said) == (2, "") and errors.count("\n") == 1 and says in errors
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}


def test_a_second_table_and_page_take_the_place_of_the_first(place, here, monkeypatch, capsys):
    for names in (("cat",), ("dog/0.png",)):
        assert program(monkeypatch, capsys, "predict", place / "run", *names, "--csv", "o.csv", "--explain")[0] == 0
    assert [row["file"] for row in rows(here / "o.csv")] == ["dog/0.png"]
    assert "cat/0.png" not in (here / "explain.html").read_text()


def test_help_does_not_load_torch(tmp_path):
    probe = "import sys; sys.argv = ['pursuitnet', 'predict', '--help']\nfrom pursuitnet.program.cli import main\n"
    probe += "try:\n    main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = finished("-c", probe, cwd=tmp_path)
    assert done.returncode == 0 and "--explain" in done.stdout, done.stderr


# in Python


def test_images_in_python_get_the_probabilities_of_the_network(place, here):
    about = pn.trained(place / "run")
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    expected = about.network(about.prepare(images)).softmax(dim=1).detach()
    for given in (images, images.numpy(), images / 255):
        found = about.predict(given, batch_size=2)
        torch.testing.assert_close(found.probabilities, expected, rtol=1e-4, atol=1e-6)
    assert found.labels.tolist() == expected.argmax(dim=1).tolist()
    assert found.names == [about.classes[k] for k in found.labels]
    assert found.top(1) == [[(name, float(p.max()))] for name, p in zip(found.names, found.probabilities, strict=True)]
    assert about.predict(images[:0]).probabilities.shape == (0, 2)


def test_paths_in_python_are_read_as_the_program_reads_them(place, here):
    about = pn.trained(place / "run")
    one, both = about.predict("dog/0.png"), about.predict(["dog/0.png", here / "cat"])
    torch.testing.assert_close(one.probabilities[0], both.probabilities[0])
    assert both.names == ["dog"] + ["cat"] * 4
    with pytest.raises(ValueError, match=r"gone\.png"):
        about.predict("gone.png")


def test_what_is_no_image_in_python_is_said_in_one_sentence(place, here):
    about = pn.trained(place / "run")
    assert about.predict([]).probabilities.shape == (0, 2)
    image = Image.new("RGB", (8, 8))
    for wrong in (3, [3], image, [image]):
        with pytest.raises(TypeError, match=r"images is .*; expected a tensor or an array \(B, C, H, W\), a path"):
            about.predict(wrong)
    denoiser = replace(about, recipe=Recipe(data="images", data_dir="x", task="denoise", sigma="25"))
    with pytest.raises(ValueError, match=r"the network returns images .*pursuitnet apply"):
        denoiser.predict(torch.zeros(1, 3, 8, 8))


def test_the_size_of_the_training_is_in_the_weights_and_older_ones_take_it_from_the_recipe(place, tmp_path):
    state, said = weights.unpack(place / "run" / "model.safetensors")
    assert said["image_size"] == [8, 8] and pn.trained(place / "run").image_size == (8, 8)
    changes = ({}, {"data": "cifar10", "image_size": None}, {"image_size": None})
    for change, size in zip(changes, ((8, 8), (32, 32), None), strict=True):
        older = {name: value for name, value in said.items() if name != "image_size"}
        older["recipe"] = {**said["recipe"], **change}
        (tmp_path / "older.safetensors").write_bytes(weights.pack(state, older))
        assert pn.trained(tmp_path / "older.safetensors").image_size == size
    (tmp_path / "bad.safetensors").write_bytes(weights.pack(state, {**said, "image_size": [8, "8"]}))
    with pytest.raises(ValueError, match="expected height and width"):
        pn.trained(tmp_path / "bad.safetensors")


def test_images_of_a_training_of_unknown_size_keep_their_own(place, here):
    about = pn.trained(place / "run")
    free = Trained(about.network, about.recipe, about.classes, about.mean, about.std)
    Image.fromarray(np.full((9, 14, 3), 200, np.uint8)).save(here / "wide.png")
    assert free.decoder(find_images(["wide.png"]))(here / "wide.png").shape == (3, 9, 14)
    assert free.predict(["wide.png", "cat/0.png"]).names == ["dog", "cat"]


# the decision taken apart


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("msd_csc_6", {"width": 3, "unfolding": 2}),
        ("msd_csc_6", {"width": 3, "sweep": "multilayer"}),
        ("res_csc_8", {"width": 2}),
        ("ml_csc", {"width": 2}),
    ],
)
def test_the_logits_are_the_bias_and_the_sum_of_the_contributions(name, choices):
    about = made(name, **choices)
    image = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    seen = explain(about, image)
    logits = about.network(about.prepare(image[None]))[0].detach()
    assert seen.contributions.abs().amax() > 0.01
    torch.testing.assert_close(seen.bias + seen.contributions.sum(dim=1), logits, rtol=1e-4, atol=1e-5)
    for label in range(4):
        torch.testing.assert_close(seen.bias[label] + seen.evidence(label).mean(), logits[label], rtol=1e-4, atol=1e-5)
    assert seen.ranking()[0] == int(logits.argmax())
    assert seen.contributions.shape[1] == len(seen.channels) == about.network.num_features


def test_without_an_atom_the_logit_is_less_by_its_contribution():
    about = made("msd_csc_3", width=4)
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    seen = explain(about, image)
    row = seen.strongest(1, 1)[0]
    before = seen.logits.clone()
    assert abs(float(seen.contributions[1, row])) > 0.01
    with torch.no_grad():
        about.network.head.weight[:, row] = 0
    after = about.network(about.prepare(image[None]))[0].detach()
    torch.testing.assert_close(before - after, seen.contributions[:, row], rtol=1e-4, atol=1e-5)


def test_rows_of_dense_layers_come_from_the_image_and_from_every_layer():
    dense = [str(row) for row in origins(pn.create_model("msd_csc_3", 2, 1, width=2), 1)]
    assert dense == ["image channel 1", *(f"layer {i}, atom {j}" for i in (1, 2, 3) for j in (1, 2))]
    assert [str(row) for row in origins(pn.create_model("resnet_8", 2, 3, width=2), 3)] == [
        f"layer 7, atom {j + 1}" for j in range(8)
    ]


def test_the_page_says_what_adds_up_and_opens_alone(place, here, monkeypatch, capsys):
    assert program(monkeypatch, capsys, "predict", place / "run", "dog/0.png", "cat/1.png", "--explain")[0] == 0
    page = (here / "explain.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    about = pn.trained(place / "run")
    image = torch.tensor(reading.decoded(here / "dog" / "0.png", 3, (8, 8), fit=True, white=255))
    logit = float(about.network(about.prepare(image[None])).max().detach())
    numbers = re.search(r"The logit of dog is(.*?)\(the other", page, re.DOTALL)[1]
    said = [float(value) for value in re.findall(r'<data value="([^"]*)"', numbers)]
    assert said[0] == pytest.approx(logit, rel=1e-4) and sum(said[1:]) == pytest.approx(logit, rel=1e-4)
    assert page.count('<section id="image-') == 2 and "layer 3, atom" in page


def test_the_page_leads_to_the_report_of_its_run_and_to_what_comes_next(place, here, monkeypatch, capsys):
    shutil.copytree(place / "run", here / "my run")
    (here / "my run" / "report.html").write_text("")
    assert program(monkeypatch, capsys, "predict", "my run", "dog/0.png", "--explain")[0] == 0
    page = (here / "explain.html").read_text()
    assert '<a href="my%20run/report.html">' in page
    commands = [shlex.split(unescape(found)) for found in re.findall(r"<code>(.*?)</code>", page)]
    assert ["pursuitnet", "evaluate", "my run"] in commands and ["pursuitnet", "inspect", "my run"] in commands
