"""The filters of a dictionary, which are learned, and dictionaries derived from them for learning."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries import CircularDictionary, Code, ConvDictionary, Dictionary, LinearDictionary, WithIdentity
from pursuitnet.dictionaries.inputs import kind_of

Filters = ConvDictionary | LinearDictionary
_LEARNABLE = (ConvDictionary, CircularDictionary, LinearDictionary)


def filters_of(dictionary: Dictionary) -> Filters:
    """Return the part of a dictionary that has filters to learn: D, also of [I D].

    Raises:
        TypeError: for a kind of dictionary that cannot be learned.
        ValueError: for filters in groups.
    """
    inner = dictionary.dictionary if isinstance(dictionary, WithIdentity) else dictionary
    if isinstance(inner, ConvDictionary) and inner.groups > 1:
        raise ValueError(
            f"the dictionary has {inner.groups} groups, which are not learned together; expected groups=1: learn a "
            "dictionary for the channels of each group"
        )
    if isinstance(inner, ConvDictionary | LinearDictionary) and type(inner) in _LEARNABLE:
        return inner
    raise TypeError(
        f"the dictionary is {kind_of(inner)}, which cannot be learned; expected a ConvDictionary, a "
        "CircularDictionary, a LinearDictionary, or [I D] of one of them"
    )


def with_weight(filters: Filters, weight: Tensor) -> Filters:
    """Return a dictionary of the same kind with other filters, (atoms, channels, *kernel)."""
    return filters.with_weight(weight) if isinstance(filters, ConvDictionary) else LinearDictionary(weight)


def norms_of(weight: Tensor) -> Tensor:
    """Return ‖dⱼ‖ of whole filters, in a shape that broadcasts against them."""
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))


def in_unit_ball(weight: Tensor) -> Tensor:
    """Return the projection of filters onto ‖dⱼ‖ ≤ 1."""
    return weight / norms_of(weight).clamp(min=1)


class Masked(Dictionary):
    """M·D: the atoms of D, zero where the signal is not known.

    Args:
        dictionary: D.
        mask: which entries are known, in the shape of the signal, (B or 1, channels, …).
    """

    def __init__(self, dictionary: Filters, mask: Bool[Tensor, "B channels *size"]) -> None:
        super().__init__()
        self.dictionary = dictionary
        self.register_buffer("mask", mask.to(dictionary.weight.dtype))
        self.channels, self.code_channels, self.dims = dictionary.channels, dictionary.code_channels, dictionary.dims

    mask: Tensor

    def analyze(self, signal: Tensor) -> Tensor:
        return self.dictionary.analyze(signal * self.mask)

    def synthesize(self, code: Tensor, signal_shape: Sequence[int] | None = None) -> Tensor:
        shape = (len(code), *self.mask.shape[1:]) if signal_shape is None else signal_shape
        return self.dictionary.synthesize(code, shape) * self.mask

    def analyze_parts(self, signal: Tensor) -> Code:
        return self.dictionary.analyze_parts(signal * self.mask)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        return self.dictionary.synthesize_parts(parts, signal_shape) * self.mask

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        return self.dictionary.code_size(signal_shape)

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        """Return the chosen columns of the first example's matrix: for use where all examples have one mask."""
        places, values = self.dictionary.columns(chosen, signal_shape)
        return places, values * self.mask[0].flatten()[places]

    def lipschitz_bound(self) -> Tensor:
        return self.dictionary.lipschitz_bound()


def masked_dictionary(dictionary: Dictionary, mask: Tensor | None) -> Dictionary:
    """Return D, or M·D with a mask; of [I D] only D is masked, since the identity part is zero where x is unknown."""
    if mask is None:
        return dictionary
    masked = Masked(filters_of(dictionary), mask)
    return WithIdentity(masked) if isinstance(dictionary, WithIdentity) else masked


def unpadded(filters: Filters) -> tuple[Filters, list[int]]:
    """Return D without zero padding, for signals that are padded before, and the padding as ``F.pad`` takes it."""
    if not isinstance(filters, ConvDictionary) or not any(filters.padding):
        return filters, []
    sides = [p for p in reversed(filters.padding) for _ in range(2)]
    return ConvDictionary(filters.weight, filters.stride, 0, filters.dilation), sides


def completed(filters: Filters, sides: list[int], signal: Tensor, mask: Tensor | None, code: Tensor) -> Tensor:
    """Return the signal, padded as far as the atoms reach, with DΓ where it is not known.

    Then ½‖x̃ − DΓ‖² majorizes the data fit, with equality at the current filters, and depends on the filters only
    through correlations of the code.

    Args:
        filters: D without padding.
        sides: the padding, as ``F.pad`` takes it.
        signal: x, (B, channels, …).
        mask: where it is known, or None for everywhere.
        code: Γ.
    """
    if mask is None and not sides:
        return signal
    known = torch.ones_like(signal, dtype=torch.bool) if mask is None else mask.expand_as(signal)
    signal, known = F.pad(signal, sides), F.pad(known, sides)
    return torch.where(known, signal, filters.synthesize(code, signal.shape))


@torch.no_grad()
def patches(
    filters: Filters, signal: Tensor, chosen: Int[Tensor, " n"], example: Int[Tensor, " n"]
) -> Float[Tensor, "n channels *kernel"]:
    """Return the patches of a signal under an atom at given positions of the code, with zeros outside of the signal.

    Args:
        filters: D.
        signal: (B, channels, …).
        chosen: positions in the code, in the order of ``flatten``.
        example: index of the signal of each patch.
    """
    one = filters.weight[:1]
    places, inside = with_weight(filters, torch.ones_like(one)).columns(chosen, signal.shape)
    values = signal.flatten(1)[example[:, None], places] * inside
    return values.view(-1, *one.shape[1:])


@torch.no_grad()
def patch_energies(filters: Filters, signal: Tensor) -> Float[Tensor, "B places"]:
    """Return ‖·‖² of the patch under an atom at each position of the code, (B, places)."""
    ones = with_weight(filters, torch.ones_like(filters.weight[:1]))
    return ones.analyze(signal.square()).flatten(1).clamp(min=0)


def places_of(filters: Filters, shape: Sequence[int]) -> int:
    """Return the number of positions of an atom in a signal of shape (B, channels, …)."""
    return math.prod(filters.code_size(shape))
