"""Networks that people have, read by the white box, against what their own modules compute."""

import json
import re

import pytest
import torch
from classic_networks import (
    Basic,
    DenseLayer,
    DenseNet,
    PreActivation,
    mobilenet,
    pre_resnet_18,
    resnet_18,
    resnet_50,
    resnext,
    vgg_16,
)
from makers import normal, uniform
from test_whitebox import stirred
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn
from pursuitnet.program.whitebox import SolverBudget
from pursuitnet.program.whitebox.inspect_run import summary
from pursuitnet.program.whitebox.torch_models import trace_torch_layers

QUICK = SolverBudget(images=1, further=1, steps=3)


def made(make, seed=0):
    """A network with random weights and statistics, in float64 and evaluation."""
    torch.manual_seed(seed)
    return stirred(make())


class Runs(nn.Module):
    """A model of a few modules and one function of them."""

    def __init__(self, function, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = function

    def forward(self, *x):
        return self.function(self, *x)


def blocks_of(traced):
    return {block: sum(at.block == block for _, at in traced.layers) for block in {at.block for _, at in traced.layers}}


@pytest.mark.parametrize(
    ("make", "convolutions", "blocks", "projections", "dtype"),
    [
        (resnet_18, (20, 20), {"plain": 9, "resnet": 8}, 3, torch.float64),
        (resnet_50, (53, 53), {"plain": 33, "resnet": 16}, 4, torch.float32),
        (pre_resnet_18, (20, 20), {"plain": 9, "resnet": 8}, 3, torch.float32),
        (resnext, (9, 9), {"plain": 5, "resnet": 2}, 2, torch.float64),
        (DenseNet, (120, 120), {"plain": 62, "dense": 58}, 0, torch.float32),
        (vgg_16, (13, 13), {"plain": 15}, 0, torch.float64),
        (mobilenet, (5, 7), {"plain": 5}, 0, torch.float32),
    ],
)
def test_the_convolutions_of_the_classic_networks_are_read(make, convolutions, blocks, projections, dtype):
    model = made(make).to(dtype)
    traced = trace_torch_layers(model, normal(2, 3, 32, 32).to(dtype))
    assert traced.convolutions == convolutions
    assert blocks_of(traced) == blocks and len(traced.projections) == projections
    convs = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    named = {name for name, _ in traced.layers} | {each.name for each in traced.projections}
    assert len(convs & named) == convolutions[0] and not named & {name for name, _ in traced.unread}


@pytest.mark.parametrize("make", [resnet_18, resnet_50])
def test_a_residual_blocks_layer_starts_at_the_blocks_input(make):
    model, given = made(make), {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda block, x, out, index=index: given.update({index: (x[0].clone(), out.clone())})
        )
    traced = trace_torch_layers(model, normal(2, 3, 16, 16))
    layers, projected = dict(traced.layers), {each.layer: each.name for each in traced.projections}
    for index, block in enumerate(model.blocks):
        at, (x, out) = layers[f"blocks.{index}.last.0"], given[index]
        previous = x if block.project is None else block.project(x)
        assert torch.allclose(at.layer(at.signals[0], previous=previous), out, atol=1e-10)
        assert torch.equal(at.codes[0], out) and at.layer.start is pn.resnet
        by_projection = isinstance(block.project, nn.Sequential)
        assert projected.get(f"blocks.{index}.last.0") == (f"blocks.{index}.project.0" if by_projection else None)
        assert any("projection" in remark for remark in at.remarks) == by_projection
        assert not any("pre-activation" in remark for remark in at.remarks)


def test_a_pre_activation_block_starts_at_the_sum_before_it_is_thresholded():
    model, given = made(pre_resnet_18), {}
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(
            lambda block, x, out, index=index: given.update({index: (x[0].clone(), out.clone())})
        )
    layers = dict(trace_torch_layers(model, normal(2, 3, 32, 32)).layers)
    for index, block in enumerate(model.blocks):
        assert isinstance(block, PreActivation)
        norm = model.blocks[index + 1].norm if index + 1 < len(model.blocks) else model.norm
        x, total = given[index]
        before = x if block.project is None else block.project(F.relu(block.norm(x)))
        at, a = layers[f"blocks.{index}.last"], norm.weight * (norm.running_var + norm.eps).rsqrt()
        again = at.layer(at.signals[0], previous=before * a.view(-1, 1, 1))
        assert torch.allclose(again, F.relu(norm(total)), atol=1e-10)
        assert any("pre-activation" in remark for remark in at.remarks)


def test_a_dense_layers_code_is_what_the_next_relu_makes_of_its_channels():
    model, given = made(DenseNet), {}
    parts = list(model.features)
    for index, part in enumerate(parts):
        if isinstance(part, DenseLayer):
            part.register_forward_hook(lambda part, x, out, index=index: given.update({index: out.clone()}))
    layers = dict(trace_torch_layers(model, normal(1, 3, 32, 32)).layers)
    assert len(given) == 58
    for index, out in given.items():
        after = parts[index + 1]
        norm = after.norm if isinstance(after, DenseLayer) else after
        at, growth = layers[f"features.{index}.grow"], parts[index].grow.out_channels
        assert torch.equal(at.codes[0], F.relu(norm(out))[:, -growth:]) and at.concatenated
        assert torch.allclose(at.layer(at.signals[0]), at.codes[0], atol=1e-10)


@pytest.mark.parametrize("signed", [False, True])
def test_a_code_behind_its_own_signal_is_that_of_i_and_d(signed):
    torch.manual_seed(0)
    dense = Runs(
        lambda m, x: F.relu(m.next(torch.cat([x, F.relu(m.conv(x))], 1))),
        conv=nn.Conv2d(3, 4, 3, padding=1), next=nn.Conv2d(7, 2, 1),
    ).double()  # fmt: skip
    x = uniform(-signed, 1, 2, 3, 6, 6)
    inspection = pn.inspect(dense, x, budget=QUICK)
    assert [(layer.name, layer.block) for layer in inspection.layers] == [("conv", "dense"), ("next", "plain")]
    first, second = inspection.interpreted_layers
    assert first.dictionary.code_channels == (3, 4) and second.input_layer == 0
    assert torch.equal(first.codes[0], torch.cat([x, F.relu(dense.conv(x))], 1))
    assert torch.allclose(first.layer(x), first.codes[0], atol=1e-12)


@pytest.mark.parametrize(
    ("conv", "pool", "shape"),
    [
        (nn.Conv1d(2, 3, 3, padding=1), nn.AvgPool1d(3, 2), (2, 2, 20)),
        (nn.Conv2d(2, 3, 1), nn.AvgPool2d(2), (2, 2, 9, 8)),
        (nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.AvgPool2d((2, 3), (1, 2)), (2, 4, 17, 19)),
        (nn.Conv2d(2, 3, (3, 2), (1, 2), (2, 0), (2, 1)), nn.AvgPool2d(2, 1), (1, 2, 9, 12)),
        (nn.Conv3d(1, 2, 2), nn.AvgPool3d(2), (1, 1, 5, 6, 7)),
    ],
)
def test_an_average_pooling_before_the_relu_is_part_of_the_atoms(conv, pool, shape):
    model = nn.Sequential(conv, pool, nn.ReLU()).double()
    traced = trace_torch_layers(model, normal(*shape))
    ((_, at),) = traced.layers
    code = pool(F.conv2d(at.signals[0], conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
        if len(shape) == 4 else conv(at.signals[0]) - conv.bias.view(-1, *[1] * (len(shape) - 2)))  # fmt: skip
    assert torch.allclose(at.dictionary.analyze(at.signals[0]), code, atol=1e-12)
    assert traced.convolutions == (1, 1) and "average pooling" in at.remarks[0]


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, ceil_mode=True), nn.LPPool2d(2, 2)])
def test_other_poolings_before_the_relu_are_not_read(pool):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), pool, nn.ReLU()).double().eval()
    traced = trace_torch_layers(model, normal(1, 2, 9, 9))
    assert traced.layers == [] and "pool2d follows it" in traced.unread[0][1]


