"""One test for each numbered equation, algorithm, proposition and table row of the paper, in float64.

The algorithms are written out here as the paper prints them, concatenations and all, with plain PyTorch
convolutions; the library's layers must give the same values and the same gradients.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pursuitnet as pn

UNFOLDINGS = range(6)
SHAPE = (2, 3, 7, 6)


@pytest.fixture(autouse=True)
def _double_and_seeded():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def relu(z: Tensor) -> Tensor:
    return z.clamp(min=0)


def dense_layer(channels=3, width=4, dilation=2, **choices) -> pn.PursuitLayer:
    """An MSD-CSC layer with the paper's free c and a random β ≥ 0 for every row of the code."""
    weight = torch.randn(width, channels, 3, 3) / 3
    dictionary = pn.WithIdentity(pn.ConvDictionary(weight, padding=dilation, dilation=dilation))
    threshold = pn.Threshold(dictionary.code_channels)
    layer = pn.PursuitLayer(dictionary, step=pn.FreeStep(0.1), threshold=threshold, **choices)
    for parameter in threshold.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    return layer


def b_of(layer: pn.PursuitLayer, c: Tensor) -> Tensor:
    """The paper's b of Algorithms 2 and 3, which is added: −β·c."""
    t = layer.threshold
    return -c * torch.cat([t.identity_penalty, t.penalty]).view(-1, 1, 1)


