"""A network as a part of others: its head, its pooled features, the feature maps of its stages."""

import copy

import pytest
import torch
from torch.nn.utils import prune

import pursuitnet as pn

NAMES = ["plain_8", "res_csc_8", "feed_forward", "ml_csc", "msdnet_6", "msd_csc_9"]


def made(name, **choices):
    torch.manual_seed(0)
    return pn.create_model(name, num_classes=5, width=2, **choices).eval()


@pytest.mark.parametrize("name", NAMES)
def test_features_and_head_are_the_network(name):
    model, x = made(name), torch.rand(2, 3, 32, 32)
    features = model.forward_features(x)
    assert features.shape[1] == model.num_features
    assert torch.equal(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.equal(pooled, features.mean(dim=(2, 3))) and torch.equal(model.get_classifier()(pooled), model(x))


@pytest.mark.parametrize("name", ["res_csc_8", "msd_csc_6"])
def test_a_new_head_leaves_the_features_as_they_are(name):
    model, x = made(name).double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    before = model.forward_features(x)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model(x).dtype == torch.float64 and model.num_classes == 7
    assert torch.equal(model.forward_features(x), before)
    model.reset_classifier(0)
    assert torch.equal(model(x), before.mean(dim=(2, 3)))
    for wrong in (-1, 2.5):
        with pytest.raises(ValueError, match=f"num_classes is {wrong}; expected an integer ≥ 0"):
            model.reset_classifier(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_every_resolution_has_a_feature_map(name):
    model, x = made(name), torch.rand(2, 3, 32, 32)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x)) and torch.equal(maps[-1], last)
    about = model.feature_info
    assert [tuple(m.shape) for m in maps] == [
        (2, each["num_chs"], 32 // each["reduction"], 32 // each["reduction"]) for each in about
    ]
    reductions = [each["reduction"] for each in about]
    assert len(maps) == 3 and reductions == sorted(set(reductions))
    parts = dict(model.named_modules())
    for each, found in zip(about, maps, strict=True):
        seen = []
        handle = parts[each["module"]].register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        model(x)
        handle.remove()
        assert torch.equal(seen[0], found)


def test_stages_are_chosen_by_number():
    model, x = made("msd_csc_6"), torch.rand(2, 3, 32, 32)
    _, maps = model.forward_intermediates(x)
    for indices, expected in (((0, -1), (0, 2)), (2, (1, 2)), ([1], (1,)), (None, (0, 1, 2))):
        chosen = model.forward_intermediates(x, indices, intermediates_only=True)
        assert len(chosen) == len(expected)
        assert all(torch.equal(one, maps[k]) for one, k in zip(chosen, expected, strict=True))
    for wrong in ([3], [-4], 4):
        with pytest.raises(IndexError, match="the network has 3, numbered from 0"):
            model.forward_intermediates(x, wrong)


def test_feature_maps_of_a_checkpointed_network_are_the_same():
    model, x = made("res_csc_8").train(), torch.rand(2, 3, 16, 16)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    for one, other in zip(model.forward_intermediates(x)[1], twin.forward_intermediates(x)[1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["res_csc_8", "ml_csc", "msd_csc_3"])
def test_a_pruned_network_learns_with_its_zeros_and_keeps_its_bound(name):
    model, x = made(name).train(), torch.rand(4, 3, 16, 16)
    filters = [getattr(layer.dictionary, "dictionary", layer.dictionary) for layer in model.pursuits()]
    for each in filters:
        prune.l1_unstructured(each, "weight", amount=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    model.eval()
    reached = model.feature_info[-1]["reduction"]
    assert reached == made(name).feature_info[-1]["reduction"]  # what computes a weight hides no stride
    for each, layer in zip(filters, model.pursuits(), strict=True):
        assert float((each.weight == 0).double().mean()) >= 0.49
        if hasattr(layer.step, "lipschitz"):
            assert layer.step.lipschitz == layer.dictionary.lipschitz_bound()
    logits = model(x)
    for each in filters:
        prune.remove(each, "weight")
    torch.testing.assert_close(model(x), logits)
