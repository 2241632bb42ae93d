"""The named choices of a network, and the modules that networks share."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from pursuitnet.dictionaries import ComposedDictionary, ConvDictionary, Dictionary, WithIdentity
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.iterations import FISTA, ISTA, Solver
from pursuitnet.networks.network import Network
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.step_size import BoundedStep, FreeStep, Step
from pursuitnet.utils.nearest import did_you_mean

SOLVERS: dict[str, Solver] = {"ista": ISTA(), "fista": FISTA()}
SWEEPS = ("layer", "multilayer")
STEPS = ("bounded", "free")
PENALTIES = ("nonnegative", "free")
DILATIONS = ("network", "block")
BOUNDARIES = ("zeros", "reflect")
NORMS: dict[str | None, BatchNorm | None] = {
    None: None,
    "batch": BatchNorm(identity="scale"),
    "features": BatchNorm(),
    "whole": BatchNorm(identity="batch"),
}
HE = BatchNorm(on="update", affine=True, momentum=0.1)
RESIDUAL_NORMS: dict[str | None, BatchNorm | None] = {None: None, "batch": HE, "whole": replace(HE, on="sum")}


def pool() -> nn.Module:
    """Return the max-pooling between stages."""
    return nn.MaxPool2d(2, ceil_mode=True)  # an odd last row or column is kept


@torch.no_grad()
def scale_filters(dictionary: ConvDictionary) -> None:
    """Scale random filters to λmax(DᵀD) ≤ 1, so that c starts near 1, or near 1/2 with an identity part."""
    dictionary.weight.div_(dictionary.lipschitz_bound().sqrt())


@torch.no_grad()
def begin_with(network: Network, dictionaries: Dictionary | Sequence[Dictionary | None]) -> None:
    """Copy the filters of dictionaries into the first layers, scaled to the λmax(DᵀD) of those that they replace.

    Args:
        network: the network, which is changed in place.
        dictionaries: one for each of the first layers, or None for a layer that is left unchanged; a
            ComposedDictionary has one for each, and another dictionary is that of the first layer.

    Raises:
        TypeError: for anything but dictionaries.
        ValueError: for more dictionaries than layers, filters of another shape, and filters that are not finite or all
            zero.
    """
    layers = network.pursuits()
    if isinstance(dictionaries, Dictionary):
        dictionaries = dictionaries.layers if isinstance(dictionaries, ComposedDictionary) else [dictionaries]
    if not isinstance(dictionaries, list | tuple | nn.ModuleList):
        raise TypeError(
            f"dictionaries is {kind_of(dictionaries)}; expected a list of them, one for each of the first layers"
        )
    if len(dictionaries) > len(layers):
        raise ValueError(f"{len(dictionaries)} dictionaries for {len(layers)} layers; expected at most one for each")
    for i, (given, layer) in enumerate(zip(dictionaries, layers, strict=False)):
        if given is None:
            continue
        if not isinstance(given, Dictionary):
            raise TypeError(
                f"dictionaries[{i}] is {kind_of(given)}; expected a Dictionary, such as learn(…).dictionary"
            )
        own, new = (d.dictionary if isinstance(d, WithIdentity) else d for d in (layer.dictionary, given))
        shapes = [tuple(getattr(d, "weight", torch.empty(0)).shape) for d in (own, new)]
        if not isinstance(own, ConvDictionary) or not isinstance(new, ConvDictionary) or shapes[0] != shapes[1]:
            raise ValueError(
                f"dictionaries[{i}] has filters of shape {shapes[1]}; expected {shapes[0]} (atoms, channels, *kernel) "
                f"for layer {i + 1}"
            )
        if not new.weight.isfinite().all() or not new.weight.any():
            raise ValueError(f"dictionaries[{i}] has filters that are all zero or not finite; expected others")
        before = own.lipschitz_bound()
        own.weight.copy_(new.weight)
        own.weight.mul_((before / own.lipschitz_bound()).sqrt())


def step_of(name: str, dictionary: ConvDictionary | WithIdentity) -> Step:
    """Return the step c for the choice "bounded" or "free"."""
    if known("step", name, STEPS) == "bounded":
        return BoundedStep()
    return FreeStep(1 / dictionary.lipschitz_bound())


T = TypeVar("T")


def known(what: str, value: T, known: Collection[T]) -> T:
    """Return the value of a choice; raise ValueError if it is unknown."""
    if value not in known:
        listed = ", ".join(repr(str(k)) if k else "None" for k in known)
        raise ValueError(f"{what} is {value!r}; expected one of {listed}{did_you_mean(value, known)}")
    return value
