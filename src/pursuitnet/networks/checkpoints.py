"""Checkpoints of the CIFAR ResNets by others, as networks of this library."""

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
_INSIDE = ("state_dict", "model_state_dict", "model", "net")
"""What the state dict is called in a checkpoint that holds more."""

State = Mapping[str, Tensor]


def load_resnet_checkpoint(
    checkpoint: str | Path | Mapping[str, Any], *, padding: Literal["both", "behind"] = "both"
) -> Network:
    """Return resnet_20, resnet_32, … with the weights of a CIFAR ResNet that was trained elsewhere, for evaluation.

    The layout is conv1, bn1, layer1.0.conv1, layer1.0.bn1, …, and linear or fc, perhaps with ``module.`` in front and
    inside {"state_dict": …}. The shortcuts have no weights (option A of He et al., Deep Residual Learning for Image
    Recognition, 2016): where the stage changes, every second pixel, and zeros for the new channels. Ours puts the zeros
    behind the channels; where the other network has them on both sides, channels are permuted, which changes no output.

    Args:
        checkpoint: the state dict, what holds it, or a file of it, by ``torch.save`` or in safetensors.
        padding: where the other network has the zeros: half of them in front and half behind ("both"), or all behind.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another layout; the message names a key that is missing or has no place, or whose
            shape is another.
    """
    half_in_front = known("padding", padding, PADDINGS) == "both"
    state = _renamed(_state_of(checkpoint))
    depth = _depth(state)
    _require_keys(state, set(_names(depth)), depth)
    width, channels = _shape(state, "conv1.weight", 4)[:2]
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are not used
        network = create_model(f"resnet_{depth}", _shape(state, "linear.weight", 2)[0], channels, width=width)
    _fill(network, state, depth, half_in_front)
    return network.eval()


def _state_of(checkpoint: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what names and tensors a checkpoint holds."""
    found = checkpoint if isinstance(checkpoint, Mapping) else _read(expanded(checkpoint))
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"the checkpoint is {_told(found)}; expected a state dict: names and tensors")
    return found


def _told(found: object) -> str:
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(str, list(found)[:5])) or 'nothing'}"
    return f"of type {type(found).__name__}"


def _read(path: Path) -> Any:
    """Return what a file holds; no code in it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{path} cannot be read as a checkpoint of tensors ({said:.200})") from error


def _renamed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors without ``module.`` in front, with the head called linear, without numbers of batches."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    bare = {re.sub(r"^((module|_orig_mod)\.)+", "", name): value for name, value in tensors.items()}
    bare = {re.sub(r"^fc\.", "linear.", name): value for name, value in bare.items()}
    return {name: value for name, value in bare.items() if not name.endswith("num_batches_tracked")}


def _depth(state: State) -> int:
    """Return the number of layers, 6n + 2 of n blocks a stage."""
    blocks = {at[1] for name in state if (at := re.match(r"layer1\.(\d+)\.", name))}
    if not blocks:
        raise ValueError(f"the checkpoint has no layer1.0.conv1.weight; expected a CIFAR ResNet{_has(state)}")
    return 6 * len(blocks) + 2


def _has(state: State) -> str:
    return f", and it begins with {', '.join(list(state)[:3])}" if state else ", and it has no tensors"


def _shape(state: State, name: str, axes: int) -> tuple[int, ...]:
    if state[name].dim() != axes or not state[name].numel():
        raise ValueError(
            f"{name} of the checkpoint has shape {tuple(state[name].shape)}; expected {axes} axes, none of them empty"
        )
    return tuple(state[name].shape)


def _layers(depth: int) -> Iterator[tuple[str, str]]:
    """Yield the names of convolution and normalization of every layer, in the order in which the image meets them."""
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
    if more := sorted(state.keys() - names):
        raise ValueError(f"the checkpoint has {more[0]}, which {of} has not ({len(more)} are too many)")


@torch.no_grad()
def _fill(network: Network, state: State, depth: int, half_in_front: bool) -> None:
    """Copy all weights and statistics, with the channels between blocks in the order that ours have."""
    layers, width = network.pursuits(), network.pursuits()[0].dictionary.code_channels[0]
    orders = list(_orders(depth, layers[0].dictionary.channels, width, half_in_front))
    for layer, (convolution, norm), (into, out) in zip(layers, _layers(depth), orders, strict=True):
        own = layer.state_dict()  # these share memory with the layer
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
    """Yield for every layer where our channels lie among theirs, before it and after it."""
    before = torch.arange(width)
    yield torch.arange(channels), before
    for stage in range(3):
        inside = torch.arange(width * 2**stage)  # between the two layers of a block nothing is permuted
        for _ in range(depth // 6):
            after = before if len(before) == len(inside) else _padded(before, half_in_front)
            yield before, inside
            yield inside, after
            before = after


def _padded(order: Tensor, half_in_front: bool) -> Tensor:
    """Return where our channels lie among theirs where a shortcut makes them twice as many."""
    moved = order + (len(order) // 2 if half_in_front else 0)
    new = torch.ones(2 * len(order), dtype=torch.bool)
    new[moved] = False
    return torch.cat([moved, new.nonzero().flatten()])