@pytest.mark.parametrize(
    ("first", "sign", "read"), [(True, 1, True), (True, -1, True), (False, 1, True), (False, -1, False)]
)
def test_a_max_pooling_before_the_relu_may_come_after_it(first, sign, read):
    torch.manual_seed(0)
    norm, pool = nn.BatchNorm2d(3), nn.MaxPool2d(3, 2, 1)
    model = stirred(nn.Sequential(nn.Conv2d(2, 3, 3), *((norm, pool) if first else (pool, norm)), nn.ReLU()))
    with torch.no_grad():
        norm.weight.mul_(sign)
    x = normal(2, 2, 9, 9)
    traced = trace_torch_layers(model, x)
    assert traced.convolutions == (read, 1)
    if read:
        ((_, at),) = traced.layers
        assert torch.allclose(at.codes[0], F.relu(norm(model[0](x))), atol=1e-12)
        assert torch.allclose(pool(at.codes[0]), model(x), atol=1e-12)
    else:  # the smallest of a window counts, and not the largest
        assert "differs by" in traced.unread[0][1]


def test_a_pooled_sum_is_not_added_to():
    torch.manual_seed(0)
    model = Runs(lambda m, x: F.relu(F.max_pool2d(m.a(x), 2) + F.avg_pool2d(x, 2)), a=nn.Conv2d(2, 2, 1)).double()
    reasons = dict(trace_torch_layers(model, normal(1, 2, 6, 6)).unread)
    assert reasons == {"a": "add follows it, and no ReLU"}


