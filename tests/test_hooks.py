"""Hooks on a dictionary: weights that prune, spectral_norm and parametrizations compute, wherever they are used."""

import warnings

import pytest
import torch
from makers import normal
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import pursuitnet as pn


def conv(seed=0):
    return pn.ConvDictionary(normal(4, 2, 3, 3, seed=seed), padding=1)


def linear(seed=0):
    return pn.LinearDictionary(normal(6, 5, seed=seed))


SIGNALS = {conv: (2, 5, 6), linear: (5,)}


def pruned(dictionary):
    prune.l1_unstructured(dictionary, "weight", 0.5)


def old_spectral(dictionary):
    spectral_norm(dictionary)


def old_weight_norm(dictionary):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm itself is deprecated
        weight_norm(dictionary)


class Half(torch.nn.Module):
    def forward(self, weight):
        return weight / 2


def halved(dictionary):
    parametrize.register_parametrization(dictionary, "weight", Half())


def new_spectral(dictionary):
    parametrizations.spectral_norm(dictionary)


CHANGES = [pruned, old_spectral, old_weight_norm, halved, new_spectral]
kinds = pytest.mark.parametrize("make", SIGNALS, ids=lambda f: f.__name__)
changes = pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)


def plain_copy(dictionary):
    """The dictionary with the weight that it has now, and nothing on it."""
    weight = dictionary.weight.detach().clone()
    return pn.ConvDictionary(weight, padding=1) if weight.dim() > 2 else pn.LinearDictionary(weight)


@changes
@kinds
def test_training_uses_the_weights_of_this_step(make, change):
    dictionary = make()
    change(dictionary)
    layer = pn.PursuitLayer(dictionary, unfolding=1, threshold=pn.Threshold(dictionary.code_channels)).double()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    x = normal(3, *SIGNALS[make], seed=5)
    weights = []
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        weights.append(dictionary.weight.detach().clone())
        optimizer.step()
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    layer.eval()
    code = layer(x)
    alone = pn.PursuitLayer(plain_copy(dictionary), unfolding=1).double().eval()
    alone.threshold, alone.step.logit = layer.threshold, layer.step.logit
    torch.testing.assert_close(code, alone(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("evaluated", [False, True])
@kinds
def test_a_pruned_layer_gives_the_saved_codes_when_it_is_loaded(make, evaluated):
    x = normal(3, *SIGNALS[make], seed=5)
    layers = []
    for seed in (0, 1):
        dictionary = make(seed)
        pruned(dictionary)
        layers.append(
            pn.PursuitLayer(dictionary, unfolding=1, threshold=pn.Threshold(dictionary.code_channels)).double()
        )
    saved, loaded = layers
    saved.eval()
    expected = saved(x)
    loaded.load_state_dict(saved.state_dict())
    if evaluated:
        loaded.eval()
    torch.testing.assert_close(loaded(x), expected, rtol=1e-12, atol=1e-13)
    assert (loaded.dictionary.weight == 0).sum() == loaded.dictionary.weight.numel() // 2


def test_a_sweep_runs_the_hooks_of_its_layers():
    first, second = conv(), pn.ConvDictionary(normal(3, 4, 3, 3, seed=1), padding=1)
    pruned(second)
    pursuit = pn.MultiLayerPursuit([pn.PursuitLayer(first), pn.PursuitLayer(second)], unfolding=1).double()
    for _ in range(2):
        pursuit(normal(2, 2, 5, 6)).sum().backward()
    with torch.no_grad():
        second.weight_orig.mul_(2)
    pursuit(normal(2, 2, 5, 6))
    assert torch.equal(second.weight, second.weight_orig * second.weight_mask)


@changes
@kinds
def test_norms_lipschitz_matching_and_solving_work_on_computed_weights(make, change):
    dictionary, x = make(), normal(2, *SIGNALS[make], seed=5)
    change(dictionary)
    dictionary.eval()
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.mul_(0.5)
        found = pn.solve(x, dictionary, 1.0, tol=1e-5, max_steps=2000)
        plain = plain_copy(dictionary)
        torch.testing.assert_close(found.code, pn.solve(x, plain, 1.0, tol=1e-5, max_steps=2000).code)
        torch.testing.assert_close(dictionary.atom_norms(x.shape), plain.atom_norms(x.shape))
        taken = pn.solve(x, dictionary, solver=pn.OMP(3)).code
        torch.testing.assert_close(taken, pn.solve(x, plain, solver=pn.OMP(3)).code)
    assert dictionary.lipschitz(x.shape) == pytest.approx(plain.lipschitz(x.shape), rel=1e-6)
    assert pn.theory.mutual_coherence(dictionary, x.shape) == pytest.approx(
        pn.theory.mutual_coherence(plain, x.shape), rel=1e-6
    )


@pytest.mark.parametrize("change", [pruned, old_weight_norm], ids=lambda f: f.__name__)
@kinds
def test_beta_max_is_of_the_weights_of_now(make, change):
    dictionary, x = make(), normal(2, *SIGNALS[make], seed=5)
    change(dictionary)
    before = dictionary.weight.detach().clone()
    for parameter in dictionary.parameters():
        parameter.data.mul_(0.5)
    dictionary.weight = before  # as the last forward left it
    torch.testing.assert_close(pn.beta_max(x, dictionary), pn.beta_max(x, plain_copy(dictionary)))
    assert not torch.equal(dictionary.weight, before)


@pytest.mark.parametrize("change", [pruned, halved], ids=lambda f: f.__name__)
def test_a_network_with_computed_weights_is_inspected(change):
    torch.manual_seed(0)
    network = pn.create_model("msdnet_3", in_chans=1, width=2)
    for layer in network.pursuits():
        change(layer.dictionary.dictionary)
    images = torch.rand(2, 1, 6, 6)
    network(images)  # leaves weights with gradients
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert len(pn.inspect(network, images, unfolding=0).layers) == 3
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_pre_hook_is_handed_the_signal_and_keywords_if_it_asked_for_them():
    layer, seen = pn.PursuitLayer(conv()).double(), []
    layer.dictionary.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    layer.dictionary.register_forward_pre_hook(lambda _, __, named: seen.append(named), with_kwargs=True)
    layer(normal(1, 2, 5, 6))
    layer.eval()
    assert seen == [(1, 2, 5, 6), {}]


@pytest.mark.parametrize("inner", [False, True], ids=["D", "[I D]"])
def test_hooks_that_would_do_nothing_are_refused_where_they_are_found(inner):
    dictionary = conv()
    layer = pn.PursuitLayer(pn.WithIdentity(dictionary) if inner else dictionary).double()
    x = normal(1, 2, 5, 6)
    handle = dictionary.register_forward_hook(lambda *_: None)
    for act in (lambda: layer(x), lambda: pn.MultiLayerPursuit([layer])(x), lambda: pn.solve(x, dictionary, 0.1)):
        with pytest.raises(
            ValueError, match=r"forward hook is registered on a ConvDictionary.*the layer that contains it"
        ):
            act()
    handle.remove()
    dictionary.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    with pytest.raises(
        ValueError, match=r"pre-hook of a ConvDictionary returned new inputs.*the layer that contains it"
    ):
        layer(x)
