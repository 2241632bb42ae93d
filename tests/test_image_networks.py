"""Image in, image out: networks without pooling, their halo, and tiles that equal the whole."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pursuitnet as pn
from pursuitnet.networks import list_models


def trained(model):
    """A network in evaluation mode, as if it had been trained: its statistics are those of some batch."""
    size = (24,) * model.dims
    channels = model.pursuits()[0].dictionary.channels
    model.train()(torch.rand(2, channels, *size, dtype=next(model.parameters()).dtype))
    with torch.no_grad():  # some negative coefficients, so that signs are not always the same
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


def image_network(depth=4, **choices):
    torch.manual_seed(depth)
    return trained(pn.create_model(f"msd_csc_{depth}", task="image", **choices))


@pytest.mark.parametrize("family", ["msdnet", "msd_csc"])
@pytest.mark.parametrize(("depth", "width", "out_chans"), [(1, 1, 1), (4, 3, 2), (25, 1, 1)])
def test_any_depth_and_width_keeps_the_size_of_the_image(family, depth, width, out_chans):
    name = f"{family}_{depth}"
    model = pn.create_model(name, task="image", out_chans=out_chans, in_chans=2, width=width, dilations=range(1, 11))
    layers = model.pursuits()
    assert len(layers) == depth
    assert [layer.dictionary.dictionary.dilation[0] for layer in layers] == [i % 10 + 1 for i in range(depth)]
    assert model(torch.rand(2, 2, 9, 13)).shape == (2, out_chans, 9, 13)
    assert model.head.weight.shape == (out_chans, 2 + width * depth, *(1, 1))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_images_have_one_to_three_axes(dims):
    model = image_network(3, dims=dims, in_chans=1, dilations=[1, 2])
    size = (7, 6, 5)[:dims]
    assert model(torch.rand(2, 1, *size)).shape == (2, 1, *size)
    assert model.halo == (1 + 2 + 1) * 3


def test_msdnet_without_norm_is_the_network_of_its_authors_but_for_the_border():
    """Pelt and Sethian: channel j of layer i is ReLU(Σ over all channels before of a dilated 3×3 convolution + b)."""
    model = pn.create_model(
        "msdnet_5", task="image", in_chans=1, norm=None, penalty="free", identity="none", step="free", out_chans=2
    ).double()
    x = torch.rand(1, 1, 12, 11, dtype=torch.float64)
    channels = x
    for i, layer in enumerate(model.pursuits()):
        c, _ = layer.step()
        w = c * layer.dictionary.dictionary.weight
        new = torch.conv2d(channels, w, padding=i + 1, dilation=i + 1) - (c * layer.threshold.penalty).view(-1, 1, 1)
        # the update scales the identity part by c
        channels = torch.cat([c * channels, new.relu()], 1)
    expected = torch.conv2d(channels, model.head.weight, model.head.bias)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-14)


def farthest(model, size, channels):
    """How far the pixel in the middle looks, found by differentiation in float64."""
    x = torch.rand(1, channels, *size, dtype=torch.float64, requires_grad=True)
    middle = tuple(n // 2 for n in size)
    model(x)[(0, slice(None), *middle)].sum().backward()
    places = x.grad[0].abs().sum(0).nonzero()
    return int((places - torch.tensor(middle)).abs().max())


@torch.no_grad()
def open_all_paths(model):
    """Let no threshold cut anything, so that what could reach a pixel does."""
    for layer in model.pursuits():
        layer.threshold.free = True
        for weight in (layer.threshold.atom_weight, layer.threshold.identity_weight):
            weight.fill_(-10.0)


@pytest.mark.parametrize("unfolding", [0, 1, 2])
@pytest.mark.parametrize("choices", [{}, {"sweep": "multilayer"}, {"solver": "fista"}, {"norm": None}])
def test_the_halo_is_how_far_a_pixel_looks(unfolding, choices):
    model = image_network(3, unfolding=unfolding, in_chans=1, dilations=[1, 3, 2], width=4, **choices).double()
    assert model.halo == (1 + 3 + 2) * (1 + 2 * unfolding)
    open_all_paths(model)
    side = 2 * model.halo + 5
    assert farthest(model, (side, side), 1) == model.halo


@pytest.mark.parametrize(("stride", "layers", "unfolding"), [(1, 1, 0), (1, 3, 0), (1, 2, 2), (2, 2, 0), (3, 2, 1)])
def test_the_halo_of_a_denoiser_is_how_far_a_pixel_looks(stride, layers, unfolding):
    torch.manual_seed(0)
    choices = {"stride": stride, "layers": layers, "unfolding": unfolding, "kernel": 4, "width": 6}
    model = trained(pn.create_model("csc_denoiser", **choices)).double()
    assert model.halo == 3 * layers * (1 + unfolding)
    far = max(
        farthest(lambda y: model(y, 0.0), (2 * model.halo + 5 + a, 2 * model.halo + 5 + b), 1)
        for a, b in itertools.product(range(stride), repeat=2)
    )
    # positions of atoms are sparser with a stride, and need not reach so far
    assert far == model.halo if stride == 1 else model.halo - layers * (1 + unfolding) * stride <= far <= model.halo


CHOICES = st.fixed_dictionaries(
    {
        "in_chans": st.integers(1, 2),
        "out_chans": st.integers(1, 2),
        "width": st.integers(1, 3),
        "dilations": st.lists(st.integers(1, 4), min_size=1, max_size=3),
        "unfolding": st.integers(0, 2),
        "solver": st.sampled_from(["ista", "fista"]),
        "sweep": st.sampled_from(["layer", "multilayer"]),
        "norm": st.sampled_from([None, "batch", "features", "whole"]),
    }
)


def close_to_the_whole(model, x, tile, **given):
    whole, tiled = pn.apply(model, x, **given), pn.apply(model, x, tile=tile, **given)
    assert tiled.shape == whole.shape
    assert float((whole - tiled).abs().max()) <= 1e-6 * max(1.0, float(whole.abs().max()))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(CHOICES, st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.integers(5, 20), st.integers(0, 99))
def test_tiles_equal_the_whole(choices, depth, rows, columns, tile, seed):
    torch.manual_seed(seed)
    model = trained(pn.create_model(f"msd_csc_{depth}", task="image", **choices))
    close_to_the_whole(model, torch.rand(1, choices["in_chans"], rows, columns), tile)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 4), st.booleans(), st.integers(3, 24), st.integers(3, 24), st.integers(5, 16))
def test_tiles_of_a_denoiser_equal_the_whole(layers, stride, average, rows, columns, tile):
    torch.manual_seed(rows)
    choices = {"layers": layers, "kernel": 4, "width": 5, "stride": stride, "average_shifts": average}
    model = trained(pn.create_model("csc_denoiser", **choices))
    y = torch.rand(1, 2, rows, columns)
    close_to_the_whole(model, y, tile)
    close_to_the_whole(model, y, tile, sigma=0.1)


@pytest.mark.parametrize("dims", [1, 3])
def test_tiles_of_one_and_three_axes(dims):
    model = image_network(2, dims=dims, in_chans=1, dilations=[1, 2], unfolding=1)
    close_to_the_whole(model, torch.rand(1, *(30, 20, 11)[:dims]), 6)


def test_a_halo_that_is_one_pixel_too_small_is_seen(monkeypatch):
    model = image_network(3, in_chans=1, dilations=[1, 2], width=2, unfolding=1).double()
    open_all_paths(model)
    x = torch.rand(1, 1, 60, 60, dtype=torch.float64)
    whole, right = pn.apply(model, x), model.halo
    assert float((pn.apply(model, x, tile=20) - whole).abs().max()) < 1e-14
    monkeypatch.setattr(type(model), "halo", right - 1)
    assert float((pn.apply(model, x, tile=20) - whole).abs().max()) > 1e-14


def test_networks_with_global_operations_say_so():
    image = torch.rand(1, 3, 12, 12)
    for name in list_models():
        if name.endswith(("_6", "_20", "csc")):
            with pytest.raises(ValueError, match="averages over the whole image"):
                pn.create_model(name).halo  # noqa: B018
    with pytest.raises(TypeError, match="returns no images"):
        pn.apply(pn.create_model("msd_csc_6"), image, tile=4)
    model = pn.create_model("msd_csc_2", task="image").train()
    with pytest.raises(ValueError, match=r"statistics of the whole batch.*model\.eval\(\)"):
        pn.apply(model, image, tile=4)
    assert pn.create_model("msd_csc_2", task="image", norm=None).train().halo == 9
    circular = pn.WithIdentity(pn.CircularDictionary(torch.randn(2, 3, 3, 3)))
    from pursuitnet.networks.image import ImageNetwork

    layer = pn.PursuitLayer(circular, threshold=pn.Threshold(circular.code_channels))
    with pytest.raises(ValueError, match="CircularDictionary depends on the whole image"):
        pn.apply(ImageNetwork(torch.nn.Sequential(layer), 5, 1), image, tile=4)
    pool = ImageNetwork(torch.nn.Sequential(torch.nn.MaxPool2d(3, 1, 1)), 3, 1)
    with pytest.raises(ValueError, match="not known to be local"):
        pool.halo  # noqa: B018


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pn.create_model("msd_csc_0", task="image"), "0 layers does not exist"),
        (lambda: pn.create_model("msd_csc_4", task="images"), "expected one of 'classify', 'image'"),
        (lambda: pn.create_model("msd_csc_4", task="image", num_classes=3), "expected out_chans=3"),
        (lambda: pn.create_model("msd_csc_4", task="image", dilations=[]), "expected integers ≥ 1"),
        (lambda: pn.create_model("msd_csc_4", task="image", dilations="network"), "expected integers ≥ 1"),
        (lambda: pn.create_model("msd_csc_4", task="image", out_chans=0), "out_chans is 0"),
        (lambda: pn.create_model("msd_csc_4", task="image", dims=4), "dims is 4"),
        (lambda: pn.create_model("msdnet_4", task="image", unfolding=1), "no choice 'unfolding'"),
        (lambda: pn.create_model("resnet_20", task="image"), "no model is called 'resnet_20'"),
        (lambda: pn.create_model("csc_denoiser_8"), "no model is called"),
        (lambda: pn.create_model("csc_denoiser", stride=9), "at most kernel, 7"),
        (lambda: pn.create_model("csc_denoiser", layers=0), "layers is 0"),
        (lambda: pn.create_model("csc_denoiser", shared=True), "has no choice 'shared'"),
        (lambda: pn.apply(image_network(1), torch.rand(3, 4, 4), tile=0), "tile is 0"),
        (lambda: pn.apply(image_network(1), torch.rand(4, 4)), r"image has shape \(4, 4\)"),
        (lambda: pn.apply(image_network(1), torch.rand(3, 4, 4), sigma=0.1), "sigma is for denoisers"),
    ],
)
def test_what_cannot_be_is_said(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_networks_for_images_are_listed():
    assert pn.list_models(task="image") == ["msdnet_30", "msdnet_100", "msd_csc_30", "msd_csc_100", "csc_denoiser"]
    assert all(pn.create_model(name, task="image").eval().halo > 0 for name in pn.list_models(task="image"))


def test_tiles_of_a_solution_are_refused_because_it_depends_on_the_whole_signal():
    """Far beyond any filter, one pixel changes the code; the message says so."""
    torch.manual_seed(0)
    D, x = pn.ConvDictionary(torch.randn(4, 1, 3)), torch.randn(1, 1, 40, dtype=torch.float64)
    other = x.clone()
    other[..., 0] += 1
    codes = [pn.solve(signal, D.double(), 0.05, max_steps=50_000, tol=1e-12).code for signal in (x, other)]
    assert (codes[0] - codes[1])[..., 12:].abs().max() > 1e-8
    with pytest.raises(ValueError, match="an optimum has no tiles: each coefficient depends on the whole signal"):
        pn.solve(x, D, 0.05, tile=16)
