"""D₁·D₂·…, the dictionary of the deepest code of several layers."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.circular import CircularDictionary
from pursuitnet.dictionaries.conv import ConvDictionary
from pursuitnet.dictionaries.inputs import check_kind, kind_of
from pursuitnet.dictionaries.linear import LinearDictionary
from pursuitnet.dictionaries.onednn import adjoint

Filters = ConvDictionary | LinearDictionary


class ComposedDictionary(Dictionary):
    """D = D₁·D₂·…, with the code of the deepest layer: x = D₁Γ₁, Γ₁ = D₂Γ₂, … is x = DΓ (Sulam et al., 2018).

    An atom of layer i + 1 is a sum of atoms of layer i. ``solve`` on it is the deepest pursuit of the multi-layer
    model, and ``learn`` learns all layers.

    Args:
        dictionaries: D₁, D₂, …, each on the codes of the one before.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> D1, D2 = pn.ConvDictionary(torch.randn(8, 1, 5, 5)), pn.ConvDictionary(torch.randn(16, 8, 3, 3))
        >>> D = pn.ComposedDictionary([D1, D2])
        >>> D.analyze(torch.rand(4, 1, 12, 12)).shape, D.effective().weight.shape
        (torch.Size([4, 16, 6, 6]), torch.Size([16, 1, 7, 7]))
    """

    def __init__(self, dictionaries: Iterable[Dictionary]) -> None:
        super().__init__()
        if isinstance(dictionaries, Dictionary | str) or not isinstance(dictionaries, Iterable):
            raise TypeError(f"dictionaries is {kind_of(dictionaries)}; expected one for each layer, as in [D1, D2]")
        layers = list(dictionaries)
        for i, D in enumerate(layers, 1):
            check_kind(f"dictionary {i}", D, Dictionary, "such as ConvDictionary(weight, padding=1)")
        if not layers:
            raise ValueError("there are no dictionaries; expected one or more")
        check_chain(layers)
        self.dictionaries = nn.ModuleList(layers)
        self.channels, self.dims, self.code_channels = layers[0].channels, layers[0].dims, layers[-1].code_channels

    @property
    def layers(self) -> tuple[Dictionary, ...]:
        """Return D₁, D₂, …."""
        return tuple(D for D in self.dictionaries if isinstance(D, Dictionary))

    def analyze(self, signal: Float[Tensor, "B channels *size"]) -> Float[Tensor, "B code_channels *code_size"]:
        for D in self.layers:
            signal = D.analyze(signal)
        return signal

    def synthesize(
        self, code: Float[Tensor, "B code_channels *code_size"], signal_shape: Sequence[int]
    ) -> Float[Tensor, "B channels *size"]:
        self.check_code(code, signal_shape)
        for D, shape in zip(reversed(self.layers), self.shapes(signal_shape)[-2::-1], strict=True):
            code = D.synthesize(code, shape)
        return code

    def code_size(self, signal_shape: Sequence[int]) -> tuple[int, ...]:
        return self.shapes(signal_shape)[-1][2:] if self.dims else ()

    def shapes(self, signal_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the shapes of x, Γ₁, Γ₂, … for the shape of x, of which only the last axes are used."""
        shapes = [(1, self.channels, *signal_shape[len(signal_shape) - self.dims :])]
        shapes[0] = tuple(signal_shape) if len(signal_shape) == self.dims + 2 else shapes[0]
        for D in self.layers:
            shapes.append((shapes[-1][0], sum(D.code_channels), *(D.code_size(shapes[-1]) if D.dims else ())))
        return shapes

    def split(self, code: Tensor) -> Code:
        return self.layers[-1].split(code)

    def join(self, parts: Code) -> Tensor:
        return self.layers[-1].join(parts)

    def analyze_parts(self, signal: Tensor) -> Code:
        *before, last = self.layers
        for D in before:
            signal = D.join(D.analyze_parts(signal))
        return last.analyze_parts(signal)

    def synthesize_parts(self, parts: Code, signal_shape: Sequence[int]) -> Tensor:
        *before, last = self.layers
        *shapes, shape = self.shapes(signal_shape)[:-1]
        code = last.synthesize_parts(parts, shape)
        for D, at in zip(reversed(before), reversed(shapes), strict=True):
            code = D.synthesize_parts(D.split(code), at)
        return code

    def check_signal(self, signal: Tensor) -> None:
        self.layers[0].check_signal(signal)
        self.shapes(signal.shape)

    def columns(
        self, chosen: Int[Tensor, " n"], signal_shape: Sequence[int] | None = None
    ) -> tuple[Int[Tensor, "n taps"], Float[Tensor, "n taps"]]:
        """Return the chosen columns in sparse form; a row index may come several times, and its values add up."""
        *before, last = self.layers
        *shapes, shape, _ = self.shapes((1, *self._example(signal_shape)))
        places, values = last.columns(chosen, shape)
        for D, at in zip(reversed(before), reversed(shapes), strict=True):
            places, values = _without_zeros(places, values)
            below, weights = D.columns(places.flatten(), at)
            values = (values.unsqueeze(2) * weights.unflatten(0, values.shape)).flatten(1)
            places = below.unflatten(0, places.shape).flatten(1)
        return places, values

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        """Return the bound of the effective dictionary, or ∏ λmax(DᵢᵀDᵢ) where there is none."""
        if self.why_not_effective():
            return torch.stack([D.lipschitz_bound() for D in self.layers]).prod()
        one = self.effective()
        del one.weight
        one.weight = self.effective_weight()  # type: ignore[assignment]  # no parameter: gradients reach the layers
        return one.lipschitz_bound()

    def effective(self) -> Filters:
        """Return the same dictionary as one layer: its atoms are those of the last layer, seen in the signal.

        Raises:
            ValueError: where there is none: if the layers are of several kinds, or a layer after the first is padded.
        """
        if reason := self.why_not_effective():
            raise ValueError(reason)
        layers, weight = _filters(self.layers), self.effective_weight().detach()
        first = layers[0]
        if isinstance(first, LinearDictionary):
            return LinearDictionary(weight)
        if len(layers) == 1:
            return first.with_weight(weight)
        if isinstance(first, CircularDictionary):
            return CircularDictionary(weight)
        strides = [D.stride for D in layers if isinstance(D, ConvDictionary)]
        stride = [int(torch.tensor(axis).prod()) for axis in zip(*strides, strict=True)]
        return ConvDictionary(weight, stride, first.padding)

    def effective_weight(self) -> Float[Tensor, "atoms channels *kernel"]:
        """Return the filters of ``effective``, through which gradients flow to those of the layers."""
        layers = _filters(self.layers)
        return composed_weight(layers, [D.weight for D in layers])

    def why_not_effective(self) -> str:
        """Return why these layers are not one layer, or nothing if they are."""
        kinds = {type(D) for D in self.layers}
        names = sorted(kind.__name__ for kind in kinds)
        if len(kinds) > 1 or not kinds <= {LinearDictionary, ConvDictionary, CircularDictionary}:
            return (
                f"the layers are of the kinds {', '.join(names)}; expected one kind of the three ConvDictionary, "
                "CircularDictionary and LinearDictionary"
            )
        for i, D in enumerate(self.layers, 1):
            if isinstance(D, ConvDictionary) and (D.groups > 1 or (i > 1 and any(D.padding))):
                given = f"{D.groups} groups" if D.groups > 1 else f"padding {D.padding}"
                return f"layer {i} has {given}; expected groups=1, and padding in the first layer only"
        return ""


