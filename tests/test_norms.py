"""The normalizations inside P, as PyTorch's own tools for normalization layers meet them."""

import copy

import pytest
import torch
from makers import normal
from torch import nn
from torch.autograd import forward_ad
from torch.optim.swa_utils import update_bn

import pursuitnet as pn
from pursuitnet.prox.norms import (
    ChannelNorm,
    RunningRMSNorm,
    _ByRootMeanSquare,
    eval_affine,
    frozen_running_stats,
    synchronize,
)

KINDS = {
    "rows": lambda: ChannelNorm(3, affine=False, momentum=0.3),
    "scale": lambda: RunningRMSNorm(3, momentum=0.3),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def batches(count=12):
    """Batches whose scale grows, so that an average with a momentum is far from that of all."""
    return [(1 + i) * normal(8, 3, 5, seed=i) + 1 for i in range(count)]


@kinds
def test_update_bn_takes_the_average_over_all_batches(kind):
    model, seen = nn.Sequential(KINDS[kind]()).double(), batches()
    model(100 * seen[0])  # what was there is forgotten
    update_bn(seen, model)
    scale, shift = eval_affine(model[0])
    if kind == "rows":
        mean = torch.stack([x.mean((0, 2)) for x in seen]).mean(0)
        size = torch.stack([x.var((0, 2)) for x in seen]).mean(0)
    else:
        mean, size = 0 * shift, torch.stack([x.square().mean((0, 2)) for x in seen]).mean(0)
    torch.testing.assert_close(scale, (size + 1e-5).rsqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(shift, -mean * scale, rtol=1e-12, atol=1e-14)
    assert model[0].momentum == 0.3


def test_update_bn_of_a_network_reaches_all_of_its_normalizations():
    torch.manual_seed(0)
    model, images = pn.create_model("msd_csc_3", width=3).double(), [torch.rand(8, 3, 8, 8).double() for _ in range(3)]
    first = next(m for m in model.modules() if isinstance(m, RunningRMSNorm))
    kept = []
    first.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].square().mean((0, 2, 3))))
    update_bn(images, model)
    torch.testing.assert_close(first.mean_square, torch.stack(kept).mean(0))


@kinds
def test_a_batch_of_nothing_leaves_the_statistics_as_they_are(kind):
    norm = KINDS[kind]().double()
    norm(batches()[3])
    kept = eval_affine(norm)
    assert norm(torch.empty(0, 3, 5, dtype=torch.float64)).shape == (0, 3, 5)
    torch.testing.assert_close(eval_affine(norm), kept, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*all_reduce is deprecated:FutureWarning")  # its successor has no gradient
@kinds
@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_of_all_processes_are_those_of_one_and_a_batch_of_nothing_leaves_them(kind, momentum, tmp_path):
    alone, shared = KINDS[kind]().double(), KINDS[kind]().double()
    alone.momentum = shared.momentum = momentum
    synchronize(shared)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        for x in batches(3):
            torch.testing.assert_close(shared(x), alone(x), rtol=1e-6, atol=1e-6)
        shared(torch.empty(0, 3, 5, dtype=torch.float64))
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(eval_affine(shared), eval_affine(alone), rtol=1e-6, atol=1e-6)


def test_one_value_a_row_is_refused_in_training_and_taken_in_evaluation():
    norm = KINDS["rows"]()
    with pytest.raises(ValueError, match=r"one value per channel, \(1, 3\), has no variance.*evaluation mode"):
        norm(torch.randn(1, 3))
    assert norm.eval()(torch.randn(1, 3)).shape == (1, 3)


def test_a_scale_norm_is_not_replaced_by_one_that_subtracts_means():
    model = pn.create_model("msd_csc_3", width=2)
    with pytest.raises(
        AttributeError, match=r"RunningRMSNorm has no running_mean.*pursuitnet.prox.norms.synchronize\(model\)"
    ):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)


