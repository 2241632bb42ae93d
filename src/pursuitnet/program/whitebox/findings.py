"""The results of inspecting a network, as numbers: every layer, its Lasso, and the modules that were not read."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pursuitnet.program.whitebox.interpret import InterpretedLayer
from pursuitnet.program.whitebox.layers import Layer, SolverBudget
from pursuitnet.program.whitebox.traced import Convolutions, Projection
from pursuitnet.program.whitebox.unfolding import AtSteps
from pursuitnet.utils.version import __version__


class UnreadModule(NamedTuple):
    """A convolution, matrix or pursuit that was not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """The results of ``inspect``, as numbers.

    Attributes:
        title: of the page.
        images: number of images that the layers were measured on.
        shape: of one image.
        layers: every layer that was read, in the order in which the image passes them.
        error_bounds: the factor of ε₀² in Lemma 2 of every layer; None from the first layer where it does not apply.
        unread: modules that were not read.
        projections: modules that were read as projections of X₋₁, with their layer.
        convolutions: number of convolutions that the images passed, and number of those that were read.
        steps: the network with 0, 1, … further steps; empty for a model without steps.
        labeled: number of images that the accuracy was measured on.
        budget: the budget for the Lasso of each layer.
        interpreted_layers: the layers with their codes, for the page.
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
    budget: SolverBudget
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
        """Return the numbers as JSON values; None for infinite or unknown ones."""
        fields = {name: value for name, value in vars(self).items() if name not in ("interpreted_layers", "pixels")}
        numbers = {name: _json_value(value) for name, value in fields.items()}
        return {"pursuitnet": __version__, **numbers, "blocks": self.blocks}


def _json_value(value: Any) -> Any:
    """Return a value as strict JSON."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _json_value(item) for name, item in asdict(value).items()}
    if isinstance(value, dict):
        return {name: _json_value(item) for name, item in value.items()}
    if hasattr(value, "_asdict"):
        return _json_value(value._asdict())
    if isinstance(value, tuple | list):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
