"""What is known of a model once it has run on the images: its layers, and what was not read."""

from typing import NamedTuple

from pursuitnet.program.trace import LayerTrace


class Projection(NamedTuple):
    """A convolution or a matrix that brings X₋₁ to the shape of a layer's code, where it is the layer's anchor."""

    name: str
    layer: str
    convolves: bool


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

    def without(self, refused: dict[str, str]) -> "TracedModel":
        """Return the model without the layers that are no step on any Lasso, names with reasons, and what is theirs."""
        kept = [each for each in self.projections if each.layer not in refused]
        lost = [each for each in self.projections if each.layer in refused]
        convolutions = sum(each.convolves for each in lost)
        convolutions += sum(at.convolves for name, at in self.layers if name in refused)
        added = [(each.name, f"it is added to {each.layer}, which is not read") for each in lost]
        return TracedModel(
            [(name, at) for name, at in self.layers if name not in refused],
            [*self.unread, *refused.items(), *added],
            kept,
            self.convolutions._replace(read=self.convolutions.read - convolutions),
        )
