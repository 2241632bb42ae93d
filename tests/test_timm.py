"""timm makes the networks of this library: the real one where it is installed, and a small stand-in everywhere."""

import importlib.util

import pytest
from programs import LoadedPython, finished

import pursuitnet as pn

REGISTRY = """
import sys
made = {}
def register_model(fn):
    module = sys.modules[fn.__module__]
    module.__all__ = [*getattr(module, "__all__", []), fn.__name__]
    made[fn.__name__] = fn
    return fn
def list_models():
    return sorted(made)
def create_model(name, pretrained=False, **kwargs):
    return made[name](pretrained=pretrained, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs)
"""


@pytest.fixture
def timm(tmp_path):
    """A package with the part of timm's registry that matters, in a folder."""
    (tmp_path / "timm" / "models").mkdir(parents=True)
    (tmp_path / "timm" / "__init__.py").write_text("from .models import create_model, list_models\n")
    (tmp_path / "timm" / "models" / "__init__.py").write_text("from ._registry import *\n")
    (tmp_path / "timm" / "models" / "_registry.py").write_text(REGISTRY)
    return tmp_path


CHECK = """
import torch
model = timm.create_model("res_csc_20", num_classes=7, in_chans=1, width=2)
assert type(model).__module__ == "pursuitnet.networks.network"
assert model(torch.rand(2, 1, 32, 32)).shape == (2, 7)
assert set(pursuitnet.list_models()) <= set(timm.list_models()), timm.list_models()
import inspect
assert "register_model" in inspect.getsource(timm.models)  or "_registry" in inspect.getsource(timm.models)
"""


@pytest.mark.parametrize("first", ["import pursuitnet, timm", "import timm, pursuitnet"])
def test_networks_register_themselves_in_either_order(timm, first):
    done = finished("-c", f"{first}\n{CHECK}", cwd=timm, kind=LoadedPython)
    assert done.returncode == 0, done.stderr


def test_neither_timm_nor_torch_is_loaded_by_the_import(timm):
    probe = "import sys, pursuitnet; assert not {'timm', 'torch'} & set(sys.modules)"
    assert finished("-c", probe, cwd=timm).returncode == 0


def test_a_timm_without_a_registry_is_imported_all_the_same(timm):
    (timm / "timm" / "__init__.py").write_text("from . import models\n")
    (timm / "timm" / "models" / "__init__.py").write_text("")
    done = finished("-c", "import pursuitnet, timm; print(timm.models.__name__)", cwd=timm, kind=LoadedPython)
    assert done.returncode == 0 and done.stdout.strip() == "timm.models"
    assert "are not registered with timm" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_the_real_timm_makes_them():
    import timm

    assert set(pn.list_models()) <= set(timm.list_models())
    assert timm.create_model("res_csc_20", num_classes=7).get_classifier().out_features == 7