@pytest.mark.parametrize(("channels", "atoms", "groups"), [(4, 6, 2), (4, 4, 4), (3, 9, 3)])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_in_groups_is_one_of_filters_that_are_zero_elsewhere(channels, atoms, groups, dims):
    conv = getattr(nn, f"Conv{dims}d")(channels, atoms, 3, padding=1, groups=groups).double()
    x = normal(2, channels, *[5] * dims)
    ((_, at),) = trace_torch_layers(nn.Sequential(conv, nn.ReLU()), x).layers
    bias = conv.bias.view(-1, *[1] * dims)
    assert torch.allclose(at.dictionary.analyze(x), conv(x) - bias, atol=1e-12)
    assert torch.allclose(at.layer(x), F.relu(conv(x)), atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    "conv",
    [
        *(nn.Conv2d(2, 3, 3, 2, 2, padding_mode=mode) for mode in ("reflect", "replicate", "circular")),
        nn.Conv2d(2, 3, (2, 4), padding="same", dilation=(1, 3)),
        nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 3, 3, 2)),
    ],
    ids=lambda conv: getattr(conv, "padding_mode", "padded before"),
)
def test_a_padding_of_another_kind_is_part_of_the_signal(conv):
    model = nn.Sequential(conv, nn.ReLU()).double()
    inspection = pn.inspect(model, uniform(0, 1, 2, 2, 8, 7), budget=QUICK)
    assert inspection.convolutions == (1, 1) and "signal is the input after padding" in inspection.layers[0].notes[0]
    assert torch.equal(inspection.interpreted_layers[0].codes[0], model(inspection.pixels))


