"""Networks and dictionaries on other devices, in other number formats, and under another default device."""

import contextlib
import copy

import pytest
import torch
from compilers import real_compiler
from makers import dictionary_of
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pursuitnet as pn
from pursuitnet import data
from pursuitnet.program import train
from pursuitnet.program.evaluation.corruptions import CORRUPTIONS
from pursuitnet.program.recipe import Recipe

DEFAULT = ["res_csc_8", "res_csc_simplified_8", "plain_8", "ml_csc", "feed_forward", "msdnet_3", "msd_csc_3"]
KINDS = ["wide matrix", "2-D", "2-D / 2, padded", "2-D circular", "[I 2-D], dilated"]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def filled(kind, weight):
    """A dictionary of the list with these filters of 3 × 3, or their first taps where it is a matrix."""
    return dictionary_of(kind, weight[:, :, 0, 0].contiguous() if kind == "wide matrix" else weight)


def step_of(model, x, autocast=None):
    """Forward and backward pass; the logits."""
    with torch.autocast(x.device.type, autocast) if autocast else contextlib.nullcontext():
        logits = model.train()(x)
    F.cross_entropy(logits.float(), torch.arange(len(x), device=x.device)).backward()
    return logits


# shapes without numbers


BUILT = [*((name, i % 2 > 0) for i, name in enumerate([*DEFAULT, "msd_csc_6"])), ("msd_csc_3", True), ("ml_csc", False)]


