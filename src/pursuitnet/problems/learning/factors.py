"""What is learned: the filters of a dictionary themselves, or the layers whose product they are."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import ComposedDictionary, ConvDictionary, Dictionary, WithIdentity
from pursuitnet.dictionaries.composed import composed_weight, spread_taps
from pursuitnet.problems.inputs import check_dictionary
from pursuitnet.problems.learning.atoms import Unexplained, accelerated_projections, improved, reseeded
from pursuitnet.problems.learning.filters import Filters, filters_of, in_unit_ball, norms_of, with_weight
from pursuitnet.problems.learning.statistics import Quadratic, SufficientStatistics, with_taps

Map = Callable[[Tensor], Tensor]


class Factors:
    """The filters of one layer, with ‖dⱼ‖ ≤ 1.

    Attributes:
        result: the dictionary that is learned; it is changed in place.
        dictionary: the one that images are coded with, here the same.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        filters = filters_of(dictionary)
        own = with_weight(filters, in_unit_ball(filters.weight.detach().clone()))
        whole = WithIdentity(own) if isinstance(dictionary, WithIdentity) else own
        self.result: Dictionary = whole.requires_grad_(False)
        self.dictionary: Dictionary = self.result

    @property
    def weight(self) -> Tensor:
        """Return a copy of what is learned, in one tensor."""
        return filters_of(self.dictionary).weight.clone()

    def assign(self, weight: Tensor) -> None:
        """Set what is learned."""
        filters_of(self.dictionary).weight.copy_(weight)

    def projected(self, weight: Tensor) -> Tensor:
        """Return the nearest weight that meets the constraints."""
        return in_unit_ball(weight)

    def improved(self, sums: SufficientStatistics, steps: int) -> Tensor:
        """Return a weight that is better for the codes, after at most so many steps."""
        return improved(self.weight, sums, steps)

    def reseeded(self, dead: Tensor, worst: Unexplained) -> tuple[Tensor, Tensor]:
        """Return a weight with dead atoms replaced, and the indices of these atoms."""
        return reseeded(self.weight, dead, worst)


class LayeredFactors(Factors):
    """The filters of several layers, whose product codes the images; what is learned is all of them in one vector.

    For fixed codes the data fit is a quadratic in the effective filters, which are linear in the filters of each layer:
    the layers are improved in turn, each on its own quadratic (block coordinate descent, as in Bolte, Sabach and
    Teboulle, 2014).

    Args:
        composed: the initial layers.
        nonzeros: of each layer, the most non-zeros of an atom; None for no limit.
    """

    def __init__(self, composed: ComposedDictionary, nonzeros: Sequence[int | None]) -> None:
        if reason := composed.why_not_effective():
            raise ValueError(reason)
        self.nonzeros = nonzeros
        initial = [filters_of(D) for D in composed.layers]
        weights = [self._project(i, D.weight.detach().clone()) for i, D in enumerate(initial)]
        self.layers: list[Filters] = [with_weight(D, w) for D, w in zip(initial, weights, strict=True)]
        whole = ComposedDictionary(self.layers).requires_grad_(False)
        self.result, self.dictionary = whole, whole.effective().requires_grad_(False)

    @property
    def weight(self) -> Tensor:
        return _joined([D.weight for D in self.layers])

    def assign(self, weight: Tensor) -> None:
        for D, own in zip(self.layers, self._split(weight), strict=True):
            D.weight.copy_(own)
        filters_of(self.dictionary).weight.copy_(composed_weight(self.layers, [D.weight for D in self.layers]))

    def projected(self, weight: Tensor) -> Tensor:
        return _joined([self._project(i, own) for i, own in enumerate(self._split(weight))])

    def improved(self, sums: SufficientStatistics, steps: int) -> Tensor:
        weights, quadratic = [D.weight.clone() for D in self.layers], Quadratic(sums)
        for i in reversed(range(len(weights))):
            own, energies = LayerQuadratic(quadratic, self.layers, weights, i), self._energies(sums, quadratic, i)
            weights[i] = accelerated_projections(weights[i], own, energies, partial(self._project, i), steps)
        return _joined(weights)

    def reseeded(self, dead: Tensor, worst: Unexplained) -> tuple[Tensor, Tensor]:
        """Return a weight with dead atoms of the last layer replaced, and their indices.

        A new atom is what the layers before it correlate with a badly explained patch.
        """
        atoms = dead.nonzero()[:, 0]
        if worst.patches is None:
            return self.weight, atoms[:0]
        atoms, weights = atoms[: len(worst.patches)], [D.weight.clone() for D in self.layers]
        own = weights[-1][: len(atoms)]
        correlate = _linear(lambda w: composed_weight(self.layers, [*weights[:-1], w]), own)[1]
        new = self._project(len(weights) - 1, correlate(worst.patches[: len(atoms)]))
        weights[-1][atoms] = new / norms_of(new).clamp(min=torch.finfo(new.dtype).tiny)
        return _joined(weights), atoms

    def _project(self, layer: int, weight: Tensor) -> Tensor:
        """Return the nearest filters with at most so many non-zeros and ‖dⱼ‖ ≤ 1."""
        most = self.nonzeros[layer]
        if most is not None and most < weight[0].numel():
            kept = weight.flatten(1).abs().topk(most, dim=1).indices
            mask = torch.zeros_like(weight.flatten(1)).scatter(1, kept, 1.0).view_as(weight)
            weight = weight * mask
        return in_unit_ball(weight)

    def _energies(self, sums: SufficientStatistics, quadratic: Quadratic, layer: int) -> Tensor:
        """Return ‖Γᵢⱼ‖² of the code of a layer, which the layers after it make of the deepest code."""
        if layer == len(self.layers) - 1:
            return sums.energies
        after = self.layers[layer + 1 :]
        weight = with_taps(composed_weight(after, [D.weight for D in after]))
        gaps = [D.stride for D in self.layers[: layer + 1] if isinstance(D, ConvDictionary)]
        gaps += [D.dilation for D in after if isinstance(D, ConvDictionary) and len(after) == 1]
        for gap in gaps:
            weight = spread_taps(weight, gap)
        others = [axis for axis in range(weight.dim()) if axis != 1]
        return (weight * quadratic.times(weight)).sum(others).clamp(min=0)

    def _split(self, weight: Tensor) -> list[Tensor]:
        parts = weight.split([D.weight.numel() for D in self.layers])
        return [part.view_as(D.weight) for part, D in zip(parts, self.layers, strict=True)]


