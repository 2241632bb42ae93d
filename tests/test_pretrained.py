"""Weights that come with the library: packed from a run, read by name, refused where they do not fit."""

import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs import program
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.networks import pretrained
from pursuitnet.networks.pretrained import Pretrained, pretrained_names
from pursuitnet.program import train
from pursuitnet.program.evaluation import evaluate
from pursuitnet.program.recipe import Recipe
from pursuitnet.utils import packed

ROOT = Path(__file__).parents[1]
SHIPPED = [name for name in pretrained_names() if name != "csc_denoiser"]
LEAST = {"resnet_20": 0.75, "res_csc_20": 0.75, "msdnet_6": 0.72, "msd_csc_6": 0.72, "ml_csc": 0.68}
"""What each is at least right in; guessing is 0.1."""


@pytest.fixture(scope="module")
def script():
    """experiments/pretrained.py, without running it."""
    path = ROOT / "experiments" / "pretrained.py"
    if not path.is_file():
        pytest.skip("needs the repository, not the package")
    spec = importlib.util.spec_from_file_location("packing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe(model="msd_csc_3", width=3, unfolding=2, solver="fista", normalize=True, epochs=2, lr=0.2)
    train.train(replace(recipe, batch_size=32, train_images=800, device="cpu"), folder)
    assert train.last_record(folder)["test_accuracy"] > 0.3  # so that it means something to repeat it
    return folder


@pytest.fixture(scope="module")
def folder(script, run, tmp_path_factory):
    """A folder with the weights of that run, packed."""
    found = tmp_path_factory.mktemp("weights")
    assert script.packed(run, None, found) == found / "msd_csc_3.safetensors"
    return found


@pytest.fixture
def shipped(folder, monkeypatch):
    """The weights of that run, in the place of those that come with the library."""
    monkeypatch.setattr(pretrained, "FOLDER", folder)


def made(**choices):
    return pn.create_model("msd_csc_3", **{"in_chans": 1, "pretrained": True, **choices})


# by name


@pytest.mark.usefixtures("shipped")
def test_a_pretrained_network_is_that_of_the_run_and_says_what_it_is(run):
    assert pn.list_models(pretrained=True) == ["msd_csc_3"] and "msd_csc_3" not in pn.list_models()
    model, whole, x = made(), pn.load(run), torch.rand(5, 1, 8, 8)
    assert model.training
    torch.testing.assert_close(model.eval()(x), whole(x), rtol=1e-2, atol=1e-2)
    assert [pursuit.unfolding for pursuit in model.pursuits()] == [2, 2, 2]
    about = model.pretrained_cfg
    assert about["mean"] == pn.trained(run).mean.tolist() and 0.2 < about["std"][0] < 0.5
    assert about["classes"] == list("0123456789") and about["test_accuracy"] > 0.3
    assert about["last_epoch_accuracy"] == train.last_record(run)["test_accuracy"]
    choices = {"unfolding": 2, "solver": "fista", "width": 3, "signed_input": True}
    assert about["recipe"]["epochs"] == 2 and about["choices"] == choices
    assert about["seed"] == 0 and about["precision"] == "float32" and about["torch"] == torch.__version__
    assert pn.create_model("msd_csc_3", in_chans=1).pretrained_cfg is None


@pytest.mark.usefixtures("shipped")
def test_a_head_of_another_size_is_new_and_the_features_are_not():
    x, whole = torch.rand(2, 1, 8, 8), made().eval()
    torch.manual_seed(1)
    other, bare = made(num_classes=3).eval(), made(num_classes=0).eval()
    assert other(x).shape == (2, 3) and torch.equal(bare(x), whole.forward_features(x).mean(dim=(2, 3)))
    assert torch.equal(other.forward_features(x), whole.forward_features(x))
    torch.manual_seed(1)
    assert torch.equal(made(num_classes=3).head.weight, other.head.weight)
    F.cross_entropy(other.train()(x), torch.tensor([0, 2])).backward()
    assert other.head.weight.grad.any() and other.pretrained_cfg["num_classes"] == 10


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"unfolding": 1}, "unfolding is 1; msd_csc_3 was trained with 2: leave out unfolding, or pretrained$"),
        ({"width": 4}, "width is 4; msd_csc_3 was trained with 3"),
        ({"solver": "ista"}, "solver is 'ista'; msd_csc_3 was trained with 'fista'"),
        ({"sweep": "multilayer"}, "sweep is 'multilayer'; msd_csc_3 was trained with 'layer'"),
        ({"norm": None}, "norm is None; msd_csc_3 was trained with 'batch'"),
        ({"signed_input": False}, "signed_input is False; msd_csc_3 was trained with True"),
        ({"in_chans": 3}, "in_chans is 3; the weights of msd_csc_3 are for images of 1 channels"),
        ({"depth": 3}, "has no choice 'depth'"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
    ids=str,
)
def test_choices_that_are_not_those_of_the_training_are_refused(choices, says):
    with pytest.raises(ValueError, match=says) as caught:
        made(**choices)
    assert "\n" not in str(caught.value)
    made(unfolding=2, width=3, solver="fista", sweep="layer")  # those of the training are not