@pytest.mark.parametrize(("name", "built_there"), BUILT)
def test_a_network_runs_its_shapes_on_the_meta_device(name, built_there):
    """Nothing in it may lie on another device: an operation between meta and CPU is an error."""
    with torch.device("meta" if built_there else "cpu"):
        model = pn.create_model(name, width=4)
    model, x = model.to("meta"), torch.empty(4, 3, 32, 32, device="meta")
    assert step_of(model, x).shape == (4, 10)
    assert all(p.grad is None or p.grad.is_meta for p in model.parameters())
    assert model.eval()(x).shape == (4, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_runs_its_shapes_on_the_meta_device(kind):
    D, x = filled(kind, torch.empty(8, 3, 3, 3, device="meta")), torch.empty(2, 3, 8, 8, device="meta")
    x = x[:, :, 0, 0] if D.dims == 0 else x
    code = D.analyze(x)
    assert D.synthesize(code, x.shape).shape == x.shape and D.matrix(x.shape).shape[1] == code[0].numel()
    assert D.atom_norms(x.shape).shape == (1, *code.shape[1:]) and D.lipschitz_bound().is_meta
    assert D.columns(torch.arange(4, device="meta"), x.shape)[1].is_meta


@pytest.mark.parametrize("step", ["bounded", "free"])
def test_a_network_built_without_numbers_takes_those_of_a_trained_one(step):
    trained, x = pn.create_model("msd_csc_3", width=4, step=step), torch.rand(2, 3, 8, 8)
    with torch.device("meta"):
        model = pn.create_model("msd_csc_3", width=4, step=step)
    model = model.to_empty(device="cpu")
    model.load_state_dict(trained.state_dict())
    assert torch.equal(model.eval()(x), trained.eval()(x))


# another default device


@pytest.mark.parametrize("name", DEFAULT)
def test_tensors_on_the_cpu_stay_there_under_another_default_device(name):
    model, x = pn.create_model(name, width=4), torch.rand(4, 3, 16, 16)
    labels = torch.arange(4)
    with torch.device("meta"):
        F.cross_entropy(model(x), labels).backward()
        logits = model.eval()(x)
        thresholds = [module for module in model.modules() if isinstance(module, pn.Threshold)]
        penalties = [p for threshold in thresholds for p in (threshold.penalty, threshold.identity_penalty)]
    assert {t.device.type for t in (logits, *penalties, *(p.grad for p in model.parameters()))} == {"cpu"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_on_the_cpu_is_measured_there_under_another_default_device(kind):
    D, shape = filled(kind, torch.randn(8, 3, 3, 3)), (2, 3, 20, 20)
    shape = shape[:2] if D.dims == 0 else shape
    expected = D.lipschitz(shape), D.atom_norms(shape)
    with torch.device("meta"):
        assert D.lipschitz(shape) == expected[0] and torch.equal(D.atom_norms(shape), expected[1])
        assert float(D.lipschitz_bound().detach()) >= expected[0] * (1 - 1e-6)


def test_data_are_the_same_under_another_default_device():
    def everything():
        images = train.images_of(Recipe(train_images=40, device="cpu"))
        pixels, labels = images.test[0][:8], images.test[1]
        batch = next(train.batches(Recipe(train_images=40, batch_size=40), 1, images))[0]
        moved = data.augment(pixels, torch.Generator().manual_seed(0))
        spoilt = [corruption.seeded(pixels, 3, 0) for corruption in CORRUPTIONS.values()]
        return [pixels, labels, batch, moved, *spoilt]

    expected = everything()
    with torch.device("meta"):
        found = everything()
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


# half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DEFAULT)
def test_a_network_in_half_precision_evaluates_and_trains(name, dtype):
    model, x = pn.create_model(name, width=8), torch.rand(4, 3, 16, 16)
    expected = model.eval()(x)
    model, x = model.to(dtype), x.to(dtype)
    logits = model.eval()(x)
    assert logits.dtype == dtype and (logits.float() - expected).norm() < 0.02 * expected.norm()
    assert step_of(model, x).isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    for layer in model.pursuits():
        if isinstance(layer.step, pn.BoundedStep):  # rounding has not made the bound too small
            assert float(layer.step.lipschitz.double()) >= layer.dictionary.lipschitz(
                (1, layer.dictionary.channels, 8, 8)
            )


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_of_half_precision_filters_is_that_of_the_same_filters_in_single(kind):
    D = filled(kind, torch.randn(8, 3, 3, 3).bfloat16())
    assert D.lipschitz_bound() == copy.deepcopy(D).float().lipschitz_bound()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_tight_bound_is_rounded_upwards(dtype):
    """Of filters of one tap and one channel the bound is λmax itself."""
    for seed in range(8):
        weight = torch.randn(4, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
        layer = pn.PursuitLayer(pn.ConvDictionary(weight)).to(dtype).eval()
        assert float(layer.step.lipschitz.double()) >= layer.dictionary.lipschitz((1, 1, 4, 4))


# the default width, where convolutions of more than 16 channels may go another way


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_network_of_the_default_width_learns_in_bfloat16_as_in_single_precision(checkpointed):
    """Its second layer has 35 channels, dilated filters and 32 columns: too wide for oneDNN's gradient."""
    model, x = pn.create_model("msd_csc_3", unfolding=1), torch.rand(2, 3, 64, 64)
    other = copy.deepcopy(model)
    other.set_grad_checkpointing(checkpointed)
    step_of(model, x)
    step_of(other, x, torch.bfloat16)
    for name, parameter in model.named_parameters():
        off = other.get_parameter(name).grad - parameter.grad
        if parameter.dim() > 1:
            assert off.norm() < 0.3 * parameter.grad.norm(), name


# copies, averages, parametrizations and functions of the weights


def test_the_step_of_averaged_weights_is_theirs():
    for multi_avg_fn in (None, get_ema_multi_avg_fn(0.5)):
        model = pn.create_model("msd_csc_3", width=4)
        averaged = AveragedModel(model, multi_avg_fn=multi_avg_fn).eval()
        for factor in (3.0, 0.2):
            with torch.no_grad():
                for layer in model.pursuits():
                    layer.dictionary.dictionary.weight.mul_(factor)
            averaged.update_parameters(model.train())
        averaged.eval()
        for own, mean in zip(model.eval().pursuits(), averaged.module.pursuits(), strict=True):
            assert mean.step.lipschitz == mean.dictionary.lipschitz_bound()
            assert mean.step.lipschitz != own.step.lipschitz == own.dictionary.lipschitz_bound()


class Doubled(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("name", ["res_csc_8", "ml_csc", "msd_csc_3"])
def test_a_parametrized_network_is_that_of_the_computed_weights(name):
    model, x = pn.create_model(name, width=4).double(), torch.rand(4, 3, 16, 16, dtype=torch.float64)
    plain = copy.deepcopy(model)
    for layer, twin in zip(model.pursuits(), plain.pursuits(), strict=True):
        inner, same = (getattr(d, "dictionary", d) for d in (layer.dictionary, twin.dictionary))
        parametrize.register_parametrization(inner, "weight", Doubled())
        with torch.no_grad():
            same.weight.mul_(2)
    torch.testing.assert_close(step_of(model, x), step_of(plain, x), rtol=1e-12, atol=0)
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), plain.eval()(x), rtol=1e-12, atol=0)


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("name", DEFAULT)
def test_functional_gradients_in_training_are_those_of_backward(name, captured):
    """L follows the weights that are given, not those of the module; buffers may be captured where no norm writes."""
    model = pn.create_model(name, width=4, norm=None if captured else "batch").double()
    x, labels = torch.rand(4, 3, 16, 16, dtype=torch.float64), torch.arange(4)
    with torch.no_grad():
        weights = {name: 1.5 * p.detach() for name, p in model.named_parameters()}

    def loss(weights, buffers):
        return F.cross_entropy(functional_call(model, (weights, buffers), (x,)), labels)

    found = torch.func.grad(loss)(weights, {} if captured else dict(model.named_buffers()))
    model.load_state_dict(weights, strict=False)
    F.cross_entropy(model(x), labels).backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(found[key], parameter.grad, rtol=1e-9, atol=1e-12)
    assert not any(torch._C._functorch.is_functorch_wrapped_tensor(b) for b in model.buffers())


def test_an_ensemble_in_one_call_has_a_step_for_each_member():
    models = [pn.create_model("msd_csc_3", width=4, norm=None).double() for _ in range(3)]
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    weights, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")

    def logits(weights, buffers):
        return functional_call(base, (weights, buffers), (x,))

    expected = torch.stack([model(x) for model in models])
    torch.testing.assert_close(torch.vmap(logits)(weights, buffers), expected, rtol=1e-10, atol=1e-12)


# compiled, and saved before


@real_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_training_brings_every_buffer_up_to_date(dtype):
    """PyTorch's compilers drop what is written to buffers of float64 without axes."""
    plain, x = pn.create_model("msd_csc_3", width=4, unfolding=1).to(dtype), torch.rand(4, 3, 8, 8, dtype=dtype)
    compiled = copy.deepcopy(plain)
    compiled.compile(fullgraph=True)
    for model in (plain, compiled):
        with torch.no_grad():
            for layer in model.pursuits():
                layer.dictionary.dictionary.weight.mul_(3)
    logits = [model.train()(x) for model in (plain, compiled)]
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    for (name, one), other in zip(plain.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5, msg=lambda said, name=name: f"{name}: {said}")
    assert all(
        buffer.dim() or not buffer.is_floating_point() or "ratio" in name for name, buffer in plain.named_buffers()
    )


@pytest.mark.parametrize("assign", [True, False])
def test_weights_saved_with_L_without_axes_are_read(assign):
    trained, x = pn.create_model("msd_csc_3", width=4).eval(), torch.rand(2, 3, 8, 8)
    old = {k: v.squeeze(0) if k.endswith("step.lipschitz") else v for k, v in trained.state_dict().items()}
    assert old["features.0.0.step.lipschitz"].shape == ()
    model = pn.create_model("msd_csc_3", width=4).eval()
    model.load_state_dict(old, assign=assign)
    assert torch.equal(model(x), trained(x)) and old["features.0.0.step.lipschitz"].shape == ()
    assert model.state_dict()["features.0.0.step.lipschitz"].shape == (1,)


# CUDA


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("atoms", [1, 64])
@pytest.mark.gpu
@needs_cuda
def test_the_bound_holds_in_single_precision_on_a_cuda_device(kind, atoms):
    """Whose convolutions round to ten bits unless they are told not to."""
    D = filled(kind, torch.randn(atoms, 16, 3, 3))
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
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    step_of(model, x, autocast)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step_of(model, x, autocast)
        optimizer.step()
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
    expected, found = (train.evaluate_split(t.model, t.images, t.images.test, size=90) for t in (plain, graphs))
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
