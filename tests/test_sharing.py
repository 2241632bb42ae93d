"""Trained networks as files: read back, refused when damaged, on the hub, as ONNX and as exported programs."""

import importlib
import io
import json
import os
import random
import shutil
import sys

import pytest
import torch
import torch.fx.experimental._config
from programs import called
from safetensors import safe_open

import pursuitnet as pn
from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import Trained, trained, weights
from pursuitnet.program.sharing import export as exporting
from pursuitnet.program.sharing.export import export
from pursuitnet.utils import packed

takes_any_size = pytest.mark.skipif(
    not hasattr(torch.fx.experimental._config, "backed_size_oblivious"), reason="needs PyTorch 2.8"
)
NO_TEXT = os.fsdecode(b"na\xefve") if sys.platform == "linux" else "run"
"""The name of a folder, which is not UTF-8 where a system allows that."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a tiny finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe(model="msd_csc_3", width=3, epochs=1, train_images=100, unfolding=1, device="cpu")
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


def test_images_as_they_are_are_normalized_first():
    one = made("resnet_8", width=2)
    x = torch.rand(3, 3, 12, 12)
    assert torch.equal(one.deployed()(x), one.network((x - 0.4) / 0.3))
    assert torch.equal(one.prepare(x), (x - 0.4) / 0.3)


def test_whole_numbers_are_prepared_as_in_training():
    one, x = made("resnet_8", width=2), torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8)
    expected = pn.data.normalize(x, one.mean, one.std)
    assert torch.equal(one.prepare(x), expected) and torch.equal(one.deployed()(x), one.network(one.prepare(x)))


@pytest.mark.parametrize("shape", [(2, 1, 12, 12), (3, 12, 12)], ids=str)
def test_images_that_the_network_was_not_made_for_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        made("resnet_8", width=2).deployed()(torch.rand(shape))
    with pytest.raises(TypeError, match=r"images is an array of shape \(1, 3, 6, 6\); expected a tensor"):
        made("resnet_8", width=2).deployed()(torch.rand(1, 3, 6, 6).numpy())
    with pytest.raises(TypeError, match=r"torch\.int64; expected uint8"):
        made("resnet_8", width=2).prepare(torch.zeros(shape, dtype=torch.int64))


def test_floats_on_another_scale_are_refused():
    one, x = made("resnet_8", width=2), torch.randint(256, (2, 3, 12, 12), dtype=torch.uint8)
    unit = x / 255
    for wrong in (x.float(), 2 * unit - 1, one.prepare(unit), unit.where(unit < 0.9, torch.nan), -x.double()):
        for call in (one.deployed(), one.prepare):
            with pytest.raises(ValueError, match=r"floats from \S+ to \S+; expected uint8, or floats in \[0, 1\]"):
                call(wrong)
    for right in (unit, unit.double().float(), 1.1 * unit - 0.05, unit[:0]):  # a filter may overshoot
        assert torch.equal(one.prepare(right), (right - 0.4) / 0.3)
    assert torch.vmap(one.prepare)(unit[None]).shape == (1, *unit.shape)


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
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has neither model\.safetensors nor recipe\.json"):
        pn.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist; name a run"):
        pn.load(tmp_path / "nothing.safetensors")
    state, about = weights.unpack(run / "model.safetensors")
    (tmp_path / "less.safetensors").write_bytes(weights.pack(state, {"recipe": about["recipe"]}))
    with pytest.raises(ValueError, match="lacks what a network needs"):
        pn.load(tmp_path / "less.safetensors")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classes": ["a", "b"]}, r"than msd_csc_3: size mismatch for head\.bias"),
        ({"classes": 10}, "has invalid classes, mean or std"),
        ({"classes": list(range(10))}, "has invalid classes, mean or std"),
        ({"mean": 0.0}, "has invalid classes, mean or std"),
        ({"mean": [], "std": []}, "has invalid classes, mean or std"),
        ({"std": [1.0, 1.0]}, "has invalid classes, mean or std"),
        ({"std": [0.0]}, "has invalid classes, mean or std"),
        ({"mean": [float("nan")]}, "has invalid classes, mean or std"),
        ({"recipe": []}, r"the recipe in .* is \[\]"),
        ({"recipe": {"model": "alexnet"}}, "this version cannot create: no model is called 'alexnet'"),
        ({"recipe": {"later": 1}}, "unknown field 'later'"),
    ],
    ids=str,
)
def test_whole_files_that_no_network_fits_are_refused(run, tmp_path, changes, says):
    state, about = weights.unpack(run / "model.safetensors")
    path = tmp_path / "other.safetensors"
    path.write_bytes(weights.pack(state, {**about, **changes}))
    with pytest.raises(ValueError, match=says) as said:
        pn.load(path)
    assert path.name in str(said.value) and "\n" not in str(said.value)


# of networks below the limits, that would take gigabytes or objects without end
GREEDY = [
    ({"width": 12_000}, "size mismatch"),
    ({"model": "msd_csc_999", "width": 1}, "more layers and steps than there are tensors, [0-9]+"),
    ({"unfolding": 9_999}, "more layers and steps than there are tensors, [0-9]+"),
    ({"model": "ml_csc", "unfolding": 9_999, "width": 1}, "more layers and steps than there are tensors, [0-9]+"),
    ({"unfolding": 9_999, "norm": "none"}, "Missing key|Unexpected key"),
]


@pytest.fixture
def shapes_alone(monkeypatch):
    """Let networks be made on meta only, where they take no memory."""
    plain = pn.create_model

    def make(*given, **options):
        assert torch.empty(0).device.type == "meta", "the network is made before its weights are looked at"
        return plain(*given, **options)

    for module in ("factories", "sharing.hub"):
        monkeypatch.setattr(f"pursuitnet.program.{module}.create_model", make)


@pytest.mark.parametrize(("changes", "says"), GREEDY)
def test_weights_that_claim_a_larger_network_than_they_hold_take_no_memory(run, tmp_path, shapes_alone, changes, says):
    state, about = weights.unpack(run / "model.safetensors")
    path = tmp_path / "model.safetensors"
    path.write_bytes(weights.pack(state, {**about, "recipe": {**about["recipe"], **changes}}))
    with pytest.raises(ValueError, match=f"holds weights of another network than .*({says})"):
        pn.load(path)


@pytest.mark.parametrize(("changes", "says"), GREEDY)
def test_a_config_of_the_hub_that_claims_a_larger_network_takes_no_memory(
    run, tmp_path, monkeypatch, request, changes, says
):
    from pursuitnet.program.sharing.hub import HubNetwork

    HubNetwork.of(trained(run)).save_pretrained(tmp_path)
    request.getfixturevalue("shapes_alone")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config |= {"name": changes.get("model", config["name"])}
    config["choices"] |= {name: value for name, value in changes.items() if name != "model"}
    if config["choices"].get("norm") == "none":
        config["choices"]["norm"] = None
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"lacks the weights of .*({says})"):
        HubNetwork.from_pretrained(tmp_path)


@pytest.mark.parametrize("header", [b"[" * 100_000, b"[]", b"\xff", b"{}"], ids=["deep", "list", "no text", "empty"])
def test_headers_of_others_are_refused(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="not a file of weights that pursuitnet has written"):
        pn.load(path)


def test_equal_weights_are_equal_files(run):
    state, about = weights.unpack(run / "model.safetensors")
    assert weights.pack(state, about) == weights.pack(dict(reversed(state.items())), dict(reversed(about.items())))


# the hub


def test_the_hub_gives_the_same_weights_and_logits_back(run, tmp_path):
    from pursuitnet.program.sharing.hub import HubNetwork, card

    about = trained(run)
    HubNetwork.of(about, 0.1234).save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["name"] == "msd_csc_3" and config["choices"] == {"unfolding": 1, "width": 3}
    again, x = HubNetwork.from_pretrained(tmp_path / "saved"), torch.rand(2, 1, 8, 8)
    assert not again.training and again.classes == list("0123456789")
    assert torch.equal(again(x), about.deployed()(x))
    for name, value in about.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    page = (tmp_path / "saved" / "README.md").read_text()
    assert "12.34 %" in page and "Zhiyang Zhang and Shihua Zhang" in page and "model_hub_mixin" in page
    assert "Test accuracy" not in card(about)


def test_the_hub_keeps_wide_networks_to_the_last_bit(tmp_path):
    from pursuitnet.program.sharing.hub import HubNetwork

    one, x = made("msd_csc_3", width=8), torch.rand(2, 3, 16, 16)
    one.network.to(memory_format=torch.channels_last).eval()
    HubNetwork.of(one).save_pretrained(tmp_path)
    assert torch.equal(HubNetwork.from_pretrained(tmp_path)(x), one.deployed()(x))


def test_the_hub_refuses_weights_and_configs_that_lack_something(run, tmp_path):
    from safetensors.torch import load_file, save_file

    from pursuitnet.program.sharing.hub import HubNetwork

    HubNetwork.of(trained(run)).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    state = load_file(path)
    del state["network.head.bias"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"lacks the weights of msd_csc_3: .*head\.bias"):
        HubNetwork.from_pretrained(tmp_path)
    path.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="lacks the weights of msd_csc_3"):
        HubNetwork.from_pretrained(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a network of pursuitnet"):
        HubNetwork.from_pretrained(tmp_path)


def test_without_the_extra_the_hub_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "pursuitnet.program.sharing.hub", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'pursuitnet\[hub\]'"):
        importlib.import_module("pursuitnet.program.sharing.hub")


# exports


@takes_any_size
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        pytest.param("plain_8", {"norm": "none"}, marks=pytest.mark.slow),
        pytest.param("msd_csc_3", {"unfolding": 0, "norm": "whole"}, marks=pytest.mark.slow),
        pytest.param("res_csc_8", {}, marks=pytest.mark.slow),
        pytest.param("msd_csc_3", {"unfolding": 2, "solver": "fista"}, marks=pytest.mark.slow),
        pytest.param("msd_csc_6", {"unfolding": 1, "sweep": "multilayer"}, marks=pytest.mark.slow),
        pytest.param("ml_csc", {"unfolding": 1}, marks=pytest.mark.slow),
        pytest.param("feed_forward", {}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_family_is_exported_for_any_batch_and_size(tmp_path, traced_once, name, choices):
    pytest.importorskip("onnxscript")
    one = made(name, width=2, **choices)
    paths = {format: tmp_path / f"model.{format}" for format in ("pt2", "onnx")}
    for format, path in paths.items():
        assert export(one, path, format) < 1e-4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]
    for run, classes in (_program(paths["pt2"]), _session(paths["onnx"])):
        assert json.loads(classes) == list("abcd")
        least = 8 if name in ("ml_csc", "feed_forward") else 1  # three strides of 2
        for x in (torch.rand(3, 3, 40, 24), torch.rand(1, 3, least, least), torch.rand(2, 3, 9, 13)):
            torch.testing.assert_close(run(x), one.deployed()(x), rtol=1e-3, atol=1e-4)


@takes_any_size
def test_a_program_of_the_default_width_takes_any_size_down_to_one_pixel():
    """From 17 atoms on another way to convolve was looked for, and to apply the adjoint."""
    model = made("msd_csc_3", unfolding=1, solver="fista").deployed()
    run = exporting._program(model).module()
    for shape in ((2, 3, 9, 13), (1, 3, 1, 1), (3, 3, 1, 7)):
        x = torch.rand(shape)
        torch.testing.assert_close(run(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.fixture
def traced_once(monkeypatch):
    """One trace for both formats, which is the same and takes a third of the time."""
    traced, trace = [], exporting._program

    def once(model):
        traced[:] = traced or [trace(model)]
        return traced[0]

    monkeypatch.setattr(exporting, "_program", once)


def _program(path):
    extra = {"classes": ""}
    content = io.BytesIO(path.read_bytes())
    return torch.export.load(content, extra_files=extra).module(), extra["classes"]


def _session(path, in_chans=3, classes=4):
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes())
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", in_chans, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch", classes])

    def run(x):
        return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map["classes"]


def test_what_an_export_needs_is_said_before_it_begins(tmp_path, monkeypatch):
    one = made("plain_8", width=2)
    with pytest.raises(ValueError, match="format is 'tflite'; expected onnx or pt2"):
        export(one, tmp_path / "model.tflite", "tflite")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        export(one, tmp_path / "nowhere" / "model.pt2", "pt2")
    monkeypatch.setattr(exporting, "_program", lambda model: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"ONNX needs onnxruntime: pip install 'pursuitnet\[export\]'"):
        export(one, tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_an_export_that_is_wrong_leaves_nothing(tmp_path, monkeypatch):
    one = made("msd_csc_3", width=1, unfolding=0)
    monkeypatch.setattr(exporting, "_program", lambda model: None)
    monkeypatch.setattr(exporting, "_write_pt2", lambda program, path, trained: path.write_bytes(b"wrong"))
    monkeypatch.setattr(exporting, "_difference", lambda *given: float("nan"))
    with pytest.raises(ValueError, match="the exported logits differ by nan"):
        export(one, tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


@takes_any_size
def test_the_program_exports_a_run_to_a_folder_of_any_name_for_any_batch_and_size_and_overwrites_nothing(
    tmp_path, traced_once
):
    """One pixel of one channel may lie in memory anyhow; of 17 atoms, see above."""
    pytest.importorskip("onnxruntime")
    recipe = Recipe(model="msd_csc_3", width=17, unfolding=0, norm="whole", epochs=1, train_images=16, test_images=4)
    train.train(recipe, tmp_path / NO_TEXT)
    copy, draws = tmp_path / NO_TEXT, torch.get_rng_state()
    assert "within" in called("export", copy, "--format", "pt2") and (copy / "model.pt2").is_file()
    assert "within" in called("export", copy, "--format", "onnx", "--out", copy / "named.onnx")
    assert torch.equal(torch.get_rng_state(), draws)  # torch's global generator is left as it was
    (tmp_path / "plain").touch()  # as readable as any new file
    assert (copy / "model.pt2").stat().st_mode == (tmp_path / "plain").stat().st_mode
    model = trained(copy).deployed()
    for run, classes in (_program(copy / "model.pt2"), _session(copy / "named.onnx", 1, 10)):
        assert json.loads(classes) == list("0123456789")
        for x in (torch.rand(3, 1, 8, 8), torch.rand(1, 1, 1, 1), torch.rand(3, 1, 1, 7), torch.rand(2, 1, 9, 13)):
            torch.testing.assert_close(run(x), model(x), rtol=1e-3, atol=1e-4)
    assert "name another --out" in called("export", copy, "--format", "pt2", code=2)
    (copy / "model.safetensors").unlink()
    assert "has not finished" in called("export", copy, "--format", "onnx", code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "nothing does not exist; name a run"),
        ([".", "--format", "tflite"], "tflite"),
        (["."], "holds no run"),
    ],
    ids=str,
)
def test_what_a_user_of_export_gets_wrong_ends_in_one_line_and_code_2(tmp_path, arguments, says):
    said = called("export", *arguments, cwd=tmp_path, code=2)
    assert said.startswith("pursuitnet: ") and said.count("\n") == 1 and says in said
    assert not list(tmp_path.iterdir())


# what is no run, and what is made to mislead


def test_a_folder_that_is_no_run_says_so_and_which_one_may_be_meant(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has neither model\.safetensors nor recipe\.json$"):
        pn.trained(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"holds no run: .*did you mean {run}"):
        pn.load(run.parent)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"the run has not finished: pursuitnet train --out .* --resume"):
        pn.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="name a run folder"):
        pn.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["recipe", "classes", "mean", "std"])
@pytest.mark.parametrize("value", [None, 3, "[" * 100_000, "[1" + "0" * 400 + "]", "[null]", "[true]", "1e400"])
def test_metadata_made_to_mislead_are_one_sentence(run, tmp_path, name, value):
    header, content = packed.split((run / "model.safetensors").read_bytes())
    header["__metadata__"][name] = value
    del header["__metadata__"]["sha256"]
    header["__metadata__"]["sha256"] = packed.digest(header, content)
    text = json.dumps(header).encode()
    (tmp_path / "crafted.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content)
    with pytest.raises(ValueError, match=r"crafted\.safetensors") as caught:
        trained(tmp_path / "crafted.safetensors")
    assert "\n" not in str(caught.value)


def test_a_header_nested_too_deeply_is_damage(tmp_path):
    text = b"[" * 100_000
    (tmp_path / "deep.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match=r"deep\.safetensors is damaged"):
        trained(tmp_path / "deep.safetensors")
