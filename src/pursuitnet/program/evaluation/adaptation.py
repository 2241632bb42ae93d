"""Thresholds chosen at test time for images without labels: noise needs higher ones, blur lower ones.

The factor S of all thresholds is chosen such that the codes have the statistics that they have on clean training
images:

    S = argmin ‖u(S) − u_clean‖²/‖u_clean‖²

where u is one of two statistics. ``errors``: how well each layer's code reconstructs its input, ‖x − DΓ‖/‖x‖,
(layers,). ``usage``: how often each atom of the last layer is used, (atoms,), which did somewhat better on the networks
tried. Only images are used, no labels. Pixels predicted from their neighbors' code, a white residual and the sparsity
of all layers together did worse.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pursuitnet.layer import PursuitLayer
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
        prepare: turns a batch of images into input of the network.
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
        """Return the choice that makes codes like those of clean training images.

        Args:
            clean: training images.
            model: the network.
            prepare: turns a batch of images into input of the network.
            by: "reconstruction" or "usage".
        """
        statistic = CRITERIA[by].statistic
        return cls(model, prepare, statistic(model, clean, prepare), statistic=statistic)

    def factor(self, images: Tensor) -> float:
        """Return S for images without labels; of several that are equally good, the one nearest to 1."""
        return min(sorted(self.factors, key=_distance_from_one), key=lambda S: self.distance(images, S))

    def distance(self, images: Tensor, factor: float) -> float:
        """Return ‖u(S) − u_clean‖²/‖u_clean‖²; infinite if a code overflows."""
        with with_thresholds(self.model, factor):
            change = self.statistic(self.model, images, self.prepare) - self.clean
        return float((change.square().sum() / self.clean.square().sum().clamp(min=1e-12)).nan_to_num(torch.inf))


@torch.no_grad()
def errors(model: nn.Module, images: Tensor, prepare: Prepare, size: int = 64) -> Tensor:
    """Return the mean over images of ‖x − DΓ‖/‖x‖, the reconstruction error of each layer's last code, (layers,).

    Args:
        model: the network; it is left in evaluation mode.
        images: (N, C, H, W), at least one.
        prepare: turns a batch of the images into input of the network.
        size: images per batch.
    """
    sums, model = [], model.eval()
    for part in images.split(size):
        traces = trace_layers(model, prepare(part))
        residuals = [(t.signals[-1] - t.reconstructions()[-1]).flatten(1).norm(dim=1) for t in traces]
        norms = [t.signals[-1].flatten(1).norm(dim=1).clamp(min=1e-12) for t in traces]
        sums.append(torch.stack([(a / b).double().sum() for a, b in zip(residuals, norms, strict=True)]))
    return torch.stack(sums).sum(dim=0) / len(images)


def usage(model: nn.Module, images: Tensor, prepare: Prepare, size: int = 64) -> Tensor:
    """Return how often each atom of the last layer is used: the fraction of its code that is not zero, (atoms,).

    The code is that after the last step, without the identity part of a code of [I D]; the result is NaN for an atom
    whose code is not finite.

    Args:
        model: the network; it is left in evaluation mode.
        images: (N, C, H, W), at least one.
        prepare: turns a batch of the images into input of the network.
        size: images per batch.
    """
    last: list[Tensor] = []

    def keep(threshold: nn.Module, inputs: Any, parts: tuple[Tensor, ...]) -> None:
        last[:] = parts[-1:]  # every step of every layer overwrites the previous one

    shares, model = [], model.eval()

    def keep_solved(layer: PursuitLayer, inputs: Any, code: Tensor) -> None:
        last[:] = layer.dictionary.split(code)[-1:]  # a solver has its own threshold

    handles = [m.register_forward_hook(keep) for m in model.modules() if isinstance(m, Threshold)]
    solved = [m for m in model.modules() if isinstance(m, PursuitLayer) and m.unfolding == "solved"]
    handles += [layer.register_forward_hook(keep_solved) for layer in solved]
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
    """A criterion for S: its statistic, and a description of its effect."""

    statistic: Statistic
    effect: str


CRITERIA = {
    "reconstruction": Criterion(errors, "every layer reconstructs its input as well as it does clean training images"),
    "usage": Criterion(usage, "the last layer uses its atoms as on clean training images"),
}


def _distance_from_one(factor: float) -> float:
    return abs(math.log(factor)) if factor else math.inf