@pytest.mark.parametrize(
    ("relu", "cap"),
    [
        (nn.ReLU6(), 6.0),
        (nn.Hardtanh(0, 1), 1.0),
        (Runs(lambda m, x: x.clamp(0, 2)), 2.0),
        (Runs(lambda m, x: torch.clamp(x, min=0)), None),
    ],
)
def test_a_capped_relu_is_read_and_named_where_it_caps(relu, cap):
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    x = 30 * normal(2, 2, 6, 6)
    for scale, cut in ((1, cap is not None), (1e-3, False)):
        layer = pn.inspect(nn.Sequential(conv, relu), scale * x, budget=QUICK).layers[0]
        assert layer.proximal == (not cut)
        assert any(f"of the code at {cap or 0:g}" in note for note in layer.notes) == cut


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (nn.GELU(), "gelu follows it, which is no proximal map"),
        (nn.SiLU(), "silu follows it, which is no proximal map"),
        (nn.PReLU(), "prelu follows it, which is no proximal map"),
        (nn.Hardtanh(), "hardtanh follows it, which is no proximal map"),
        (nn.GroupNorm(1, 3), "group_norm follows it, whose statistics are each image's own"),
        (Runs(lambda m, x: x * x.mean((2, 3), keepdim=True)), "mul follows it, by factors that are each image's own"),
        (nn.Conv2d(3, 3, 1), "conv2d takes what it gives as it stands"),
        (Runs(lambda m, x: x.chunk(3, 1)[0]), "chunk takes parts of it"),
        (Runs(lambda m, x: x if x.shape[1] == x.size(1) else None), "no ReLU follows it"),
        (nn.Dropout(), "no ReLU follows it"),
    ],
)
def test_what_is_not_read_has_a_sentence(after, says):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), after).double().eval()
    reasons = dict(trace_torch_layers(model, normal(2, 2, 6, 6)).unread)
    assert reasons["0"].startswith(says)


@pytest.mark.parametrize("gate", [lambda x: x.mean((2, 3), keepdim=True), lambda x: x.mean()])
def test_factors_that_an_image_makes_are_not_the_models_own_even_if_it_is_alone(gate):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), Runs(lambda m, x: F.relu(x * gate(x)))).double()
    traced = trace_torch_layers(model, normal(1, 2, 6, 6))
    assert traced.layers == [] and "each image's own" in traced.unread[0][1]


def test_an_anchor_from_a_deeper_branch_is_no_residual_block():
    torch.manual_seed(0)
    gated = Runs(
        lambda m, x: F.relu(m.last(F.relu(m.first(x))) * x.mean((1, 2, 3), True) + m.short(x)),
        first=nn.Conv2d(2, 2, 3, padding=1), last=nn.Conv2d(2, 2, 3, padding=1), short=nn.Conv2d(2, 2, 1),
    ).double()  # fmt: skip
    traced = trace_torch_layers(gated, normal(2, 2, 6, 6))
    assert [name for name, _ in traced.layers] == ["first"]
    reasons = dict(traced.unread)
    assert "deeper branch" in reasons["short"] and "each image's own" in reasons["last"]


def test_a_block_that_begins_as_the_identity_is_not_read_and_neither_is_its_projection():
    model = made(lambda: Basic(3, 4, 2))
    nn.init.zeros_(model.last[1].weight)  # as many networks begin training
    inspection = pn.inspect(model, uniform(0, 1, 1, 3, 6, 6), budget=QUICK)
    assert [layer.name for layer in inspection.layers] == ["first.0"]
    assert inspection.convolutions == (1, 3) and inspection.projections == ()
    assert dict(inspection.unread) == {
        "last.0": "all its filters are zero",
        "project.0": "it is added to last.0, which is not read",
    }


