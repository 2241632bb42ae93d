"""Checkpoints of CIFAR ResNets by others: the same outputs as the network written out here, or one sentence."""

import collections
import itertools

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import pursuitnet as pn


class Block(nn.Module):
    """Two convolutions and a shortcut without weights: every second pixel, zeros for new channels (option A)."""

    def __init__(self, channels, planes, front):
        super().__init__()
        self.stride = 1 if channels == planes else 2
        self.conv1 = nn.Conv2d(channels, planes, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        new = planes - channels
        self.pad = (new // 2, new - new // 2) if front else (0, new)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad)))


class CifarResNet(nn.Module):
    """The network of 6n + 2 layers in the layout that public checkpoints have."""

    def __init__(self, n, width=16, classes=10, channels=3, head="linear", front=True):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        rows = [width, width, 2 * width, 4 * width]
        for stage in (1, 2, 3):
            sizes = [rows[stage - 1], *[rows[stage]] * n]
            blocks = [Block(a, b, front) for a, b in itertools.pairwise(sizes)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.head = head
        setattr(self, head, nn.Linear(rows[3], classes))

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return getattr(self, self.head)(F.avg_pool2d(x, x.shape[3]).flatten(1))


def other(n=1, **how):
    """A network with statistics and scales of its own, so that nothing is 0 or 1 by chance."""
    torch.manual_seed(n)
    model = CifarResNet(n, **how).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("n", "how", "padding"),
    [
        (3, {}, "both"),
        (1, {"width": 6, "classes": 7, "channels": 1, "head": "fc"}, "both"),
        (2, {"width": 4, "front": False}, "behind"),
    ],
)
def test_outputs_are_those_of_the_other_network(n, how, padding):
    model = other(n, **how)
    x = torch.randn(3, how.get("channels", 3), 32, 32)
    found = pn.load_resnet_checkpoint(model.state_dict(), padding=padding)
    assert len(found.pursuits()) == 6 * n + 1 and not found.training
    expected = model(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found(x), expected, rtol=1e-5, atol=1e-5)
    wrong = "behind" if padding == "both" else "both"
    assert (pn.load_resnet_checkpoint(model.state_dict(), padding=wrong)(x) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["resnet_20", "resnet_32", "resnet_44", "resnet_56"])
def test_the_number_of_blocks_gives_the_network_of_the_table(name):
    depth = int(name.rpartition("_")[2])
    model = other(depth // 6)
    found, x = pn.load_resnet_checkpoint(model.state_dict()), torch.randn(2, 3, 32, 32)
    assert found.state_dict().keys() == pn.create_model(name).state_dict().keys()
    expected = model(x).detach()
    torch.testing.assert_close(found(x).detach() / expected.std(), expected / expected.std(), rtol=1e-5, atol=1e-5)


def test_files_prefixes_and_what_else_a_checkpoint_holds(tmp_path):
    model, x = other(), torch.randn(2, 3, 32, 32)
    compiled = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": collections.OrderedDict(state), "best_prec1": 91.7, "epoch": 3}, tmp_path / "model.th")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    draws = torch.get_rng_state()
    for given in (state, compiled, {"model": state}, tmp_path / "model.th", str(tmp_path / "model.safetensors")):
        torch.testing.assert_close(pn.load_resnet_checkpoint(given)(x), model(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), draws)


def without(name):
    return lambda state: state.pop(name)


def having(name, shape):
    return lambda state: state.__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("layer2.0.bn1.running_var"), r"has no layer2\.0\.bn1\.running_var, which a CIFAR ResNet of 8 layers"),
        (without("linear.bias"), r"has no linear\.bias"),
        (without("conv1.weight"), r"has no conv1\.weight"),
        (having("layer2.0.shortcut.0.weight", (32, 16, 1, 1)), r"has layer2\.0\.shortcut\.0\.weight, which .*option A"),
        (having("layer1.1.conv1.weight", (16, 16, 3, 3)), r"has no layer1\.1\.bn1\.bias, .* of 14 layers"),
        (having("layer1.0.conv1.weight", (16, 16, 5, 5)), r"layer1\.0\.conv1\.weight .* \(16, 16, 5, 5\); expected"),
        (having("conv1.weight", (16,)), r"conv1\.weight of the checkpoint has shape \(16,\); expected 4 axes"),
        (having("linear.weight", (0, 64)), r"linear\.weight of the checkpoint has shape \(0, 64\); expected 2 axes"),
        (having("layer1.999999999999.conv1.weight", (16, 16, 3, 3)), r"has no layer1\.1\.bn1\.bias"),
        (lambda state: state.clear(), "a dict of nothing; expected a state dict"),
        (
            lambda state: [state.pop(k) for k in list(state) if k.startswith("layer1")],
            r"has no layer1\.0\.conv1\.weight",
        ),
    ],
)
def test_another_layout_is_answered_with_one_sentence(change, says):
    state = dict(other().state_dict())
    change(state)
    with pytest.raises(ValueError, match=says) as caught:
        pn.load_resnet_checkpoint(state)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    torch.save(other(), tmp_path / "module.pt")
    for name in ("noise.pt", "noise.safetensors", "module.pt"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a checkpoint of tensors") as caught:
            pn.load_resnet_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        pn.load_resnet_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="padding is 'front'; expected one of 'both', 'behind'"):
        pn.load_resnet_checkpoint(other().state_dict(), padding="front")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="of type list; expected a state dict"):
        pn.load_resnet_checkpoint(tmp_path / "list.pt")
