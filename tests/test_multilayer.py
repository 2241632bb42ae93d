"""Sweeps over several layers, held against the literal ML-ISTA and ML-FISTA on explicit matrices."""

import itertools
import math

import pytest
import torch
from makers import normal

import pursuitnet as pn


def filters(*shape, seed=0):
    """Filters with λmax below 1, so that a sweep down does not drown the sweep up."""
    return normal(*shape, seed=seed) / (20 * shape[0] * shape[1]) ** 0.5


def strided():
    """Three convolutions, the first two strided over sizes that the stride does not divide."""
    weights = [filters(3, 2, 4, 4), filters(4, 3, 3, 3, seed=1), filters(5, 4, 2, 2, seed=2)]
    options = [{"stride": 2, "padding": 1}, {"stride": 2, "padding": 1}, {}]
    return [pn.ConvDictionary(w, **o) for w, o in zip(weights, options, strict=True)]


def dense():
    """[I D] three times, as between two poolings of MSD-CSC."""
    return [
        pn.WithIdentity(pn.ConvDictionary(filters(2, rows, 3, 3, seed=i), padding=i, dilation=i))
        for i, rows in ((1, 2), (2, 4), (3, 6))
    ]


SIZES = {strided: (13, 10), dense: (4, 5)}
kinds = pytest.mark.parametrize("dictionaries", SIZES, ids=lambda f: f.__name__)


def pursuit_of(dictionaries, solver=pn.ISTA(), unfolding=0, norm=None):  # noqa: B008
    layers = []
    for i, D in enumerate(dictionaries()):
        threshold = pn.Threshold(D.code_channels, 0.02 * (i + 1), norm=norm, steps=unfolding + 1)
        layers.append(pn.PursuitLayer(D, step=pn.BoundedStep(0.5 + 0.1 * i), threshold=threshold))
    return pn.MultiLayerPursuit(layers, solver, unfolding).double()


def signals(dictionaries, batch=2):
    return 4 * normal(batch, 2, *SIZES[dictionaries], seed=9)


def literal(pursuit, x, *, fista):
    """Feed forward; then down, γ̂ᵢ₋₁ = Dᵢγ̂ᵢ, and up, γᵢ = P( γ̂ᵢ − cᵢDᵢᵀ(Dᵢγ̂ᵢ − γᵢ₋₁) ), on flat codes."""
    matrices, steps, penalties, shape = [], [], [], x.shape
    for layer in pursuit.layers:
        D = layer.dictionary
        matrices.append(D.matrix(shape))
        shape = D.analyze(x.new_zeros(shape)).shape
        steps.append(layer.step.logit.sigmoid() / D.lipschitz_bound())
        beta = [layer.threshold.identity_penalty] * (len(D.code_channels) - 1) + [layer.threshold.penalty]
        penalties.append(torch.cat(beta).repeat_interleave(math.prod(shape[2:])))

    def up(x, probes):
        codes = [x]
        for D, c, beta, probe in zip(matrices, steps, penalties, probes, strict=True):
            codes.append((probe - c * (probe @ D.T - codes[-1]) @ D - c * beta).clamp(min=0))
        return codes[-1]

    x = x.flatten(1)
    code = last = up(x, [x.new_zeros(len(x), D.shape[1]) for D in matrices])
    t = 1.0
    for _ in range(pursuit.unfolding):
        t, t_last = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        probes = [code + (t_last - 1) / t * (code - last) if fista else code]
        for D in matrices[:0:-1]:
            probes.insert(0, probes[0] @ D.T)
        code, last = up(x, probes), code
    return code.view(shape)


@pytest.mark.parametrize("solver", [pn.ISTA(), pn.FISTA()], ids=["ML-ISTA", "ML-FISTA"])
@kinds
def test_sweeps_are_the_literal_ones(dictionaries, solver):
    x, codes = signals(dictionaries), []
    for unfolding in range(5):
        pursuit = pursuit_of(dictionaries, solver, unfolding)
        expected = literal(pursuit, x, fista=solver == pn.FISTA())
        codes.append(pursuit(x))
        torch.testing.assert_close(codes[-1], expected, rtol=1e-10, atol=1e-12)
        assert 0 < int((codes[-1] == 0).sum()) < codes[-1].numel()
    assert not any(torch.allclose(a, b) for a, b in itertools.pairwise(codes))


@kinds
def test_without_sweeps_it_is_the_layers_in_sequence(dictionaries):
    pursuit, x = pursuit_of(dictionaries, unfolding=0), signals(dictionaries)
    assert torch.equal(pursuit(x), torch.nn.Sequential(*pursuit.layers)(x))