class LayerQuadratic:
    """The quadratic of one layer's filters, the others fixed: that of the effective filters, which they make linearly.

    Args:
        quadratic: that of the effective filters.
        layers: D₁, D₂, ….
        weights: their filters.
        layer: the index of the layer.
    """

    def __init__(self, quadratic: Quadratic, layers: Sequence[Filters], weights: Sequence[Tensor], layer: int) -> None:
        def compose(weight: Tensor) -> Tensor:
            return composed_weight(layers, [*weights[:layer], weight, *weights[layer + 1 :]])

        self.compose, self.adjoint = _linear(compose, weights[layer])
        self.quadratic, self.cross = quadratic, self.adjoint(quadratic.cross)
        self.start = self.cross

    def times(self, weight: Tensor) -> Tensor:
        """Return HW of the layer."""
        return self.adjoint(self.quadratic.times(self.compose(weight)))


def _linear(function: Map, at: Tensor) -> tuple[Map, Map]:
    """Return a linear function, to filters with at least one kernel axis, and its adjoint."""

    def image(weight: Tensor) -> Tensor:
        return with_taps(function(weight))

    pullback = torch.func.vjp(image, at)[1]
    return image, lambda cotangent: pullback(cotangent)[0]


def _joined(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights])


def factors_of(dictionary: Any, atom_nonzeros: int | Sequence[int | None] | None = None) -> Factors:
    """Return what is to be learned of a dictionary.

    Args:
        dictionary: as ``learn`` takes it.
        atom_nonzeros: as there.

    Raises:
        TypeError: for a kind of dictionary that cannot be learned.
        ValueError: for layers that cannot be learned together, and for numbers that do not match.
    """
    dictionary = ComposedDictionary(dictionary) if isinstance(dictionary, list | tuple) else dictionary
    check_dictionary(dictionary)
    if not isinstance(dictionary, ComposedDictionary):
        if atom_nonzeros is not None:
            raise ValueError(
                f"atom_nonzeros is {atom_nonzeros!r}, which is for the layers after the first; expected several "
                "dictionaries, as in [D1, D2]"
            )
        return Factors(dictionary)
    after = len(dictionary.layers) - 1
    given = [atom_nonzeros] * after if atom_nonzeros is None or isinstance(atom_nonzeros, int) else list(atom_nonzeros)
    if len(given) != after or any(n is not None and (type(n) is not int or n < 1) for n in given):
        raise ValueError(
            f"atom_nonzeros is {atom_nonzeros!r}; expected an integer ≥ 1, or one for each of the {after} layers after "
            "the first"
        )
    return LayeredFactors(dictionary, [None, *given])