def test_a_parallel_branch_is_no_projection_of_the_blocks_input():
    torch.manual_seed(0)
    modules = {name: nn.Conv2d(2, 2, 3, padding=1) for name in "abcd"}
    parallel = Runs(lambda m, x: F.relu(m.b(F.relu(m.a(x))) + m.d(F.relu(m.c(x)))), **modules).double()
    x = normal(2, 2, 6, 6)
    traced = trace_torch_layers(parallel, x)
    assert [name for name, _ in traced.layers] == ["a", "c"] and traced.projections == []
    assert dict(traced.unread) == {
        "b": "it is added to d, which is not read",
        "d": "b, a parallel branch with a signal of its own, is added before its ReLU, and is no X₋₁",
    }
    single = Runs(lambda m, x: F.relu(m.a(x) + m.b(x)), a=modules["a"], b=nn.Conv2d(2, 2, 1)).double()
    traced = trace_torch_layers(single, x)  # a block of one layer: both take its input
    assert traced.convolutions == (2, 2) and traced.projections == [("a", "b", True)]


SCALE = uniform(0.5, 2, 3, 1, 1, seed=5)  # as a model's own parameter is: no image has a say in it
SUMS = {
    "+": lambda a, b: a + b,
    "+=": lambda a, b: a.__iadd__(b),
    "the other way": lambda a, b: b + a,
    "add with alpha": lambda a, b: torch.add(a, b, alpha=0.5),
    "-": lambda a, b: a - b,
    "from the other": lambda a, b: b.sub(a, alpha=2),
    "numbers": lambda a, b: 1 + 0.1 * a / 2 - 0.3 + b * 3,
    "twice": lambda a, b: a + a + b,
    "in place on a tensor": lambda a, b: b.clone().add_(a),
    "a factor for each channel": lambda a, b: a * SCALE + SCALE.view(1, 3, 1, 1) * b,
    "a shift for each channel": lambda a, b: SCALE[:1, :, 0] + a - SCALE + b,
    "dropout": lambda a, b: F.dropout(a.contiguous(), 0.5, training=False) + b,
}


@pytest.mark.parametrize("joined", SUMS.values(), ids=SUMS)
def test_every_spelling_of_a_sum_is_followed(joined):
    torch.manual_seed(0)
    model = Runs(lambda m, x: m.relu(joined(m.norm(m.conv(x)), x)), conv=nn.Conv2d(3, 3, 3, padding=1),
        norm=nn.BatchNorm2d(3), relu=nn.ReLU(inplace=True))  # fmt: skip
    x = uniform(0, 1, 2, 3, 5, 5)
    traced = trace_torch_layers(stirred(model), x.clone())
    ((name, at),) = traced.layers
    assert (name, at.block, traced.unread) == ("conv", "resnet", [])
    assert torch.allclose(at.codes[0], model(x), atol=1e-12)


def test_concatenated_sums_are_joined_channel_by_channel():
    torch.manual_seed(0)
    model = Runs(
        lambda m, x: F.relu(m.norm(torch.cat([m.one(x), m.two(x)], 1) + torch.cat([x, x], 1))),
        one=nn.Conv2d(2, 2, 3, padding=1), two=nn.Conv2d(2, 2, 1), norm=nn.BatchNorm2d(4),
    )  # fmt: skip
    x = normal(2, 2, 5, 5)
    traced = trace_torch_layers(stirred(model), x)
    assert [(name, at.block) for name, at in traced.layers] == [("one", "resnet"), ("two", "resnet")]
    assert torch.equal(torch.cat([at.codes[0] for _, at in traced.layers], 1), model(x))


def test_several_inputs_are_taken_as_a_tuple():
    torch.manual_seed(0)
    model = Runs(lambda m, x, y, scale: F.relu(m.a(x) + m.b(F.relu(m.c(y)))) * scale, a=nn.Conv2d(1, 2, 1),
        b=nn.Conv2d(2, 2, 3, padding=1), c=nn.Conv2d(3, 2, 1)).double()  # fmt: skip
    inputs = (uniform(0, 1, 2, 1, 5, 5), uniform(0, 1, 2, 3, 5, 5), torch.tensor([3]))
    inspection = pn.inspect(model, inputs, budget=QUICK)
    assert [layer.name for layer in inspection.layers] == ["c", "b"] and inspection.convolutions == (3, 3)
    assert inspection.projections == (("a", "b", True),) and torch.equal(inspection.pixels, inputs[0])
    for images, says in (((), "tuple of nothing"), ((inputs[0], "y"), "tuple of Tensor, str")):
        with pytest.raises(ValueError, match=f"{says}; expected one tensor for each input"):
            pn.inspect(model, images)
    with pytest.raises(ValueError, match="images are 2 tensors; expected one"):
        pn.inspect(pn.create_model("msd_csc_3", width=3).double(), (normal(1, 3, 8, 8), normal(1, 3, 8, 8)))


