"""A tensor of a running model as a sum, channel by channel: of convolutions before their ReLU, and of other tensors.

A convolution or a matrix begins a sum of one term; batch normalization in evaluation scales and shifts it, an addition
joins two, a concatenation puts them side by side. At a ReLU the sum says what the code is:
Γ = ReLU( a·Dᵀx + a'·X₋₁ + b ).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor


class AveragePool(NamedTuple):
    """An average pooling without padding: its window and its stride, one number an axis."""

    window: tuple[int, ...]
    stride: tuple[int, ...]


class ThresholdedSum(NamedTuple):
    """What a ReLU has made of a layer's sum.

    Attributes:
        segment: the sum that it has met.
        code: what it gives in those channels, (B, atoms, …), max-pooled if the sum is.
        cap: its largest value: 6 for ReLU6, infinite for ReLU.
        concatenated: whether it has thresholded older channels with it, which a concatenation has put beside.
    """

    segment: "Segment"
    code: Tensor
    cap: float
    concatenated: bool


@dataclass(eq=False)
class RecordedLayer:
    """A convolution or a matrix that the model has used, and what has followed it.

    Attributes:
        module: the one that used it.
        signal: x, its input, padded if PyTorch pads it in another way than by as many zeros on both sides.
        weight: as PyTorch holds it, (atoms, channels/groups, *kernel) or (atoms, features).
        options: stride, padding, dilation, groups, as far as they were given.
        depth: how many convolutions and matrices lie before it on the longest way.
        input_layer: the one whose code x is, as it stands.
        padded: how x was padded, if it was.
        reason: why it cannot be read.
        followed_by: the functions that it has gone into and that cannot be followed, in their order.
        threshold: the ReLU, once it is met.
        part_of: the layer in whose sum it is a projection of X₋₁.
        passes_input: whether the model puts x itself in front of the code: together they are that of [I D].
        name: the module's, numbered if it used several.
    """

    module: str
    signal: Tensor
    weight: Tensor
    options: dict[str, Any]
    depth: int
    input_layer: "RecordedLayer | None"
    padded: str | None = None
    reason: str | None = None
    followed_by: list[str] = field(default_factory=list)
    threshold: ThresholdedSum | None = None
    part_of: "RecordedLayer | None" = None
    passes_input: bool = False
    name: str = ""

    @property
    def atoms(self) -> int:
        return len(self.weight)

    @property
    def convolves(self) -> bool:
        """Whether it is a convolution, and no matrix."""
        return self.weight.dim() > 2

    @property
    def waits(self) -> bool:
        """Whether it has neither met a ReLU nor gone into the sum of a layer that has."""
        return self.threshold is None and self.part_of is None


class Term(NamedTuple):
    """scale·source + shift, channel by channel.

    Attributes:
        source: a layer's Dᵀx, or a tensor.
        scale: (channels,).
        shift: (channels,).
        depth: how many convolutions and matrices lie before it on the longest way.
        pool: of a layer, the average pooling of its Dᵀx if there is one.
    """

    source: RecordedLayer | Tensor
    scale: Tensor
    shift: Tensor
    depth: int
    pool: AveragePool | None = None

    @property
    def layer(self) -> RecordedLayer | None:
        return self.source if isinstance(self.source, RecordedLayer) else None


@dataclass(frozen=True, eq=False)
class Segment:
    """Σ terms + shift on consecutive channels.

    Attributes:
        terms: the summands, each with the shift that it had got before it was added.
        shift: what the sum has got added, (channels,).
        normalized: whether it is the sum that was normalized, and not its terms.
        max_pool: the max pooling that it has gone through; it may as well come after the ReLU.
    """

    terms: tuple[Term, ...]
    shift: Tensor
    normalized: bool = False
    max_pool: Callable[[Tensor], Tensor] | None = None

    @property
    def layers(self) -> list[RecordedLayer]:
        return [term.layer for term in self.terms if term.layer is not None]

    def affine(self, gain: Tensor | float, offset: Tensor | float = 0.0) -> "Segment":
        """Return gain·(the sum) + offset, channel by channel."""
        terms = tuple(term._replace(scale=term.scale * gain, shift=term.shift * gain) for term in self.terms)
        if len(terms) == 1:
            return replace(self, terms=(terms[0]._replace(shift=terms[0].shift + offset),), shift=self.shift * gain)
        normalized = self.normalized or isinstance(gain, Tensor)
        return replace(self, terms=terms, shift=self.shift * gain + offset, normalized=normalized)

    def plus(self, other: "Segment") -> "Segment":
        """Return the sum of both; what is in both is one term."""
        terms = list(self.terms)
        for term in other.terms:
            same = next((i for i, t in enumerate(terms) if t.source is term.source and t.pool == term.pool), None)
            if same is None:
                terms.append(term)
            else:
                terms[same] = term._replace(scale=terms[same].scale + term.scale, shift=terms[same].shift + term.shift)
        return Segment(tuple(terms), self.shift + other.shift, self.normalized or other.normalized)


Value = tuple[Segment, ...]
"""All channels of a tensor, segment by segment."""


def of_layer(layer: RecordedLayer, bias: Tensor | None) -> Value:
    """Return Dᵀx + bias of a layer."""
    one = layer.weight.new_ones(layer.atoms)
    shift = 0 * one if bias is None else bias.detach().clone()
    return (Segment((Term(layer, one, shift, layer.depth),), 0 * one),)


def of_tensor(tensor: Tensor, depth: int) -> Value:
    """Return a tensor that is no sum of layers, as it is now."""
    one = tensor.new_ones(tensor.shape[1])
    return (Segment((Term(tensor.detach().clone(), one, 0 * one, depth),), 0 * one),)


def affine(value: Value, gain: Tensor | float, offset: Tensor | float) -> Value:
    """Return gain·value + offset, with numbers or (channels,)."""
    sizes = [len(segment.shift) for segment in value]
    gains, offsets = (v.split(sizes) if isinstance(v, Tensor) else [v] * len(sizes) for v in (gain, offset))
    return tuple(segment.affine(g, o) for segment, g, o in zip(value, gains, offsets, strict=True))


def plus(one: Value, other: Value) -> Value | None:
    """Return the sum of two values; None where their segments do not match, or are pooled."""
    if _max_pooled(one) or _max_pooled(other):
        return None
    sizes = [[len(segment.shift) for segment in value] for value in (one, other)]
    first, second = _cut(one, sizes[1]), _cut(other, sizes[0])
    if first is None or second is None:
        return None
    return tuple(a.plus(b) for a, b in zip(first, second, strict=True))


def pooled(value: Value, pool: AveragePool) -> Value | None:
    """Return the average pooling of a layer alone; None for sums, and for what is pooled already."""
    term = value[0].terms[0]
    if _max_pooled(value) or len(value) > 1 or len(value[0].terms) > 1 or term.layer is None or term.pool is not None:
        return None
    return (replace(value[0], terms=(term._replace(pool=pool),)),)


def max_pooled(value: Value, pool: Callable[[Tensor], Tensor]) -> Value | None:
    """Return the max pooling of a value; None for what is max-pooled already."""
    return None if _max_pooled(value) else tuple(replace(segment, max_pool=pool) for segment in value)


def _max_pooled(value: Value) -> bool:
    return any(segment.max_pool is not None for segment in value)


def _cut(value: Value, sizes: Sequence[int]) -> Value | None:
    """Return a value in segments of these sizes, where it has them or is a tensor; None otherwise."""
    if [len(segment.shift) for segment in value] == list(sizes):
        return value
    if len(value) > 1:
        return value if len(sizes) == 1 else None
    if value[0].layers:
        return None
    parts = zip(*(_cut_term(term, sizes) for term in value[0].terms), strict=True)
    return tuple(Segment(terms, shift) for terms, shift in zip(parts, value[0].shift.split(sizes), strict=True))


def _cut_term(term: Term, sizes: Sequence[int]) -> list[Term]:
    """Return a tensor's term on so many channels each."""
    parts = term.source.split(sizes, 1)  # type: ignore[union-attr]  # it is no layer's
    cut = zip(parts, term.scale.split(sizes), term.shift.split(sizes), strict=True)
    return [Term(source, scale, shift, term.depth) for source, scale, shift in cut]
