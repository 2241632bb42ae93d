"""Networks of absurd size are refused before memory is taken, wherever their numbers come from."""

import pytest
import torch

import pursuitnet as pn
import pursuitnet.networks.certified as certified
import pursuitnet.networks.dense as dense
import pursuitnet.networks.residual as residual
import pursuitnet.networks.six_layers as six_layers
from pursuitnet import networks
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing.weights import pack

ABSURD = [
    ({"unfolding": 10**30}, "unfolding is 1000.*000; expected at most 10,000"),
    ({"width": 10**400}, "width is 1000.*000; expected at most 65,536"),
    ({"width": 10**12}, "width is 1000000000000; expected at most 65,536"),
    ({"model": "msd_csc_" + "9" * 9}, "depth is 999999999; expected at most 10,000"),
    ({"model": "res_csc_" + "9" * 5000}, "depth is 9999.*999; expected at most 10,000"),
]
TOO_MANY = [
    {"model": "msd_csc_9999"},
    {"model": "msd_csc_3", "width": 60_000},
    {"model": "res_csc_20", "width": 60_000},
    {"model": "certified_3", "width": 10_000},
    {"model": "ml_csc", "width": 10_000},
    {"model": "ml_csc", "num_classes": 10**12},
    {"model": "ml_csc", "num_classes": 10**400},
    {"model": "res_csc_8", "in_chans": 10**12},
]

BUILDERS = (certified, dense, residual, six_layers)


def created(model="msd_csc_3", **choices):
    return pn.create_model(model, **choices)


@pytest.mark.parametrize(("values", "says"), ABSURD)
@pytest.mark.parametrize("make", [Recipe, created])
def test_a_network_of_absurd_numbers_is_refused_with_the_limit(make, values, says):
    with pytest.raises(ValueError, match=says):
        make(**values)


@pytest.mark.parametrize("values", TOO_MANY)
def test_a_network_of_too_many_weights_is_refused_before_one_is_made(values, monkeypatch):
    for family in BUILDERS:
        monkeypatch.setattr(family, "ConvDictionary", lambda *given, **options: pytest.fail("memory is taken"))
    with pytest.raises(ValueError, match=r"about \S+ weights; expected at most 1e\+10: lower its width"):
        created(**values)


@pytest.mark.parametrize("family", networks.FAMILIES)
def test_the_number_of_weights_that_is_checked_is_about_that_of_the_network(family, monkeypatch):
    said = []
    for builder in BUILDERS:
        monkeypatch.setattr(builder, "check_weights", lambda count, width: said.append(count))
    residuals = ("plain", "resnet", "res_csc", "res_csc_simplified", "learned", "multistep", "momentum")
    depth = "_44" if family in residuals else "_12"
    depth = "" if family in ("feed_forward", "ml_csc") else depth
    kinds = [{"width": 32}, {"width": 1, "num_classes": 1000}, {"width": 2, "in_chans": 1000}]
    if family == "certified":  # its channels grow sixteen times, and hold those of the image from the start
        kinds = [{"width": 8}, {"width": 3, "num_classes": 1000}]
    for choices in kinds:
        network = pn.create_model(family + depth, **choices)
        assert 0.4 < said.pop() / sum(p.numel() for p in network.parameters()) < 1.6


@pytest.mark.parametrize(("values", "says"), [*ABSURD, ({"width": 60_000}, "weights; expected at most")])
def test_weights_of_an_absurd_network_are_refused(values, says, tmp_path):
    about = {"recipe": {"model": "msd_csc_3", **values}, "classes": ["a", "b"], "mean": [0.5], "std": [0.5]}
    (tmp_path / "model.safetensors").write_bytes(pack({f"w{n}": torch.zeros(1) for n in range(9)}, about))
    with pytest.raises(ValueError, match=says):
        pn.load(tmp_path)