@pytest.mark.usefixtures("shipped")
def test_a_network_without_weights_and_a_wrong_word_are_refused():
    with pytest.raises(ValueError, match=r"no weights of 'msd_csc_6' come with pursuitnet; did you mean msd_csc_3"):
        pn.create_model("msd_csc_6", pretrained=True)
    with pytest.raises(ValueError, match="task is 'image'; the weights of msd_csc_3 are for 'classify': leave out pre"):
        pn.create_model("msd_csc_3", task="image", pretrained=True)
    assert pn.list_models(pretrained=True, task="image") == []
    with pytest.raises(TypeError, match="pretrained is 'yes'; expected True or False"):
        made(pretrained="yes")


def test_a_changed_byte_is_found_out(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    content = bytearray((folder / "msd_csc_3.safetensors").read_bytes())
    content[-5] ^= 1
    (tmp_path / "msd_csc_3.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its checksum does not match; get the file again"):
        made()


# in the place of a run


@pytest.mark.usefixtures("shipped")
def test_a_name_stands_in_the_place_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    about, accuracy = pn.trained("msd_csc_3"), made().pretrained_cfg["test_accuracy"]
    images, labels = pn.data.load("digits", split="test")
    assert float((about.deployed()(images).argmax(1) == labels).float().mean()) == pytest.approx(accuracy)
    for _ in range(2):  # the second time too: nothing here is called like the network
        code, said, errors = program(monkeypatch, capsys, "evaluate", "msd_csc_3", "--device", "cpu")
        assert code == 0 and f"{100 * accuracy:.2f}" in said.splitlines()[0], errors
    assert [path.as_posix() for path in Path().rglob("*.json")] == ["runs/pretrained-msd_csc_3/evaluation.json"]
    code, said, errors = program(monkeypatch, capsys, "inspect", "msd_csc_3", "--test-images", "20", "--images", "1")
    assert code == 0 and Path("runs/pretrained-msd_csc_3/inspect.html").is_file(), errors


@pytest.mark.usefixtures("shipped")
def test_a_folder_of_that_name_comes_first_and_a_wrong_name_lists_those_there_are(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in ("evaluate", "export"):
        code, _, errors = program(monkeypatch, capsys, command, "msd_csc_4")
        assert code == 2 and errors.count("\n") == 1 and "a pretrained network: msd_csc_3" in errors
    shutil.copytree(run, "msd_csc_3")
    shutil.copy(Path("msd_csc_3", "model.safetensors"), "kept")
    assert torch.equal(pn.load("msd_csc_3").head.weight, pn.load("kept").head.weight)
    assert program(monkeypatch, capsys, "evaluate", "msd_csc_3", "--device", "cpu")[0] == 0
    assert Path("msd_csc_3", "evaluation.json").is_file() and not Path("runs").exists()


# packing


def test_packing_says_nothing_of_the_machine_and_stores_filters_in_16_bits(folder, run):
    weights, about = packed.unpack(folder / "msd_csc_3.safetensors", pretrained.NEEDED, ("data",))
    assert about["recipe"]["data_dir"] is None and about["recipe"]["device"] == "auto"
    assert {value.dtype for value in weights.values() if value.dim() > 1} == {torch.float16}
    assert all(value.dtype != torch.float16 for value in weights.values() if value.dim() < 2)
    assert about["data"] == pn.trained(run).data.to_json() and about["card"]["stored"] == "float16"


def test_large_networks_are_stored_in_8_bits_if_their_accuracy_stays(script, run, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "LARGE", 100)
    monkeypatch.setattr(script, "LARGE_LAYER", 50)
    monkeypatch.setattr(script, "NEAR", 1.0)
    path = script.packed(run, None, tmp_path)
    assert packed.unpack(path, ("card",))[1]["card"]["stored"] == "int8, float16"
    whole, found = pn.load(run).state_dict(), pn.load(path).state_dict()
    for name, value in whole.items():
        most = 0.5 / 127 * value.abs().amax() if value.dim() > 1 else torch.zeros(())
        if not name.endswith("lipschitz"):
            assert (found[name] - value).abs().max() <= most * 1.0001, name
    monkeypatch.setattr(script, "NEAR", -1.0)  # nothing is near enough
    assert packed.unpack(script.packed(run, None, tmp_path), ("card",))[1]["card"]["stored"] == "float32"


def test_the_page_tells_the_cards(script, folder):
    page = script.page("before\n<!-- cards -->\nREPLACED\n<!-- end -->\nafter", folder)
    assert (
        page.startswith("before\n<!-- cards -->\n") and page.endswith("<!-- end -->\nafter") and "REPLACED" not in page
    )
    assert f"| `{packed.checksum(folder / 'msd_csc_3.safetensors')}` |" in page
    assert "| `msd_csc_3` | unfolding 2, solver fista, width 3, signed_input True | digits |" in page


# those that come with the library


def test_the_page_is_that_of_the_weights_that_are_there(script):
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert script.page(text) == text


@pytest.mark.parametrize("name", SHIPPED)
def test_every_card_fits_its_weights(name):
    found = Pretrained.of(name)
    card = found.config
    model = pn.create_model(name, pretrained=True)
    assert card["model"] == card["recipe"]["model"] == name and card["data"] == "cifar10"
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert abs(card["test_accuracy"] - card["last_epoch_accuracy"]) <= 0.001
    assert card["test_accuracy"] >= LEAST.get(name, 0.5) and card["num_classes"] == 10
    assert card["recipe"]["data_dir"] is None and "+changes" not in (card["commit"] or "")
    assert pretrained.pretrained_file(name).stat().st_size < 5e6
    assert model.eval()(torch.rand(2, 3, 32, 32)).isfinite().all()


def test_the_denoiser_removes_noise_and_is_applied_by_its_name(tmp_path, monkeypatch, capsys):
    assert pn.list_models(pretrained=True, task="image") == ["csc_denoiser"]
    denoiser = pn.create_model("csc_denoiser", pretrained=True).eval()
    card = denoiser.pretrained_cfg
    assert card["parameters"] == sum(p.numel() for p in denoiser.parameters()) and card["sigma"] == "25"
    assert [result["n"] for result in card["psnr"]] == [68, 12] and all(r["psnr"] > 28 for r in card["psnr"])
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij")
    clean = ((rows - columns).div(9).sin() > 0).float().mul(0.5).add(0.25)  # stripes with sharp edges
    noisy = clean + 25 / 255 * torch.randn(clean.shape)
    restored = denoiser(noisy[None, None], 25 / 255)[0, 0]
    assert (restored - clean).square().mean() < 0.15 * (noisy - clean).square().mean()
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noisy.clamp(0, 1).mul(255).byte().numpy()).save("noisy.png")
    code, _, errors = program(monkeypatch, capsys, "apply", "csc_denoiser", "noisy.png", "--out", "clean")
    assert code == 0, errors
    applied = torch.from_numpy(np.array(Image.open(Path("clean", "noisy.png")))) / 255
    assert (applied - clean).square().mean() < 0.2 * (noisy - clean).square().mean()
    code, _, errors = program(monkeypatch, capsys, "evaluate", "csc_denoiser")
    assert code == 2 and "for images there is pursuitnet apply" in errors


def test_a_folder_of_the_denoising_experiment_is_packed_with_its_psnr(script, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    denoise = importlib.import_module("denoise")
    (tmp_path / "few").mkdir()
    Image.fromarray((np.arange(24 * 24).reshape(24, 24) % 256).astype("uint8")).save(tmp_path / "few" / "1.png")
    run = tmp_path / "run"
    monkeypatch.setattr("sys.argv", ["denoise.py", "--train", str(tmp_path / "few"), "--test", str(tmp_path / "few")])
    monkeypatch.setattr("sys.argv", [*sys.argv, "--minutes", "0.001", "--side", "16", "--out", str(run)])
    denoise.main()
    path = script.packed(run, tmp_path, tmp_path)
    card = packed.unpack(path, ("card", "recipe"))[1]["card"]
    assert path.name == "csc_denoiser.safetensors" and card["stored"] in ("float16", "float32")
    measured = denoise.tested(pn.load(path), denoise.photographs(tmp_path / "few"), 25.0)[0]
    assert card["psnr"] == [{"images": "few", "n": 1, "sigma": 25.0, "psnr": pytest.approx(measured)}]
    assert f"| `csc_denoiser` | – | 25 | {measured:.2f} dB on few (σ = 25) |" in script.table(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_real_test_images_repeat_the_accuracy_of_the_card(name):
    root = os.environ.get("PURSUITNET_CIFAR10")
    if not root:
        pytest.skip("PURSUITNET_CIFAR10 does not name the folder of the CIFAR-10 binary files")
    about, (images, labels) = pn.trained(name), pn.data.load("cifar10", root, "test")
    found = evaluate(about.network, images, labels, about.classes, prepare=about.prepare)
    assert found.images == 10_000
    assert found.top1 == pytest.approx(Pretrained.of(name).config["test_accuracy"], abs=0.0005)
