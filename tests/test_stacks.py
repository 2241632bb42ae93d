"""Layers as they come, stacked: that they pass on signals and gradients of one size, and learn."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn

DEPTH = 12
# name: (dictionary for so many channels, signal shape of one example)
DICTIONARIES = {
    "matrix": (lambda channels: pn.LinearDictionary(torch.randn(24, channels)), (24,)),
    "conv 1": (lambda channels: pn.ConvDictionary(torch.randn(6, channels, 3), padding=1), (6, 24)),
    "conv 2": (lambda channels: pn.ConvDictionary(torch.randn(6, channels, 3, 3), padding=1), (6, 6, 6)),
    "conv 3": (lambda channels: pn.ConvDictionary(torch.randn(6, channels, 3, 3, 3), padding=1), (6, 3, 3, 4)),
    "circular": (lambda channels: pn.CircularDictionary(torch.randn(6, channels, 3, 3)), (6, 6, 6)),
}
DICTIONARIES |= {
    f"[I {name}]": (lambda channels, make=make: pn.WithIdentity(make(channels)), shape)
    for name, (make, shape) in DICTIONARIES.items()
}


def stack(make, channels, depth=DEPTH, start=pn.zero, **choices):
    """Layers with random filters, each of the codes of the one before."""
    layers = []
    for _ in range(depth):
        dictionary = make(channels)
        channels = sum(dictionary.code_channels)
        given = {"threshold": pn.Threshold(dictionary.code_channels)} if choices.get("bare") else {}
        layers.append(pn.PursuitLayer(dictionary, start, unfolding=choices.get("unfolding", 0), **given))
    return nn.ModuleList(layers)


def codes_of(layers, x):
    codes = []
    for layer in layers:
        codes.append(layer(x, x if layer.start.needs_previous else None))
        x = codes[-1]
    return codes


def health(layers, x):
    """Return the shares of non-zeros of all codes, and how far the gradients that come back to them are apart."""
    codes = codes_of(layers, x)
    gradients = torch.autograd.grad((codes[-1] * torch.randn_like(codes[-1])).sum(), codes[:-1])
    norms = torch.stack([g.norm() for g in gradients])
    return [float((code != 0).float().mean()) for code in codes], float(norms.max() / norms.min())


@pytest.mark.parametrize(
    ("kind", "scale"), [(kind, (1e-3, 1e3, 1.0, 1e3, 1e-3)[(i + i // 5) % 5]) for i, kind in enumerate(DICTIONARIES)]
)
def test_stacked_layers_keep_codes_sparse_and_gradients_of_one_size_at_any_scale(kind, scale):
    make, shape = DICTIONARIES[kind]
    nonzeros, apart = health(stack(make, shape[0]), scale * torch.rand(16, *shape))
    assert min(nonzeros) > 0.05 and max(nonzeros) < 0.8
    assert apart < 10


@pytest.mark.parametrize("kind", ["matrix", "conv 2", "circular"])
@pytest.mark.parametrize("start", [pn.resnet, pn.res_csc], ids=lambda start: start.name)
def test_stacked_layers_that_begin_at_the_code_before_keep_them_too(kind, start):
    make, shape = DICTIONARIES[kind]
    nonzeros, apart = health(stack(make, shape[0], start=start), torch.rand(16, *shape))
    assert min(nonzeros) > 0.05 and max(nonzeros) < 0.8
    assert apart < 10


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (start, kind)
        for i, start in enumerate((pn.zero, pn.resnet, pn.res_csc_simplified, pn.res_csc))
        for kind in ("matrix", ("conv 2", "circular")[i % 2])
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_thirty_layers_are_alive_from_every_start(kind, start):
    make, shape = DICTIONARIES[kind]
    nonzeros, apart = health(stack(make, shape[0], 30, start), torch.rand(16, *shape))
    assert min(nonzeros) > 0.05 and max(nonzeros) < 0.8
    assert apart < float("inf")


@pytest.mark.parametrize(("kind", "most"), [("matrix", float("inf")), ("[I conv 2]", 10)])
def test_unfolded_layers_are_alive_too(kind, most):
    make, shape = DICTIONARIES[kind]
    nonzeros, apart = health(stack(make, shape[0], unfolding=2), torch.rand(16, *shape))
    assert min(nonzeros) > 0.05 and max(nonzeros) < 0.8
    assert apart < most


@pytest.mark.parametrize("kind", ["matrix", "conv 2", "[I conv 2]"])
def test_the_bare_form_dies_in_a_stack(kind):
    make, shape = DICTIONARIES[kind]
    nonzeros, _ = health(stack(make, shape[0], bare=True), torch.rand(16, *shape))
    assert nonzeros[0] > 0.2
    assert nonzeros[-1] < 0.01


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_codes_do_not_depend_on_the_scale_of_the_signal(scale):
    make, shape = DICTIONARIES["[I conv 2]"]
    layers, x = stack(make, shape[0]), torch.rand(16, *shape)
    torch.testing.assert_close(codes_of(layers, scale * x)[0], codes_of(layers, x)[0], rtol=0.01, atol=0.01)


# What reaches 90 % in two to five epochs; plain layers without an identity are the hardest.
LEARNED = {
    "12 matrices": (lambda channels: pn.LinearDictionary(torch.randn(64, channels)), 12, pn.zero),
    "12 convolutions": (lambda channels: pn.ConvDictionary(torch.randn(16, channels, 3, 3), padding=1), 12, pn.zero),
    "30 from resnet": (lambda channels: pn.ConvDictionary(torch.randn(24, channels, 3), padding=1), 30, pn.resnet),
    "6 of [I D]": (
        lambda channels: pn.WithIdentity(pn.ConvDictionary(torch.randn(16, channels, 3), padding=1)),
        6,
        pn.zero,
    ),
}


class Classifier(nn.Module):
    """A layer from zero, whose codes the others begin at, and a linear head on pooled codes."""

    def __init__(self, make, channels, depth, start):
        super().__init__()
        self.layers = stack(make, channels, 1)
        self.layers += stack(make, sum(self.layers[0].dictionary.code_channels), depth - 1, start)
        self.head = nn.Linear(sum(self.layers[-1].dictionary.code_channels), 10)

    def forward(self, x):
        code = codes_of(self.layers, x)[-1]
        return self.head(code.flatten(2).mean(2) if x.dim() > 2 else code)


def digits(split, dims):
    images, labels = pn.data.load("digits", split=split)
    return {0: images.flatten(1), 1: images[:, 0], 2: images}[dims] / 255, labels


@pytest.mark.parametrize(
    "case",
    [
        "12 matrices",
        "6 of [I D]",
        pytest.param("12 convolutions", marks=pytest.mark.slow),
        pytest.param("30 from resnet", marks=pytest.mark.slow),
    ],
)
def test_stacked_layers_learn_the_digits(case):
    make, depth, start = LEARNED[case]
    dims = make(1).dims
    images, labels = digits("train", dims)
    network = Classifier(make, images.shape[1], depth, start)
    lr, epochs, batch = {"12 matrices": (6e-3, 3, 64), "6 of [I D]": (1.5e-2, 2, 64)}.get(case, (3e-3, 5, 32))
    optimizer = torch.optim.Adam(network.parameters(), lr)
    for _ in range(epochs):
        for at in torch.randperm(len(images)).split(batch):
            loss = F.cross_entropy(network(images[at]), labels[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    images, labels = digits("test", dims)
    assert (network.eval()(images).argmax(1) == labels).float().mean() > 0.9
