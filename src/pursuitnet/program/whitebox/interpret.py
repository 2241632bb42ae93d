"""A layer read as one step on a Lasso: which dictionary, which β, which step, and in which units the code comes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import CircularDictionary, ConvDictionary, Dictionary, LinearDictionary
from pursuitnet.layer import PursuitLayer
from pursuitnet.program.trace import LayerTrace, trace_layers
from pursuitnet.program.whitebox.problem import LayerLasso
from pursuitnet.prox.step_size import AbsorbedStep
from pursuitnet.prox.threshold import Affine

OUTSIDE = "outside of the pursuits"


class UnreadableError(ValueError):
    """A layer that is no thresholding step on any Lasso; the message says why."""


@dataclass(frozen=True)
class InterpretedLayer(LayerTrace):
    """One layer of a network and the Lasso that it is read as.

    In evaluation the last step of a layer is Γ = P_θ( a·z + b ) with z = anchor − c·Dᵀ(D·probe − x), where a and b are
    batch normalization (1 and 0 without it). For a channel with a > 0 that is a·P_τ(z) with τ = (θ − b)/a, so that

        Γ/a = P_τ(z) is one proximal step on min ½‖x − DΓ‖² + Σβ|Γ| with β = τ/c, begun at the probe.

    That Lasso is the layer's, and Γ/a is the code that is measured on it. Where τ < 0 there is no β ≥ 0; 0 is taken.

    Where the filters 𝔇 hold the step (the residual family, and plain PyTorch layers) a goes into the atoms, and
    Eq. 3 fixes the rest: 𝔇·diag(a) = D/L with L = λmax(DᵀD), so D = 𝔇·diag(a)/λmax, c = 1/L and β = L·(θ − b). Then
    Γ itself is the code.

    Attributes:
        name: where the layer is in the model.
        problem: the Lasso, at the layer's own input.
        step: c of the layer.
        raw_beta: β before negative ones were set to 0, (code_channels,).
        scale: 1/a, (code_channels,), from the code that is handed on to the one that is measured.
        proximal: whether the last step is a proximal step on that Lasso.
        notes: what does not fit the reading, in words.
    """

    name: str
    problem: LayerLasso
    step: float
    raw_beta: Tensor
    scale: Tensor
    proximal: bool
    notes: tuple[str, ...]

    @property
    def dictionary(self) -> Dictionary:
        return self.problem.dictionary

    @property
    def signal(self) -> Tensor:
        """The layer's input in its last step, (B, channels, …)."""
        return self.problem.signal

    @property
    def code(self) -> Tensor:
        """Γ/a, the code in the units of the Lasso, (B, code_channels, …)."""
        return self.codes[-1] * _column(self.scale, self.codes[-1])

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ/a for a code as the layer hands it on."""
        return self.dictionary.synthesize(code * _column(self.scale, code), signal_shape)


@dataclass(frozen=True)
class Terms:
    """D, an upper bound of its L, β before clipping (code_channels,), c and 1/a (code_channels,) of a reading."""

    dictionary: Dictionary
    lipschitz: float
    beta: Tensor
    step: float
    scale: Tensor


def trace_pursuit_layers(
    model: nn.Module, images: Tensor
) -> tuple[list[tuple[str, LayerTrace]], list[tuple[str, str]]]:
    """Return the pursuit layers of a network, named, in the order in which the image meets them, and what is none.

    Raises:
        ValueError: if a layer is used more than once.
    """
    names = {module: name or "layer" for name, module in model.named_modules()}
    traces = trace_layers(model, images)
    for at in traces:
        if sum(other.layer is at.layer for other in traces) > 1:
            raise ValueError(f"the layer {names[at.layer]} is used more than once; expected layers that are used once")
    others = [
        (name, f"a {type(module).__name__} {OUTSIDE}")
        for module, name in names.items()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    return [(names[at.layer], at) for at in traces], others


@torch.no_grad()
def read(at: LayerTrace, name: str, lipschitz: float | None = None) -> InterpretedLayer:
    """Return the reading of one layer.

    Args:
        at: what it did with the images.
        name: where it is in the model.
        lipschitz: that of its problem, if it has been read before.

    Raises:
        UnreadableError: if it has no positive step, or a normalization turns the sign of its channels.
    """
    layer, x, step = at.layer, at.signals[-1], len(at.codes) - 1
    c, weight = (float(w) for w in layer.step())
    affine = layer.threshold.eval_affine(c, step)
    absorbed = isinstance(layer.step, AbsorbedStep) and isinstance(layer.dictionary, ConvDictionary | LinearDictionary)
    terms = _absorbed(layer, affine[-1], lipschitz) if absorbed else _explicit(layer, affine, c, lipschitz)
    D, signed = terms.dictionary, any(part.theta is None for part in affine[:-1])
    D.check_signal(x)
    beta = D.split(terms.beta.clamp(min=0).view(1, -1, *[1] * D.dims))
    at_most = x.new_tensor(min(terms.step, 1 / terms.lipschitz))
    problem = LayerLasso(x, D, beta, layer.threshold.nonnegative, at_most, terms.lipschitz, trivial=signed)
    missed = _missed(layer, affine, absorbed, step, weight == 1)
    notes = [*missed, *_remarks(terms, problem, affine)]
    return InterpretedLayer(
        layer, at.signals, at.codes, at.input_layer, name, problem.with_slack(), terms.step, terms.beta, terms.scale,
        not missed, tuple(notes),
    )  # fmt: skip


def _explicit(layer: PursuitLayer, affine: Sequence[Affine], c: float, lipschitz: float | None) -> Terms:
    """Return D as it stands, β = (θ − b)/(a·c) and 1/a."""
    if not c > 0:
        raise UnreadableError(f"its step is {c:.3g}; a proximal step needs one above 0")
    scale = torch.cat([part.scale for part in affine])
    if not bool((scale > 0).all()):
        raise UnreadableError(
            "its batch normalization has a scale ≤ 0, and a proximal step keeps the sign of its channels"
        )
    shifted = layer.threshold.nonnegative
    cut = [torch.zeros_like(p.scale) if p.theta is None else p.theta - p.shift * shifted for p in affine]
    largest = lipschitz or _bound(layer.dictionary)
    return Terms(layer.dictionary, largest, torch.cat(cut) / scale / c, c, 1 / scale)


def _absorbed(layer: PursuitLayer, part: Affine, lipschitz: float | None) -> Terms:
    """Return D = 𝔇·diag(a)/λmax and β = L·(θ − b) with L = 1/λmax."""
    scaled = with_channels_scaled(layer.dictionary, part.scale)
    largest = 1 / lipschitz if lipschitz else _bound(scaled)
    theta = torch.zeros_like(part.scale) if part.theta is None else part.theta
    beta = (theta - part.shift * layer.threshold.nonnegative) / largest
    D = with_channels_scaled(scaled, torch.full_like(part.scale, 1 / largest))
    return Terms(D, 1 / largest, beta, largest, torch.ones_like(beta))


def _bound(dictionary: Dictionary) -> float:
    bound = float(dictionary.lipschitz_bound())
    if not bound > 0:
        raise UnreadableError("all its filters are zero")
    return bound


def with_channels_scaled(dictionary: Dictionary, factors: Tensor) -> Dictionary:
    """Return a convolution or a matrix with its atoms multiplied by factors (atoms,), as a dictionary of its own."""
    if isinstance(dictionary, LinearDictionary):
        return LinearDictionary(dictionary.weight.detach() * factors[:, None])
    if not isinstance(dictionary, ConvDictionary):
        raise UnreadableError(f"its dictionary is a {type(dictionary).__name__}; expected a convolution or a matrix")
    weight = dictionary.weight.detach() * factors.view(-1, *[1] * (dictionary.dims + 1))
    if isinstance(dictionary, CircularDictionary):
        return CircularDictionary(weight, dictionary.dilation, dictionary.groups)
    return ConvDictionary(weight, dictionary.stride, dictionary.padding, dictionary.dilation, dictionary.groups)


def _missed(layer: PursuitLayer, affine: Sequence[Affine], absorbed: bool, step: int, one_step: bool) -> list[str]:
    """Return why the last step is no proximal step on the Lasso; nothing if it is one."""
    start, from_zero = layer.start, step == 0 and not layer.start.needs_previous
    found = []
    if step == 0 and start.needs_previous and not (start.anchored and start.probed and not absorbed):
        found.append(f"it begins at X₋₁ ({start.name}), which is not a proximal step on this Lasso")
    if step > 0 and absorbed:
        found.append("its further steps have a step of 1, and not the 1/L that the filters hold")
    on_update = layer.threshold.norm is not None and layer.threshold.norm.on == "update"
    if not from_zero and not absorbed and (on_update or not one_step):
        found.append("its update is rescaled against its anchor, which is not a proximal step on this Lasso")
    centered = any(bool(part.shift.any()) for part in affine)
    if centered and not layer.threshold.nonnegative:
        found.append("it is centered before it is cut on two sides, which no penalty does; β leaves the shift out")
    return found


def _remarks(terms: Terms, problem: LayerLasso, affine: Sequence[Affine]) -> list[str]:
    """Return what is right but had better be known."""
    own = terms.beta[-terms.dictionary.code_channels[-1] :]
    found, negative = [], int((own < 0).sum())
    if negative:
        found.append(f"{negative} of {len(own)} atoms have a threshold below 0, where there is no β ≥ 0; 0 is taken")
    if len(affine) > 1 and bool((terms.beta[: -len(own)] < 0).any()):
        found.append("channels of the identity part have a threshold below 0; 0 is taken")
    if problem.trivial:
        found.append("the identity part has no threshold, so that Γ = (x, 0) solves the Lasso at no cost")
    if terms.step * terms.lipschitz > 1 + 1e-4:
        found.append("its step is longer than 1/L, so a step may go uphill")
    return found


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 2))
