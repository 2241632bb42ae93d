"""What is found of a network, as numbers: every layer, every Lasso, and what was not read."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pursuitnet import __version__
from pursuitnet.program.whitebox.interpret import InterpretedLayer
from pursuitnet.program.whitebox.layers import Layer, SolverBudget
from pursuitnet.program.whitebox.traced import Convolutions, Projection
from pursuitnet.program.whitebox.unfolding import AtSteps


class UnreadModule(NamedTuple):
    """A convolution, matrix or pursuit that is not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """What ``inspect`` has found, as numbers.

    Attributes:
        title: of the page.
        images: number of images behind the numbers.
        shape: of one image.
        layers: every layer that was read, in the order in which the image meets them.
        error_bounds: the factor of Lemma 2's ε₀² of every layer; None from the first on where it does not apply.
        unread: what was not read.
        projections: what was read as the way of X₋₁ to a layer's code.
        convolutions: how many the images met, and how many of them are read.
        steps: the network at 0, 1, … further steps; empty for a model that has none.
        labeled: number of images behind the accuracies.
        effort: what went into the Lasso of each layer.
        readings: the layers with their codes, for the page.
        pixels: the images.
    """

    title: str
    images: int
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    error_bounds: tuple[float | None, ...]
    unread: tuple[UnreadModule, ...]
    projections: tuple[Projection, ...]
    convolutions: Convolutions
    steps: tuple[AtSteps, ...]
    labeled: int
    effort: SolverBudget
    interpreted_layers: tuple[InterpretedLayer, ...] = field(repr=False)
    pixels: Tensor = field(repr=False)

    @property
    def blocks(self) -> dict[str, int]:
        """How many of the layers that were read are plain, resnet, dense, …"""
        return dict(Counter(layer.block for layer in self.layers))

    @property
    def headline(self) -> str:
        """How many convolutions were read, and what the layers are, in a sentence."""
        read, met = self.convolutions
        projections = f", {len(self.projections)} of them as projections of X₋₁" if self.projections else ""
        blocks = ", ".join(f"{count} {block}" for block, count in self.blocks.items())
        return f"{read} of {met} convolutions read{projections}; layers: {blocks}"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON takes them; what is infinite or not known is None."""
        shown = {name: value for name, value in vars(self).items() if name not in ("interpreted_layers", "pixels")}
        return {
            "pursuitnet": __version__,
            **{name: _plain(value) for name, value in shown.items()},
            "blocks": self.blocks,
        }


def _plain(value: Any) -> Any:
    """Return a value as strict JSON has it."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(each) for name, each in asdict(value).items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