@pytest.mark.parametrize("solver", [pn.ISTA(), pn.FISTA()])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_sweep_over_one_layer_is_that_layer_unfolded(index, solver):
    D = dense()[index]
    x = normal(2, D.channels, 4, 5)
    for bare in (True, False):
        given = [{"threshold": pn.Threshold(D.code_channels)} if bare else {} for _ in range(2)]
        layer = pn.PursuitLayer(D, solver=solver, unfolding=4, **given[0]).double()
        pursuit = pn.MultiLayerPursuit([pn.PursuitLayer(D, **given[1]).double()], solver, unfolding=4)
        assert torch.equal(pursuit(x), layer(x))
        assert torch.equal(pursuit.eval()(x), layer.eval()(x))


@kinds
def test_fista_equals_ista_at_unfolding_0_and_1_and_departs_at_2(dictionaries):
    x = signals(dictionaries)
    for unfolding in range(4):
        ista, fista = (pursuit_of(dictionaries, solver, unfolding)(x) for solver in (pn.ISTA(), pn.FISTA()))
        assert torch.equal(ista, fista) == (unfolding < 2)


@kinds
def test_every_sweep_uses_its_own_norm_in_every_layer(dictionaries):
    pursuit = pursuit_of(dictionaries, unfolding=2, norm=pn.BatchNorm())
    pursuit(signals(dictionaries, batch=3))
    for layer in pursuit.layers:
        assert [int(norm[0].num_batches_tracked) for norm in layer.threshold.norms] == [1, 1, 1]


@kinds
def test_gradients_reach_every_parameter(dictionaries):
    pursuit = pursuit_of(dictionaries, pn.FISTA(), unfolding=2)
    pursuit(signals(dictionaries)).square().sum().backward()
    for name, parameter in pursuit.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradients_are_those_of_the_sweeps():
    pursuit = pursuit_of(dense, pn.FISTA(), unfolding=2).eval()
    x = signals(dense)[:1, :, :2, :3].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: pursuit(x), (x, *pursuit.parameters()), fast_mode=True)


@kinds
def test_every_step_stays_inside_in_training_and_after_eval(dictionaries):
    pursuit, x = pursuit_of(dictionaries, unfolding=1), signals(dictionaries)
    optimizer = torch.optim.SGD(pursuit.parameters(), lr=5.0)

    def assert_inside():
        shape = x.shape
        for layer in pursuit.layers:
            assert 0 < float(layer.step()[0].detach()) <= 1 / layer.dictionary.lipschitz(shape)
            shape = layer.dictionary.analyze(x.new_zeros(shape)).shape

    for _ in range(5):
        optimizer.zero_grad()
        loss = -(1e-3 + pursuit(x).square().mean()).log()
        assert_inside()
        loss.backward()
        optimizer.step()
    pursuit.eval()
    assert_inside()
    kept = {name: value.clone() for name, value in pursuit.state_dict().items()}
    pursuit(x)
    assert all(torch.equal(value, kept[name]) for name, value in pursuit.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": pn.resnet}, "start 'resnet' and unfolding 0"),
        ({"unfolding": 2}, "start 'zero' and unfolding 2"),
    ],
)
def test_layers_with_a_previous_or_steps_of_their_own_are_refused(arguments, words):
    first, second, _ = strided()
    with pytest.raises(ValueError, match=f"{words}.*start at zero and have unfolding 0"):
        pn.MultiLayerPursuit([pn.PursuitLayer(first), pn.PursuitLayer(second, **arguments)])


@pytest.mark.parametrize("unfolding", [-1, 0.5])
def test_unfolding_is_refused_unless_it_is_a_number_of_sweeps(unfolding):
    with pytest.raises(ValueError, match=f"unfolding is {unfolding}; expected an integer ≥ 0"):
        pn.MultiLayerPursuit([pn.PursuitLayer(strided()[0])], unfolding=unfolding)


@pytest.mark.parametrize("layers", [[], [torch.nn.ReLU()]], ids=["none", "not a pursuit"])
def test_anything_but_pursuit_layers_is_refused(layers):
    with pytest.raises((TypeError, ValueError), match="PursuitLayer"):
        pn.MultiLayerPursuit(layers)


def test_layers_that_do_not_follow_each_other_are_refused():
    first, _, third = strided()
    pursuit = pn.MultiLayerPursuit([pn.PursuitLayer(first), pn.PursuitLayer(third)]).double()
    with pytest.raises(ValueError, match=r"the signal has shape \(2, 3, 6, 5\)"):
        pursuit(signals(strided))
