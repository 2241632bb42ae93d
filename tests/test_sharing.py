"""Trained networks as files: read back, refused when damaged, on the hub, as ONNX and as exported programs."""

import json
import random
import shutil

import pytest
import torch
from safetensors import safe_open

import pursuitnet as pn
from pursuitnet import cli, train
from pursuitnet.recipe import Recipe
from pursuitnet.sharing import Trained, trained, weights
from pursuitnet.sharing.export import SIZES, export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe(model="msd_csc_3", width=3, epochs=1, train_images=100, unfolding=2, solver="fista", device="cpu")
    train.train(recipe, folder)
    return folder


def made(name, classes=4, in_chans=3, **choices):
    """A network that was never trained, as if it had been."""
    recipe = Recipe(model=name, **choices)
    torch.manual_seed(0)
    network = pn.create_model(name, classes, in_chans, **recipe.choices()).eval()
    mean, std = torch.full((in_chans,), 0.4), torch.full((in_chans,), 0.3)
    return Trained(network, recipe, tuple("abcdefghij"[:classes]), mean, std)


# reading back


def test_a_run_or_its_weights_alone_give_the_network_back(run, tmp_path):
    _, expected = train.load_run(run)
    alone = shutil.copy(run / "model.safetensors", tmp_path / "renamed.safetensors")
    x = torch.rand(2, 1, 8, 8)
    for path in (run, str(run), run / "model.safetensors", alone):
        network = pn.load(path)
        assert not network.training and torch.equal(network(x), expected(x))
    about = pn.trained(alone)
    assert about.recipe == train.read_recipe(run) and about.classes == tuple("0123456789")
    assert about.mean.tolist() == [0.0] and about.std.tolist() == [1.0]
    assert len(about.network.pursuits()) == 3 and about.network.forward_features(x).shape[:2] == (2, 10)


def test_the_metadata_hold_the_recipe_for_any_reader(run):
    with safe_open(run / "model.safetensors", "pt") as file:
        said = file.metadata()
    assert Recipe.from_json(json.loads(said["recipe"])) == train.read_recipe(run)
    assert json.loads(said["classes"]) == list("0123456789") and len(said["sha256"]) == 64


def test_images_as_they_are_are_normalised_first():
    one = made("resnet_8", width=2)
    x = torch.rand(3, 3, 12, 12)
    assert torch.equal(one.deployed()(x), one.network((x - 0.4) / 0.3))


@pytest.mark.parametrize("seed", range(25))
def test_a_changed_byte_is_found_out_wherever_it_is(run, tmp_path, seed):
    content, draw = bytearray((run / "model.safetensors").read_bytes()), random.Random(seed)
    head = 8 + int.from_bytes(content[:8], "little")
    at = draw.randrange(head) if seed % 2 else draw.randrange(len(content))
    while content[at] == ord(" "):  # padding of the header
        at -= 1
    content[at] ^= 1 << draw.randrange(8)
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors (is damaged|lacks)"):
        pn.load(path)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_cut_file_is_found_out(run, tmp_path, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes((run / "model.safetensors").read_bytes()[:length])
    with pytest.raises(ValueError, match="is damaged"):
        pn.load(path)


def test_what_is_no_trained_network_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="has not finished: pursuitnet train --out"):
        pn.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="is missing; name a run"):
        pn.load(tmp_path / "nothing.safetensors")
    state, about = weights.unpack(run / "model.safetensors")
    (tmp_path / "other.safetensors").write_bytes(weights.pack(state, {**about, "classes": ["a", "b"]}))
    with pytest.raises(ValueError, match="weights of another network"):
        pn.load(tmp_path / "other.safetensors")
    (tmp_path / "less.safetensors").write_bytes(weights.pack(state, {"recipe": about["recipe"]}))
    with pytest.raises(ValueError, match="lacks what a network needs"):
        pn.load(tmp_path / "less.safetensors")


def test_equal_weights_are_equal_files(run):
    state, about = weights.unpack(run / "model.safetensors")
    assert weights.pack(state, about) == weights.pack(dict(reversed(state.items())), dict(reversed(about.items())))


# the hub


def test_the_hub_gives_the_same_weights_and_logits_back(run, tmp_path):
    from pursuitnet.sharing.hub import HubNetwork, card

    about = trained(run)
    HubNetwork.of(about).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["name"] == "msd_csc_3" and config["choices"] == {"unfolding": 2, "solver": "fista", "width": 3}
    again, x = HubNetwork.from_pretrained(tmp_path / "saved").eval(), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(again(x), about.deployed()(x), rtol=1e-4, atol=1e-5)  # another memory format
    assert again.classes == list("0123456789")
    for name, value in about.network.state_dict().items():
        if "lipschitz" not in name:  # is measured anew
            assert torch.equal(again.network.state_dict()[name], value)
    assert "Test accuracy" not in card(about) and "12.34 %" in card(about, 0.1234)


# exports


@pytest.mark.parametrize("format", ["pt2", "onnx"])
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("res_csc_8", {}),
        ("plain_8", {"norm": "none"}),
        ("msd_csc_3", {"unfolding": 0, "norm": "whole"}),
        ("msd_csc_3", {"unfolding": 2, "solver": "fista"}),
        ("msd_csc_6", {"unfolding": 1, "sweep": "multilayer"}),
        ("ml_csc", {"unfolding": 1}),
        ("feed_forward", {}),
    ],
    ids=str,
)
def test_every_family_is_exported_for_any_batch_and_size(tmp_path, name, choices, format):
    one = made(name, width=2, **choices)
    path = tmp_path / f"model.{format}"
    assert export(one, path, format) < 1e-4
    x = torch.rand(3, 3, 40, 24)
    if format == "pt2":
        extra = {"classes": ""}
        found = torch.export.load(path, extra_files=extra).module()(x)
        assert json.loads(extra["classes"]) == list("abcd")
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list("abcd")
        found = torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])
    torch.testing.assert_close(found, one.deployed()(x), rtol=1e-3, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and len({s[0] for s in SIZES}) == 3


def test_an_export_that_is_wrong_leaves_nothing(tmp_path, monkeypatch):
    one = made("plain_8", width=2)
    monkeypatch.setattr("pursuitnet.sharing.export._difference", lambda *given: float("nan"))
    with pytest.raises(ValueError, match="the exported logits are off by nan"):
        export(one, tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_the_program_exports_a_run_and_overwrites_nothing(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")

    def call(*arguments):
        cli.app(["export", str(copy), *arguments], exit_on_error=False, print_error=False, result_action="return_value")
        return capsys.readouterr().out

    assert "within" in call("--format", "pt2") and (copy / "model.pt2").is_file()
    with pytest.raises(FileExistsError, match="name another --out"):
        call("--format", "pt2")
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has not finished"):
        call("--format", "onnx")