def test_what_evaluation_does_is_known_of_a_synchronized_batch_normalization_of_pytorch():
    model = pn.create_model("resnet_8", width=2).double()
    model(normal(8, 3, 8, 8))
    layer = model.pursuits()[1]
    nn.init.uniform_(layer.threshold.norms[0][0].weight, 0.5, 2.0)
    expected = layer.threshold.eval_affine()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer.threshold))
    assert isinstance(converted.norms[0][0], nn.SyncBatchNorm)
    (found,) = converted.eval_affine()
    torch.testing.assert_close(found, expected[0], rtol=0, atol=0)
    assert len(converted.scales()) == 1


@kinds
def test_without_running_statistics_the_batch_is_taken_in_evaluation_too(kind):
    norm, x = nn.Sequential(KINDS[kind]()).double(), batches()[2]
    expected = norm(x)
    torch.func.replace_all_batch_norm_modules_(norm)
    torch.testing.assert_close(norm.eval()(x), expected)
    with pytest.raises(ValueError, match="keeps no running statistics"):
        eval_affine(norm[0])


def test_a_scale_norm_keeps_the_names_of_its_state_and_loads_one_without_versions():
    norm = KINDS["scale"]()
    assert list(norm.state_dict()) == ["mean_square"]
    norm.load_state_dict({"mean_square": torch.tensor([1.0, 2.0, 3.0])})
    assert norm.mean_square.tolist() == [1, 2, 3]


@kinds
def test_still_leaves_statistics_and_their_number(kind):
    norm = KINDS[kind]().double()
    norm(batches()[0])
    kept = {name: value.clone() for name, value in norm.named_buffers()}
    with frozen_running_stats(norm):
        norm(batches()[5])
    assert all(torch.equal(value, kept[name]) for name, value in norm.named_buffers())


def plain(z):
    return z / (z.square().mean(dim=[0, *range(2, z.dim())], keepdim=True) + 1e-5).sqrt()


def by_root_mean_square(z):
    return _ByRootMeanSquare.apply(z, 1e-5)[0]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # of jvp itself
@pytest.mark.parametrize("size", [(), (3, 4)])
def test_forward_differentiation_of_the_division_and_of_its_gradient(size):
    z, v, w = normal(6, 2, *size), normal(6, 2, *size, seed=1), normal(6, 2, *size, seed=2)
    assert torch.autograd.gradcheck(by_root_mean_square, z.clone().requires_grad_(), check_forward_ad=True)
    found = [torch.func.jvp(f, (z,), (v,)) for f in (by_root_mean_square, plain)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)

    def along(f, again):
        """The derivative of f's gradient along v, with that gradient a part of the graph and not."""
        with forward_ad.dual_level():
            at = forward_ad.make_dual(z.clone().requires_grad_(), v)
            (gradient,) = torch.autograd.grad((f(at) ** 3 * w).sum(), at, create_graph=again)
            return forward_ad.unpack_dual(gradient).tangent.detach()

    for again in (False, True):
        torch.testing.assert_close(along(by_root_mean_square, again), along(plain, again), rtol=1e-10, atol=1e-12)


def test_a_network_in_training_is_differentiated_forwards_and_backwards_alike():
    model = pn.create_model("msd_csc_3", width=2, in_chans=1).double()
    x, v = normal(4, 1, 6, 6).abs().requires_grad_(), normal(4, 1, 6, 6, seed=1)
    w = normal(4, 10, seed=2)
    (gradient,) = torch.autograd.grad((model(x) * w).sum(), x)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x.detach(), v))).tangent
    torch.testing.assert_close((tangent * w).sum(), (gradient * v).sum(), rtol=1e-9, atol=1e-12)


def test_a_division_in_half_precision_does_not_divide_nothing_by_nothing():
    norm = RunningRMSNorm(2, momentum=0.3, eps=1e-12).half()
    assert not norm(torch.zeros(4, 2, dtype=torch.float16)).any()
    assert not norm.eval()(torch.zeros(4, 2, dtype=torch.float16)).any()
