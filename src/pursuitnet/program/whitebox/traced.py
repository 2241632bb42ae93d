"""What is known of a model once it has run on the images: its layers, and what was not read."""

from typing import NamedTuple

from pursuitnet.program.trace import LayerTrace


class Projection(NamedTuple):
    """A convolution or a matrix that brings X₋₁ to the shape of a layer's code, where it is the layer's anchor."""

    name: str
    layer: str


class Convolutions(NamedTuple):
    """How many convolutions the images have met, and how many of them are read: as layers, or as projections."""

    read: int
    met: int


class TracedModel(NamedTuple):
    """A model that was watched.

    Attributes:
        layers: the layers with their names, in the order of their calls.
        unread: names of what cannot be read, with reasons.
        projections: what is read as part of a layer.
        convolutions: how many of them are read.
    """

    layers: list[tuple[str, LayerTrace]]
    unread: list[tuple[str, str]]
    projections: list[Projection]
    convolutions: Convolutions
