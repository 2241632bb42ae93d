"""What the choices of a network mean by name, and the pieces that networks share."""

from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from pursuitnet.dictionaries import ConvDictionary, WithIdentity
from pursuitnet.iterations import FISTA, ISTA, Solver
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.step_size import BoundedStep, FreeStep, Step
from pursuitnet.utils.nearest import did_you_mean

SOLVERS: dict[str, Solver] = {"ista": ISTA(), "fista": FISTA()}
SWEEPS = ("layer", "multilayer")
STEPS = ("bounded", "free")
PENALTIES = ("nonnegative", "free")
DILATIONS = ("network", "block")
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
    return nn.MaxPool2d(2, ceil_mode=True)  # an odd row or column is kept


@torch.no_grad()
def scale_filters(dictionary: ConvDictionary) -> None:
    """Scale random filters to λmax(DᵀD) ≤ 1, so that c starts near 1, or near 1/2 beside an identity."""
    dictionary.weight.div_(dictionary.lipschitz_bound().sqrt())


def step_of(name: str, dictionary: ConvDictionary | WithIdentity) -> Step:
    """Return the step c by the name of its choice, "bounded" or "free"."""
    if known("step", name, STEPS) == "bounded":
        return BoundedStep()
    return FreeStep(1 / dictionary.lipschitz_bound())


T = TypeVar("T")


def known(what: str, value: T, known: Collection[T]) -> T:
    """Return the value of a choice, if it exists."""
    if value not in known:
        listed = ", ".join(repr(str(k)) if k else "None" for k in known)
        raise ValueError(f"{what} is {value!r}; expected one of {listed}{did_you_mean(value, known)}")
    return value