def same_values_and_gradients(layer: nn.Module, ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)
    assert 0.05 < float((ours != 0).double().mean()) < 0.95, "the code must be neither empty nor full"
    cotangent = torch.randn_like(ours)
    leaves = [*layer.parameters(), *inputs]
    for one, other in zip(
        torch.autograd.grad(ours, leaves, cotangent),
        torch.autograd.grad(theirs, leaves, cotangent),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


# Algorithm 1 and Eqs. 1 to 5


def test_eq_1_ista_step_with_explicit_matrices():
    dictionary = pn.ConvDictionary(torch.randn(4, 3, 3, 3), padding=1)
    layer = pn.PursuitLayer(dictionary, unfolding=1, threshold=pn.Threshold((4,), 0.7, nonnegative=False))
    x = torch.randn(SHAPE)
    D, (c, _) = dictionary.matrix(SHAPE), layer.step()
    theta = 0.7 * c

    def S(z):
        return torch.where(z < -theta, z + theta, torch.where(z > theta, z - theta, 0.0))

    X = x.flatten(1).T
    first = S(c * D.T @ X)
    second = S(first - c * (-D.T @ X + D.T @ D @ first))
    torch.testing.assert_close(layer(x).flatten(1).T, second)
    assert c <= 1 / dictionary.lipschitz(SHAPE)


def test_eq_2_the_nonnegative_threshold_of_a_layer_is_its_nonlinearity_relu_of_z_minus_b():
    z, b = torch.randn(40, 5).requires_grad_(), torch.rand(5)
    P = pn.Threshold((5,))
    P.atom_weight.data.copy_(b)

    def by_cases():
        rows = [[v - t if v > t else 0 * v for v, t in zip(row, b, strict=True)] for row in z]
        return torch.stack([torch.stack(row) for row in rows])

    for ours in (pn.nonnegative_threshold(z, b), P(None, (z,))[0]):
        same_values_and_gradients(nn.ModuleList(), ours, by_cases(), z)


def test_eq_3_one_step_from_zero():
    dictionary = pn.ConvDictionary(torch.randn(4, 3, 3, 3), padding=1)
    layer = pn.PursuitLayer(dictionary, threshold=pn.Threshold((4,), 0.5))
    x, (c, _) = torch.randn(SHAPE), layer.step()
    expected = relu(c * (dictionary.matrix(SHAPE).T @ x.flatten(1).T) - 0.5 * c)
    torch.testing.assert_close(layer(x).flatten(1).T, expected)


def test_eq_4_one_step_from_previous_with_step_one_over_L():
    dictionary = pn.ConvDictionary(torch.randn(4, 3, 3, 3), padding=1)
    L = dictionary.lipschitz(SHAPE)
    layer = pn.PursuitLayer(dictionary, pn.res_csc, step=pn.FreeStep(1 / L), threshold=pn.Threshold((4,), 0.5))
    x, before = torch.randn(SHAPE), torch.randn(2, 4, 7, 6)
    D, X, X1 = dictionary.matrix(SHAPE), x.flatten(1).T, before.flatten(1).T
    expected = relu(D.T @ X / L + X1 - D.T @ D @ X1 / L - 0.5 / L)
    torch.testing.assert_close(layer(x, before).flatten(1).T, expected)


def test_eq_5_is_eq_4_with_the_step_in_the_filters_and_c_minus_L():
    weight = torch.randn(4, 3, 3, 3)
    plain = pn.ConvDictionary(weight, padding=1)
    L = plain.lipschitz(SHAPE)
    absorbed = pn.ConvDictionary(weight / L, padding=1)
    eq4 = pn.PursuitLayer(plain, pn.res_csc, step=pn.FreeStep(1 / L), threshold=pn.Threshold((4,), 0.5))
    eq5 = pn.PursuitLayer(absorbed, pn.res_csc, step=pn.AbsorbedStep(-L), threshold=pn.Threshold((4,), 0.5 / L))
    x, before = torch.randn(SHAPE), torch.randn(2, 4, 7, 6)
    torch.testing.assert_close(eq5(x, before), eq4(x, before))


@pytest.mark.parametrize("nonnegative", [True, False])
def test_algorithm_1_layered_thresholding(nonnegative):
    sizes = [(5, 3, 3, 3), (6, 5, 4, 4), (7, 6, 2, 2)]
    weights = [torch.randn(s) for s in sizes]
    strides, paddings, b = (1, 2, 1), (1, 1, 0), (2.0, 8.0, 8.0)
    layers = [
        pn.PursuitLayer(
            pn.ConvDictionary(w.clone(), stride=s, padding=p),
            step=pn.AbsorbedStep(),
            threshold=pn.Threshold((len(w),), t, nonnegative=nonnegative),
        )
        for w, s, p, t in zip(weights, strides, paddings, b, strict=True)
    ]
    network = nn.Sequential(*layers)
    x = torch.randn(SHAPE, requires_grad=True)

    gamma = x
    for i in range(3):
        z = F.conv2d(gamma, layers[i].dictionary.weight, stride=strides[i], padding=paddings[i])
        theta = layers[i].threshold.penalty.view(-1, 1, 1)
        gamma = relu(z - theta) if nonnegative else relu(z - theta) - relu(-z - theta)
    same_values_and_gradients(network, network(x), gamma, x)


# Algorithms 2 and 3


def algorithm_2(layer: pn.PursuitLayer, X: Tensor, w: int, dilation: int) -> Tensor:
    W, c = layer.dictionary.dictionary.weight, layer.step.c
    b = b_of(layer, c)
    f1 = F.conv2d(X, W, padding=dilation, dilation=dilation)
    gamma = relu(c * torch.cat([X, f1], 1) + b)
    for _ in range(layer.unfolding):
        f1 = gamma[:, :-w] + F.conv_transpose2d(gamma[:, -w:], W, padding=dilation, dilation=dilation) - X
        f2 = F.conv2d(f1, W, padding=dilation, dilation=dilation)
        f3 = torch.cat([f1, f2], 1)
        gamma = relu(gamma - c * f3 + b)
    return gamma


def algorithm_3(layer: pn.PursuitLayer, X: Tensor, w: int, dilation: int) -> Tensor:
    W, c, t = layer.dictionary.dictionary.weight, layer.step.c, 1.0
    b = b_of(layer, c)
    f1 = F.conv2d(X, W, padding=dilation, dilation=dilation)
    gamma = relu(c * torch.cat([X, f1], 1) + b)
    before = gamma
    for _ in range(layer.unfolding):
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        Z = gamma + (t - 1) / t_next * (gamma - before)
        f1 = Z[:, :-w] + F.conv_transpose2d(Z[:, -w:], W, padding=dilation, dilation=dilation) - X
        f2 = F.conv2d(f1, W, padding=dilation, dilation=dilation)
        f3 = torch.cat([f1, f2], 1)
        gamma, before, t = relu(Z - c * f3 + b), gamma, t_next
    return gamma


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("unfolding", UNFOLDINGS)
def test_algorithm_2_msd_csc_ista(unfolding, dilation):
    layer = dense_layer(dilation=dilation, unfolding=unfolding)
    x = torch.rand(SHAPE, requires_grad=True)
    same_values_and_gradients(layer, layer(x), algorithm_2(layer, x, 4, dilation), x)


@pytest.mark.parametrize(("solver", "algorithm"), [("ista", algorithm_2), ("fista", algorithm_3)])
def test_algorithms_2_and_3_with_b_of_either_sign_by_name(solver, algorithm):
    choices = {"norm": None, "step": "free", "penalty": "free", "width": 4}
    model = pn.create_model("msd_csc_3", unfolding=3, solver=solver, **choices)
    layer = model.pursuits()[1]
    for parameter in (layer.threshold.atom_weight, layer.threshold.identity_weight):
        nn.init.uniform_(parameter, -1.0, 1.0)
    assert {True, False} == set((b_of(layer, layer.step.c) > 0).flatten().tolist())
    x = torch.randn(2, 7, 7, 6).requires_grad_()
    same_values_and_gradients(layer, layer(x), algorithm(layer, x, 4, 2), x)


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("unfolding", UNFOLDINGS)
def test_algorithm_3_msd_csc_fista(unfolding, dilation):
    layer = dense_layer(dilation=dilation, unfolding=unfolding, solver=pn.FISTA())
    x = torch.rand(SHAPE, requires_grad=True)
    same_values_and_gradients(layer, layer(x), algorithm_3(layer, x, 4, dilation), x)


def test_fista_is_ista_up_to_unfolding_1_and_differs_from_2_on():
    ista, x = dense_layer(), torch.rand(SHAPE)
    fista = copy.deepcopy(ista)
    fista.solver = pn.FISTA()
    for unfolding in UNFOLDINGS:
        ista.unfolding = fista.unfolding = unfolding
        assert torch.equal(ista(x), fista(x)) == (unfolding < 2)


# Section IV: the residual family


def residual_layer(start: pn.Start, c: float | None, rows=5) -> pn.PursuitLayer:
    dictionary = pn.ConvDictionary(torch.randn(rows, rows, 3, 3) / 3, padding=1)
    threshold = pn.Threshold((rows,), None, free=True, norm=pn.BatchNorm(on="update", affine=True))
    layer = pn.PursuitLayer(dictionary, start, step=pn.AbsorbedStep(c), threshold=threshold)
    for parameter in threshold.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def test_res_csc_in_one_transposed_convolution_is_the_literal_four_convolution_form():
    layer = residual_layer(pn.res_csc, -0.3)
    x, before = torch.randn(2, 5, 7, 6, requires_grad=True), torch.randn(2, 5, 7, 6, requires_grad=True)
    W, norm = layer.dictionary.weight, layer.threshold.norms[0][0]

    def conv(z):
        return F.conv2d(z, W, padding=1)

    eq5 = conv(x) + layer.step.c * conv(F.conv_transpose2d(before, W, padding=1))
    normed = F.batch_norm(eq5, None, None, norm.weight, norm.bias, training=True)
    same_values_and_gradients(layer, layer(x, before), relu(normed + before), x, before)


@pytest.mark.parametrize(
    ("start", "anchored", "probed"),
    [(pn.zero, 0, 0), (pn.resnet, 1, 0), (pn.res_csc_simplified, 0, 1), (pn.res_csc, 1, 1)],
    ids=["plain", "resnet", "res_csc_simplified", "res_csc"],
)
def test_figure_3_the_four_cells_of_anchor_and_probe(start, anchored, probed):
    layer = residual_layer(start, -0.3 if probed else None)
    x, before = torch.randn(2, 5, 7, 6), torch.randn(2, 5, 7, 6)
    W, norm = layer.dictionary.weight, layer.threshold.norms[0][0]
    z = F.conv2d(x, W, padding=1)
    if probed:
        z = z - 0.3 * F.conv2d(F.conv_transpose2d(before, W, padding=1), W, padding=1)
    expected = relu(F.batch_norm(z, None, None, norm.weight, norm.bias, training=True) + anchored * before)
    torch.testing.assert_close(layer(x, before), expected)


@pytest.mark.parametrize(("with_c", "without"), [("res_csc_8", "resnet_8"), ("res_csc_simplified_8", "plain_8")])
def test_res_csc_with_c_zero_is_resnet_and_simplified_is_plain(with_c, without):
    one, other = pn.create_model(with_c, c=-0.2, width=4), pn.create_model(without, width=4)
    x = torch.randn(4, 3, 9, 8)
    missing, unexpected = other.load_state_dict(one.state_dict(), strict=False)
    assert not missing
    assert all(name.endswith("step.c") for name in unexpected)
    assert not torch.allclose(one(x), other(x))
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if name.endswith("step.c"):
                parameter.zero_()
    torch.testing.assert_close(one(x), other(x), rtol=1e-13, atol=1e-13)


def test_shortcut_is_option_a_subsampled_and_padded_with_zero_channels():
    network = pn.create_model("resnet_8", width=4)
    block, x = network.features[2], torch.randn(2, 4, 9, 7)
    assert block.new_channels == 4
    shortcut = block._shortcut(x)
    assert torch.equal(shortcut[:, :4], x[:, :, ::2, ::2])
    assert not shortcut[:, 4:].any()


# Table I and Proposition 1


def test_table_1_row_1_a_dilated_convolution_is_a_convolutional_matrix():
    weight, x = torch.randn(4, 3, 3, 3), torch.randn(SHAPE)
    for s in (1, 2, 3):
        D = pn.ConvDictionary(weight, padding=s, dilation=s).matrix(SHAPE)
        expected = F.conv2d(x, weight, padding=s, dilation=s).flatten(1)
        torch.testing.assert_close(x.flatten(1) @ D, expected)


def test_table_1_row_2_the_bias_is_beta_over_L():
    layer, x = dense_layer(), torch.rand(SHAPE)
    W, c = layer.dictionary.dictionary.weight, 1 / layer.dictionary.lipschitz(SHAPE)
    layer.step.c.data.fill_(c)
    bias = -c * layer.threshold.penalty
    network = relu(F.conv2d(x, c * W, bias, padding=2, dilation=2))
    torch.testing.assert_close(layer(x)[:, 3:], network)


def test_table_1_row_3_relu_is_the_proximal_map_of_the_nonnegative_l1_norm():
    z, theta = torch.randn(50), 0.4
    grid = torch.linspace(0, 4, 40001)
    values = 0.5 * (grid[:, None] - z) ** 2 + theta * grid[:, None]
    torch.testing.assert_close(pn.nonnegative_threshold(z, theta), grid[values.argmin(0)], atol=1e-4, rtol=0)


def test_table_1_row_4_feed_forward_is_one_step_from_zero():
    network = pn.create_model("feed_forward", width=4, norm=None)
    x = torch.rand(2, 3, 16, 16)
    gamma = x
    for layer, stride in zip(network.pursuits(), (2, 2, 2, 1, 1, 1), strict=True):
        s, _ = layer.step()
        z = F.conv2d(gamma, s * layer.dictionary.weight, -s * layer.threshold.penalty, stride, padding=1)
        gamma = relu(z)
        if layer in network.pursuits()[4:]:
            gamma = F.max_pool2d(gamma, 2, ceil_mode=True)
    torch.testing.assert_close(network.forward_features(x), gamma)


def test_table_1_row_5_resnet_is_the_start_at_the_previous_code():
    block = pn.create_model("resnet_8", width=4).features[1]
    x = torch.rand(2, 4, 8, 8)
    n1, n2 = (layer.threshold.norms[0][0] for layer in (block.first, block.second))

    def bn(z, n):
        return F.batch_norm(z, None, None, n.weight, n.bias, training=True)

    hidden = relu(bn(F.conv2d(x, block.first.dictionary.weight, padding=1), n1))
    he = relu(bn(F.conv2d(hidden, block.second.dictionary.weight, padding=1), n2) + x)
    torch.testing.assert_close(block(x), he)


def test_table_1_row_6_dense_connection_is_the_identity_in_the_dictionary():
    """Dᵀx is the concatenation that DenseNet makes, and DΓ takes its two parts apart again."""
    dictionary, x, code = dense_layer().dictionary, torch.randn(SHAPE), torch.randn(2, 3 + 4, *SHAPE[2:])
    W = dictionary.dictionary.weight
    dense = torch.cat([x, F.conv2d(x, W, padding=2, dilation=2)], dim=1)
    torch.testing.assert_close(dictionary.analyze(x), dense)
    torch.testing.assert_close(x.flatten(1) @ dictionary.matrix(SHAPE), dense.flatten(1))
    model = code[:, :3] + F.conv_transpose2d(code[:, 3:], W, padding=2, dilation=2)
    torch.testing.assert_close(dictionary.synthesize(code, SHAPE), model)
    torch.testing.assert_close(code.flatten(1) @ dictionary.matrix(SHAPE).T, model.flatten(1))


def one_step_network(identity, c=1.0) -> nn.Sequential:
    """Three MSD-CSC layers at unfolding 0 with thresholds b on the new features."""
    layers, channels = [], 3
    for dilation in (1, 2, 3):
        inner = pn.ConvDictionary(torch.randn(4, channels, 3, 3) / 5, padding=dilation, dilation=dilation)
        dictionary = pn.WithIdentity(inner)
        threshold = pn.Threshold(dictionary.code_channels, 0.3, pn.IdentityPenalty(identity))
        layers.append(pn.PursuitLayer(dictionary, step=pn.FreeStep(c), threshold=threshold))
        channels += 4
    return nn.Sequential(*layers)


def msdnet(network: nn.Sequential, x: Tensor) -> Tensor:
    """Z_{i+1} = σ(F({Z₀, …, Zᵢ}) + b), gathered by concatenation (Section II-B), with b = −0.3."""
    maps = [x]
    for layer, s in zip(network, (1, 2, 3), strict=True):
        W = layer.dictionary.dictionary.weight
        maps.append(relu(F.conv2d(torch.cat(maps, 1), W, padding=s, dilation=s) - 0.3))
    return torch.cat(maps, 1)


def test_proposition_1_one_step_of_msd_csc_is_msdnet():
    network, x = one_step_network("none"), torch.rand(SHAPE)
    torch.testing.assert_close(network(x), msdnet(network, x))


def test_proposition_1_fails_for_negative_values_in_the_image():
    network, x = one_step_network("none"), torch.rand(SHAPE) - 0.5
    ours, theirs = network(x), msdnet(network, x)
    assert not torch.allclose(ours, theirs)
    assert not (ours[:, :3][x < 0]).any()  # the identity part has clipped them
    network[0].threshold.identity = pn.IdentityPenalty.SIGNED
    torch.testing.assert_close(network[0](x)[:, :3], x)  # unless it has no threshold at all


def literal_msdnet(model: pn.Network, x: Tensor) -> Tensor:
    """MSDNet with two poolings, gathered by concatenation, with the network's filters and biases b = −β."""
    maps, layers = [x], model.pursuits()
    for i, layer in enumerate(layers):
        W, s, b = layer.dictionary.dictionary.weight, i % 3 + 1, -layer.threshold.penalty
        maps.append(relu(F.conv2d(torch.cat(maps, 1), W, b, padding=s, dilation=s)))
        if i + 1 in (len(layers) // 3, 2 * len(layers) // 3):
            maps = [F.max_pool2d(m, 2, ceil_mode=True) for m in maps]
    return torch.cat(maps, 1)


@pytest.mark.parametrize("penalty", ["nonnegative", "free"])
def test_proposition_1_holds_for_mean_subtracted_images_through_a_network_for_signed_input(penalty):
    choices = {"norm": None, "step": "free", "width": 4, "penalty": penalty}
    x = 2 * torch.randn(2, 3, 9, 10)
    x -= x.mean(dim=(0, 2, 3), keepdim=True)
    x[0] = -x[0].abs()  # one image stays negative in both poolings
    for signed in (True, False):
        model = pn.create_model("msdnet_6", signed_input=signed, **choices)
        for layer in model.pursuits():
            nn.init.uniform_(layer.threshold.atom_weight, -0.1 if penalty == "free" else 0.0, 0.1)
            nn.init.ones_(layer.step.c)
        ours, theirs = model.forward_features(x), literal_msdnet(model, x)
        assert (ours[:, :3] < 0).any() == signed
        if signed:
            same_values_and_gradients(nn.ModuleList(), ours, theirs, *msd_weights(model))
        else:
            assert not torch.allclose(ours, theirs)


def msd_weights(model: pn.Network) -> list[Tensor]:
    return [t for layer in model.pursuits() for t in (layer.dictionary.dictionary.weight, layer.threshold.atom_weight)]


def test_proposition_1_fails_for_a_step_other_than_1():
    network, x = one_step_network("none", c=0.5), torch.rand(SHAPE)
    assert not torch.allclose(network(x), msdnet(network, x))
    torch.testing.assert_close(network(x)[:, :3], x / 8)  # the identity part shrinks by c a layer


def test_proposition_1_fails_for_a_penalty_on_the_identity_part():
    network, x = one_step_network("own"), torch.rand(SHAPE)
    assert not torch.allclose(network(x), msdnet(network, x))


def test_the_same_beta_is_one_number_for_the_whole_code():
    threshold = pn.Threshold((3, 4), 0.2, pn.IdentityPenalty.SAME)
    assert threshold.penalty is not None
    assert sum(p.numel() for p in threshold.parameters()) == 1
    assert torch.equal(threshold.penalty, threshold.identity_penalty)


# Reference [27]: sweeps over several layers


def strided_layers() -> list[pn.PursuitLayer]:
    layers = []
    for a, b in ((3, 4), (4, 5), (5, 6)):
        dictionary = pn.ConvDictionary(torch.randn(b, a, 4, 4) / 4, stride=2, padding=1)
        layer = pn.PursuitLayer(dictionary, step=pn.FreeStep(0.2), threshold=pn.Threshold((b,), 0.02))
        layers.append(layer)
    return layers


def literal_sweeps(layers: list[pn.PursuitLayer], x: Tensor, unfolding: int, momentum: bool) -> Tensor:
    W1, W2, W3 = (layer.dictionary.weight for layer in layers)
    c1, c2, c3 = (layer.step.c for layer in layers)
    b1, b2, b3 = (-layer.step.c * layer.threshold.penalty.view(-1, 1, 1) for layer in layers)

    def conv(z, W):
        return F.conv2d(z, W, stride=2, padding=1)

    def adjoint(z, W):
        return F.conv_transpose2d(z, W, stride=2, padding=1)

    gamma1 = relu(c1 * conv(x, W1) + b1)
    gamma2 = relu(c2 * conv(gamma1, W2) + b2)
    gamma3 = relu(c3 * conv(gamma2, W3) + b3)
    before, t = gamma3, 1.0
    for _ in range(unfolding):
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2 if momentum else 1.0
        z = gamma3 + (t - 1) / t_next * (gamma3 - before)
        g2 = adjoint(z, W3)
        g1 = adjoint(g2, W2)
        gamma1 = relu(g1 - c1 * conv(adjoint(g1, W1) - x, W1) + b1)
        gamma2 = relu(g2 - c2 * conv(adjoint(g2, W2) - gamma1, W2) + b2)
        gamma3, before = relu(z - c3 * conv(adjoint(z, W3) - gamma2, W3) + b3), gamma3
        t = t_next
    return gamma3


@pytest.mark.parametrize("solver", [pn.ISTA(), pn.FISTA()], ids=["ML-ISTA", "ML-FISTA"])
@pytest.mark.parametrize("unfolding", UNFOLDINGS)
def test_multi_layer_sweeps(solver, unfolding):
    layers = strided_layers()
    pursuit = pn.MultiLayerPursuit(layers, solver, unfolding)
    x = torch.rand(2, 3, 16, 24, requires_grad=True)
    literal = literal_sweeps(layers, x, unfolding, momentum=isinstance(solver, pn.FISTA))
    same_values_and_gradients(pursuit, pursuit(x), literal, x)


@pytest.mark.parametrize("solver", ["ista", "fista"])
def test_ml_csc_without_unfolding_is_the_feed_forward_network(solver):
    ml_csc = pn.create_model("ml_csc", unfolding=0, solver=solver, width=4)
    feed_forward = pn.create_model("feed_forward", width=4)
    feed_forward.load_state_dict(ml_csc.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ml_csc(x), feed_forward(x))


def test_both_readings_of_the_unfolding_agree_at_zero_and_differ_from_one_on():
    x = torch.rand(2, 3, 8, 8)
    for unfolding in (0, 1, 2):
        models = [pn.create_model("msd_csc_6", unfolding=unfolding, sweep=s, width=4) for s in ("layer", "multilayer")]
        states = [list(m.state_dict().values()) for m in models]
        with torch.no_grad():
            for ours, theirs in zip(states[1], states[0], strict=True):
                ours.copy_(theirs)
        assert torch.allclose(models[0](x), models[1](x)) == (unfolding == 0)


# Parameter counts


@pytest.mark.parametrize("family", ["plain", "resnet", "res_csc", "res_csc_simplified"])
@pytest.mark.parametrize(
    ("depth", "count", "printed"),
    [
        (20, 269_722, 0.27),
        (32, 464_154, 0.46),
        (44, 658_586, 0.66),
        (56, 853_018, 0.85),
        (110, 1_727_962, 1.70),
        (218, 3_477_850, 3.40),
    ],
)
def test_table_2_parameter_counts(family, depth, count, printed):
    model = pn.create_model(f"{family}_{depth}")
    cs = [p for name, p in model.named_parameters() if name.endswith("step.c")]
    assert len(cs) == ((depth - 2) // 6 * 3 if family.startswith("res_csc") else 0)
    found = sum(p.numel() for p in model.parameters()) - len(cs)
    assert found == count
    assert printed == pytest.approx(found / 1e6, rel=0.03)  # 1.728 is printed as 1.70, 3.478 as 3.40


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(("depth", "count", "printed"), [(6, 146_080, 0.1), (9, 343_948, 0.3), (12, 625_048, 0.6)])
def test_table_3_parameter_counts_do_not_grow_with_the_unfolding(depth, count, printed, norm):
    for name, choices in (
        (f"msdnet_{depth}", {}),
        *((f"msd_csc_{depth}", {"unfolding": u}) for u in (0, 2)),
        (f"msd_csc_{depth}", {"penalty": "free", "dilations": "block"}),
    ):
        with torch.device("meta"):  # counted, not computed
            found = sum(p.numel() for p in pn.create_model(name, norm=norm, **choices).parameters())
        assert found == count
        assert round(found / 1e6, 1) == printed


def test_table_3_parameter_count_of_the_six_layer_baseline():
    for name in ("feed_forward", "ml_csc"):
        model = pn.create_model(name)
        weights = sum(layer.dictionary.weight.numel() for layer in model.pursuits())
        assert weights == 3_999_232
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 4.0


# What published code of this family gets wrong


NETWORKS = [
    "plain_8",
    "resnet_8",
    "res_csc_8",
    "res_csc_simplified_8",
    "feed_forward",
    "ml_csc",
    "msdnet_3",
    "msd_csc_3",
]


@pytest.fixture(params=NETWORKS)
def trained(request) -> pn.Network:
    """A small network after a few steps of SGD, so that statistics and steps have moved."""
    model = pn.create_model(request.param, width=4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.rand(8, 3, 16, 16)), torch.arange(8)).backward()
        optimizer.step()
    return model


def test_state_dict_round_trip(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    other = copy.deepcopy(trained)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.fill_(1)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(trained.eval()(x), other.eval()(x))


def test_evaluation_of_one_image_does_not_depend_on_the_rest_of_the_batch(trained):
    x = torch.rand(5, 3, 16, 16)
    together = trained.eval()(x)
    alone = torch.cat([trained(image[None]) for image in x])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(trained(torch.cat([x[:1], 100 * x[1:]]))[:1], alone[:1])


def test_evaluation_changes_nothing(trained):
    before = copy.deepcopy(trained.eval().state_dict())
    trained(torch.rand(2, 3, 16, 16))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trained.state_dict().values(), strict=True))


def test_no_module_or_tensor_outside_parameters_and_buffers(trained):
    known = {id(t) for t in (*trained.parameters(), *trained.buffers())} | {id(m) for m in trained.modules()}

    def search(value: object) -> None:
        if isinstance(value, (nn.Module, Tensor)):
            assert id(value) in known
        elif isinstance(value, (list, tuple, set)):
            for item in value:
                search(item)
        elif isinstance(value, dict):
            search(list(value.values()))

    for module in trained.modules():
        search({k: v for k, v in vars(module).items() if k not in ("_parameters", "_buffers", "_modules")})
        search(list(vars(module)["_modules"].values()))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 13), (15, 10)])
def test_odd_image_sizes_and_one_or_three_channels(name, in_chans, size):
    for unfolding in ({"unfolding": 2},) if name in ("msd_csc_3", "ml_csc") else ({},):
        model = pn.create_model(name, num_classes=7, in_chans=in_chans, width=2, **unfolding)
        logits = model(torch.rand(2, in_chans, *size))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