def test_what_the_images_do_not_meet_is_listed_too():
    model = Runs(lambda m, x: F.relu(m.used(x)), used=nn.Conv2d(1, 2, 3), beside=nn.Conv2d(1, 2, 3)).double()
    assert trace_torch_layers(model, normal(1, 1, 5, 5)).unread == [
        ("beside", "it was not seen at work on these images")
    ]


@pytest.mark.parametrize(("off", "read"), [(2e-5, False), (5e-6, True)])
def test_a_layer_is_read_only_if_it_computes_what_the_model_has_computed_to_1e_5(off, read):
    def hidden(m, x):
        h = m.conv(x)
        h.data.mul_(1 + off)  # on a tensor that shares its memory, which is not followed
        return F.relu(h)

    conv = nn.Conv2d(1, 2, 3).double()
    nn.init.constant_(conv.weight, 1.0)
    traced = trace_torch_layers(Runs(hidden, conv=conv), uniform(1, 2, 1, 1, 5, 5))
    assert len(traced.layers) == read and traced.convolutions == (read, 1)
    assert read or "it differs by 2.0e-05 of its largest value" in traced.unread[0][1]


def test_page_numbers_and_terminal_say_what_was_read(tmp_path):
    inspection = pn.inspect(made(resnet_18), normal(1, 3, 16, 16), budget=QUICK, unfolding=1)
    sentence = "20 of 20 convolutions read, 3 of them as projections of X₋₁; layers: 9 plain, 8 resnet"
    assert sentence in list(summary(inspection)) and "not read: head: no ReLU follows it" in list(summary(inspection))
    page = re.sub(r"<[^>]+>|\s+", " ", inspection.save(tmp_path).read_text(encoding="utf-8"))
    assert re.search(r"convolutions read\s+20 of 20", page) and re.search(r"9 plain,\s+8 resnet", page)
    assert re.search(r"blocks\.2\.project\.0\s+to blocks\.2\.last\.0", page)
    numbers = json.loads((tmp_path / "inspect.json").read_text(encoding="utf-8"))
    assert numbers["blocks"] == {"plain": 9, "resnet": 8} and numbers["convolutions"] == {"read": 20, "met": 20}
    projection = {"name": "blocks.2.project.0", "layer": "blocks.2.last.0", "convolves": True}
    assert projection in numbers["projections"]
    assert [layer["block"] for layer in numbers["layers"]][:3] == ["plain", "plain", "resnet"]


@pytest.mark.parametrize(
    ("module", "name", "size", "convolutions"),
    [
        ("pytorchcv.models.resnet_cifar", "resnet20_cifar10", 32, 21),
        ("pytorchcv.models.preresnet_cifar", "preresnet20_cifar10", 32, 21),
        ("pytorchcv.models.densenet_cifar", "densenet40_k12_cifar10", 32, 39),
        ("torchvision.models", "resnet18", 64, 20),
        ("torchvision.models", "resnet50", 64, 53),
        ("torchvision.models", "densenet121", 64, 120),
        ("torchvision.models", "vgg16", 32, 13),
    ],
)
def test_networks_of_other_libraries_are_read(module, name, size, convolutions):
    make = getattr(pytest.importorskip(module, exc_type=ImportError), name)
    traced = trace_torch_layers(made(make), normal(1, 3, size, size))
    assert traced.convolutions == (convolutions, convolutions)
