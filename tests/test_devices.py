"""Networks and dictionaries on other devices, in other number formats, and under another default device."""

import contextlib
import copy

import pytest
import torch
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet import data, train
from pursuitnet.recipe import Recipe

DEFAULT = ["res_csc_8", "res_csc_simplified_8", "plain_8", "ml_csc", "feed_forward", "msdnet_3", "msd_csc_3"]
DICTIONARIES = {
    "2-D": lambda w: pn.ConvDictionary(w),
    "strided": lambda w: pn.ConvDictionary(w, stride=2, padding=1),
    "dilated, with identity": lambda w: pn.WithIdentity(pn.ConvDictionary(w, padding=2, dilation=2)),
    "circular": lambda w: pn.CircularDictionary(w),
    "matrix": lambda w: pn.LinearDictionary(w[:, :, 0, 0].contiguous()),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def step_of(model, x, autocast=None):
    """Forward and backward pass; the logits."""
    with torch.autocast(x.device.type, autocast) if autocast else contextlib.nullcontext():
        logits = model.train()(x)
    F.cross_entropy(logits.float(), torch.arange(len(x), device=x.device)).backward()
    return logits


# shapes without numbers


@pytest.mark.parametrize("built_there", [True, False])
@pytest.mark.parametrize("name", [*DEFAULT, "msd_csc_6"])
def test_a_network_runs_its_shapes_on_the_meta_device(name, built_there):
    """Nothing in it may lie on another device: an operation between meta and CPU is an error."""
    with torch.device("meta" if built_there else "cpu"):
        model = pn.create_model(name)
    model, x = model.to("meta"), torch.empty(4, 3, 32, 32, device="meta")
    assert step_of(model, x).shape == (4, 10)
    assert all(p.grad is None or p.grad.is_meta for p in model.parameters())
    assert model.eval()(x).shape == (4, 10)


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_a_dictionary_runs_its_shapes_on_the_meta_device(kind):
    D, x = DICTIONARIES[kind](torch.empty(8, 3, 3, 3, device="meta")), torch.empty(2, 3, 8, 8, device="meta")
    x = x[:, :, 0, 0] if D.dims == 0 else x
    code = D.analyze(x)
    assert D.synthesize(code, x.shape).shape == x.shape and D.matrix(x.shape).shape[1] == code[0].numel()
    assert D.norms(x.shape).shape == (1, *code.shape[1:]) and D.lipschitz_bound().is_meta
    assert D.columns(torch.arange(4, device="meta"), x.shape)[1].is_meta


# CUDA


@pytest.mark.parametrize("kind", DICTIONARIES)
@pytest.mark.parametrize("atoms", [1, 64])
@pytest.mark.gpu
@needs_cuda
def test_the_bound_holds_in_single_precision_on_a_cuda_device(kind, atoms):
    """Whose convolutions round to ten bits unless they are told not to."""
    D = DICTIONARIES[kind](torch.randn(atoms, 16, 3, 3))
    here, there = D.lipschitz_bound(), copy.deepcopy(D).cuda().lipschitz_bound()
    torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.gpu
@needs_cuda
def test_a_network_of_any_number_format_trains_on_a_cuda_device(name, dtype):
    model, x = pn.create_model(name).to("cuda", dtype), torch.rand(4, 3, 32, 32, device="cuda", dtype=dtype)
    assert step_of(model, x).isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(x).isfinite().all()


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("name", DEFAULT)
@pytest.mark.gpu
@needs_cuda
def test_a_training_step_never_waits_for_a_cuda_device(name, autocast):
    model, x = pn.create_model(name).cuda(), torch.rand(4, 3, 32, 32, device="cuda")
    optimiser = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    step_of(model, x, autocast)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step_of(model, x, autocast)
        optimiser.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("default")  # PyTorch's compiler warns of its own insides
@pytest.mark.gpu
@needs_cuda
def test_cuda_graphs_evaluate_batch_after_batch():
    """Every call of a CUDA graph writes its logits to the same place."""
    recipe = Recipe(model="msd_csc_3", width=8, train_images=64, device="cuda", precision="float32")
    plain, graphs = train.Trainer(recipe), train.Trainer(Recipe(**{**vars(recipe), "cuda_graphs": True}))
    graphs.restore(plain.state())
    expected, found = (train.evaluate(t.model, t.images, t.images.test, size=90) for t in (plain, graphs))
    assert found[0] == pytest.approx(expected[0], rel=1e-3) and (found[2] == expected[2]).float().mean() > 0.98


@pytest.mark.gpu
@needs_cuda
def test_a_cuda_device_as_the_default_one_builds_and_measures():
    expected = pn.create_model("msd_csc_3", width=4)
    with torch.device("cuda"):
        model = pn.create_model("msd_csc_3", width=4)
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cuda"}
        D = pn.WithIdentity(pn.ConvDictionary(torch.randn(8, 3, 3, 3), padding=1))
        assert D.lipschitz((1, 3, 32, 32)) <= float(D.lipschitz_bound()) * (1 + 1e-6)
        assert expected(torch.rand(2, 3, 16, 16, device="cpu")).device.type == "cpu"
        images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="cpu")
        assert data.augment(images, torch.Generator().manual_seed(0)).device.type == "cpu"
