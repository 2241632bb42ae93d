"""The results of inspecting a network, as numbers: every layer, its Lasso, and the modules that were not read."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pursuitnet import __version__
from pursuitnet.program.whitebox.interpret import InterpretedLayer
from pursuitnet.program.whitebox.layers import Layer, SolverBudget
from pursuitnet.program.whitebox.unfolding import AtSteps


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
        steps: the network with 0, 1, … further steps; empty for a model without steps.
        labeled: number of images that the accuracy was measured on.
        effort: the budget for the Lasso of each layer.
        interpreted_layers: the layers with their codes, for the page.
        pixels: the images.
    """

    title: str
    images: int
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    error_bounds: tuple[float | None, ...]
    unread: tuple[UnreadModule, ...]
    steps: tuple[AtSteps, ...]
    labeled: int
    effort: SolverBudget
    interpreted_layers: tuple[InterpretedLayer, ...] = field(repr=False)
    pixels: Tensor = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values; None for infinite or unknown ones."""
        fields = {name: value for name, value in vars(self).items() if name not in ("interpreted_layers", "pixels")}
        return {"pursuitnet": __version__, **{name: _json_value(value) for name, value in fields.items()}}


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
