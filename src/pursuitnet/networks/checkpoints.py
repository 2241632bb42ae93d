"""Loading checkpoints of CIFAR ResNets of other libraries."""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pursuitnet.networks.choices import known
from pursuitnet.networks.create import create_model
from pursuitnet.networks.network import Network
from pursuitnet.utils.paths import expanded

PADDINGS = ("both", "behind")
STATISTICS = ("weight", "bias", "running_mean", "running_var")
_STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Keys of the state dict in a checkpoint with more in it."""

State = Mapping[str, Tensor]


def load_resnet_checkpoint(
    checkpoint: str | Path | Mapping[str, Any], *, padding: Literal["both", "behind"] = "both"
) -> Network:
    """Return resnet_20, resnet_32, … with the weights of a CIFAR ResNet that was trained elsewhere, for evaluation.

    The layout is conv1, bn1, layer1.0.conv1, layer1.0.bn1, …, and linear or fc, optionally with the prefix ``module.``
    and inside {"state_dict": …}. The shortcuts have no weights (option A of He et al., Deep Residual Learning for Image
    Recognition, 2016): where the stage changes, every second pixel, and zeros for the new channels. This library
    appends the zeros after the channels; where the other network has them on both sides, channels are permuted, which
    changes no output.

    Args:
        checkpoint: the state dict, a dict that contains it, or a file of either, by ``torch.save`` or in safetensors.
        padding: where the other network has the zeros: half before and half after the channels ("both"), or all after
            them ("behind").

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its layout is different; the message names a key that is missing, unexpected, or of the wrong
            shape.
    """
    half_in_front = known("padding", padding, PADDINGS) == "both"
    state = _renamed(_state_of(checkpoint))
    depth = _depth(state)
    _require_keys(state, set(_names(depth)), depth)
    width, channels = _shape(state, "conv1.weight", 4)[:2]
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        network = create_model(f"resnet_{depth}", _shape(state, "linear.weight", 2)[0], channels, width=width)
    _fill(network, state, depth, half_in_front)
    return network.eval()


def _state_of(checkpoint: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict of a checkpoint."""
    content = checkpoint if isinstance(checkpoint, Mapping) else _read(expanded(checkpoint))
    for name in _STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"the checkpoint is {_described(content)}; expected a state dict: names and tensors")
    return content


def _described(content: object) -> str:
    """Return a description of a checkpoint for a message."""
    if isinstance(content, Mapping):
        return f"a dict of {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"of type {type(content).__name__}"


def _read(path: Path) -> Any:
    """Return the content of a file; no code in it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as a checkpoint of tensors ({reason:.200})") from error


def _renamed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors without the prefix ``module.``, with the head named linear, without num_batches_tracked."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    bare = {re.sub(r"^((module|_orig_mod)\.)+", "", name): value for name, value in tensors.items()}
    bare = {re.sub(r"^fc\.", "linear.", name): value for name, value in bare.items()}
    return {name: value for name, value in bare.items() if not name.endswith("num_batches_tracked")}


def _depth(state: State) -> int:
    """Return the number of layers, 6n + 2 for n blocks per stage."""
    blocks = {at[1] for name in state if (at := re.match(r"layer1\.(\d+)\.", name))}
    if not blocks:
        begin = f"it begins with {', '.join(list(state)[:3])}" if state else "it has no tensors"
        raise ValueError(f"the checkpoint has no layer1.0.conv1.weight; expected a CIFAR ResNet, and {begin}")
    return 6 * len(blocks) + 2


def _shape(state: State, name: str, axes: int) -> tuple[int, ...]:
    if state[name].dim() != axes or not state[name].numel():
        raise ValueError(
            f"{name} of the checkpoint has shape {tuple(state[name].shape)}; expected {axes} axes, none of them empty"
        )
    return tuple(state[name].shape)


def _layers(depth: int) -> Iterator[tuple[str, str]]:
    """Yield the names of convolution and normalization of every layer, in the order in which they are applied."""
    yield "conv1", "bn1"
    for stage in (1, 2, 3):
        for block in range(depth // 6):
            for number in (1, 2):
                yield f"layer{stage}.{block}.conv{number}", f"layer{stage}.{block}.bn{number}"


def _names(depth: int) -> Iterator[str]:
    for convolution, norm in _layers(depth):
        yield f"{convolution}.weight"
        yield from (f"{norm}.{name}" for name in STATISTICS)
    yield from ("linear.weight", "linear.bias")


def _require_keys(state: State, names: set[str], depth: int) -> None:
    """Raise ValueError unless a state dict has these names and no others."""
    of = f"a CIFAR ResNet of {depth} layers with shortcuts without weights (option A)"
    if missing := sorted(names - state.keys()):
        raise ValueError(f"the checkpoint has no {missing[0]}, which {of} has ({len(missing)} are missing)")
    if extra := sorted(state.keys() - names):
        raise ValueError(f"the checkpoint has {extra[0]}, which {of} does not have ({len(extra)} are unexpected)")


@torch.no_grad()
def _fill(network: Network, state: State, depth: int, half_in_front: bool) -> None:
    """Copy all weights and statistics, with the channels between blocks in this library's order."""
    layers, width = network.pursuits(), network.pursuits()[0].dictionary.code_channels[0]
    orders = list(_orders(depth, layers[0].dictionary.channels, width, half_in_front))
    for layer, (convolution, norm), (into, out) in zip(layers, _layers(depth), orders, strict=True):
        own = layer.state_dict()  # its tensors share memory with the layer
        _copy(own["dictionary.weight"], state, f"{convolution}.weight", out, into)
        for name in STATISTICS:
            _copy(own[f"threshold.norms.0.0.{name}"], state, f"{norm}.{name}", out)
    head = network.head.state_dict()
    _copy(head["weight"], state, "linear.weight", torch.arange(network.num_classes), orders[-1][1])
    _copy(head["bias"], state, "linear.bias", torch.arange(network.num_classes))


def _copy(own: Tensor, state: State, name: str, *orders: Tensor) -> None:
    """Copy a tensor with its first axes in another order."""
    value = state[name]
    if value.shape != own.shape:
        raise ValueError(f"{name} of the checkpoint has shape {tuple(value.shape)}; expected {tuple(own.shape)}")
    for axis, order in enumerate(orders):
        value = value.index_select(axis, order.to(value.device))
    own.copy_(value)


def _orders(depth: int, channels: int, width: int, half_in_front: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for every layer the indices of our channels among theirs, before and after the layer."""
    before = torch.arange(width)
    yield torch.arange(channels), before
    for stage in range(3):
        inside = torch.arange(width * 2**stage)  # channels between the two layers of a block are not permuted
        for _ in range(depth // 6):
            after = before if len(before) == len(inside) else _padded(before, half_in_front)
            yield before, inside
            yield inside, after
            before = after


def _padded(order: Tensor, half_in_front: bool) -> Tensor:
    """Return the indices of our channels among theirs after a shortcut that doubles their number."""
    shifted = order + (len(order) // 2 if half_in_front else 0)
    new = torch.ones(2 * len(order), dtype=torch.bool)
    new[shifted] = False
    return torch.cat([shifted, new.nonzero().flatten()])
