"""Thresholds chosen for images as they come, without labels: noise wants them higher, blur lower.

The network was trained on codes of a certain kind. So the factor S of all thresholds is chosen that brings its codes
back to what they are on clean training images:

    S = argmin ‖u(S) − u_clean‖²/‖u_clean‖²

where u is one of two statistics. ``errors``: how well each layer's code reconstructs its input, ‖x − DΓ‖/‖x‖,
(layers,). ``usage``: how often each atom of the last layer is used, (atoms,), which did somewhat better on the networks
tried. Only images enter; labels are not at hand here. Pixels predicted from their neighbors' code, a white residual
and the sparsity of all layers together did worse.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pursuitnet.program.evaluation.settings import with_thresholds
from pursuitnet.program.trace import trace_layers
from pursuitnet.prox.threshold import Threshold

Prepare = Callable[[Tensor], Tensor]
Statistic = Callable[[nn.Module, Tensor, Prepare], Tensor]
FACTORS = tuple(2 ** (k / 2) for k in range(-4, 5))
"""1/4 to 4 in steps of √2; 1 is among them exactly."""


@dataclass(frozen=True)
class Adaptation:
    """The choice of S for a network.

    Attributes:
        model: the network.
        prepare: brings a batch of images to what the network expects.
        clean: u of clean images.
        factors: the S to choose from.
        statistic: u, ``usage`` or ``errors``.
    """

    model: nn.Module = field(repr=False)
    prepare: Prepare = field(repr=False)
    clean: Tensor
    factors: Sequence[float] = FACTORS
    statistic: Statistic = field(default_factory=lambda: usage)

    @classmethod
    def to(cls, clean: Tensor, model: nn.Module, prepare: Prepare, by: str = "usage") -> "Adaptation":
        """Return the choice that brings codes back to what they are on clean training images.

        Args:
            clean: training images.
            model: the network.
            prepare: brings a batch of images to what the network expects.
            by: "reconstruction" or "usage".
        """
        statistic = CRITERIA[by].statistic
        return cls(model, prepare, statistic(model, clean, prepare), statistic=statistic)

    def factor(self, images: Tensor) -> float:
        """Return S for images without labels; of several that are equally good the one nearest to 1."""
        return min(sorted(self.factors, key=_from_one), key=lambda S: self.distance(images, S))

    def distance(self, images: Tensor, factor: float) -> float:
        """Return ‖u(S) − u_clean‖²/‖u_clean‖²; infinite where a code overflows."""
        with with_thresholds(self.model, factor):
            off = self.statistic(self.model, images, self.prepare) - self.clean
        return float((off.square().sum() / self.clean.square().sum().clamp(min=1e-12)).nan_to_num(torch.inf))


@torch.no_grad()
def errors(model: nn.Module, images: Tensor, prepare: Prepare, size: int = 64) -> Tensor:
    """Return the mean over images of ‖x − DΓ‖/‖x‖, the reconstruction error of each layer's last code, (layers,).

    Args:
        model: the network; it is left in evaluation mode.
        images: (N, C, H, W), at least one.
        prepare: brings a batch of the images to what the network expects.
        size: images a batch.
    """
    found, model = [], model.eval()
    for part in images.split(size):
        layers = trace_layers(model, prepare(part))
        lost = [(at.signals[-1] - at.models()[-1]).flatten(1).norm(dim=1) for at in layers]
        whole = [at.signals[-1].flatten(1).norm(dim=1).clamp(min=1e-12) for at in layers]
        found.append(torch.stack([(a / b).double().sum() for a, b in zip(lost, whole, strict=True)]))
    return torch.stack(found).sum(dim=0) / len(images)


def usage(model: nn.Module, images: Tensor, prepare: Prepare, size: int = 64) -> Tensor:
    """Return how often each atom of the last layer is used: the non-zero share of its code, (atoms,).

    The code is that after the last step; the identity part of a code of [I D] is left out, and an atom whose code is
    not finite has the share NaN.

    Args:
        model: the network; it is left in evaluation mode.
        images: (N, C, H, W), at least one.
        prepare: brings a batch of the images to what the network expects.
        size: images a batch.
    """
    last: list[Tensor] = []

    def keep(threshold: nn.Module, inputs: Any, parts: tuple[Tensor, ...]) -> None:
        last[:] = parts[-1:]  # every step of every layer overwrites the one before

    shares, model = [], model.eval()
    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, Threshold)]
    try:
        with torch.inference_mode():
            for part in images.split(size):
                model(prepare(part))
                used = (last[0] != 0).double() + 0 * last[0]  # NaN where the code is not finite
                shares.append(used.transpose(0, 1).flatten(1).mean(dim=1) * len(part))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(shares).sum(dim=0) / len(images)


class Criterion(NamedTuple):
    """What S can be chosen by, and what that brings about, in words."""

    statistic: Statistic
    brings: str


CRITERIA = {
    "reconstruction": Criterion(errors, "every layer reconstructs its input as well as it does clean training images"),
    "usage": Criterion(usage, "the last layer uses its atoms as on clean training images"),
}


def _from_one(factor: float) -> float:
    return abs(math.log(factor)) if factor else math.inf