def composed_weight(layers: Sequence[Filters], weights: Sequence[Tensor]) -> Tensor:
    """Return the filters of D₁·D₂·… at dilation 1 (that of the layer, if it is the only one); linear in each of them.

    Args:
        layers: unpadded after the first; their own filters are not used.
        weights: filters in place of those of the layers.
    """
    weight = weights[-1]
    for below, own, above in zip(layers[-2::-1], weights[-2::-1], layers[:0:-1], strict=True):
        if isinstance(below, LinearDictionary) or isinstance(above, LinearDictionary):
            weight = weight @ own
            continue
        spread = spread_taps(weight, above.dilation) if above is layers[-1] else weight
        none = (0,) * below.dims
        weight = adjoint(spread, own, below.stride, none, none, below.dilation)
    return weight


def check_chain(dictionaries: Sequence[Dictionary]) -> None:
    """Raise ValueError unless each dictionary takes the codes of the one before as signals."""
    for i, (above, below) in enumerate(pairwise(dictionaries), 1):
        if sum(above.code_channels) != below.channels or above.dims != below.dims:
            raise ValueError(
                f"dictionary {i} has codes of {sum(above.code_channels)} channels and {above.dims} sizes, dictionary "
                f"{i + 1} takes signals of {below.channels} channels and {below.dims} sizes; expected the same"
            )


def _filters(layers: Sequence[Dictionary]) -> list[Filters]:
    return [D for D in layers if isinstance(D, ConvDictionary | LinearDictionary)]


def spread_taps(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return filters (atoms, channels, *kernel) with zeros between their taps, at dilation 1."""
    for axis, d in enumerate(dilation, 2):
        if d > 1:
            ends = [0, 0] * (weight.dim() - axis - 1) + [0, d - 1]
            taps = F.pad(weight.unsqueeze(axis + 1), ends).flatten(axis, axis + 1)
            weight = taps.narrow(axis, 0, taps.shape[axis] - d + 1)
    return weight


def _without_zeros(places: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return sparse columns with as few taps as the fullest of them needs."""
    most = max(1, int((values != 0).sum(1).amax())) if len(values) else 1
    order = values.detach().abs().topk(most, dim=1).indices
    return places.gather(1, order), values.gather(1, order)
