"""A layer read as one step on a Lasso: its dictionary, its β, its step size, and the units of its code."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import ConvDictionary, Dictionary, LinearDictionary
from pursuitnet.layer import PursuitLayer
from pursuitnet.program.trace import LayerTrace, trace_layers
from pursuitnet.program.whitebox.problem import LayerElasticNet, LayerLasso
from pursuitnet.program.whitebox.traced import Convolutions, TracedModel
from pursuitnet.prox.step_size import AbsorbedStep
from pursuitnet.prox.threshold import Affine

OUTSIDE = "outside of the pursuits"


class UnreadableError(ValueError):
    """A layer that is not a thresholding step on any Lasso; the message says why."""


@dataclass(frozen=True)
class InterpretedLayer(LayerTrace):
    """One layer of a network, read as a step on a Lasso.

    In evaluation the last step of a layer is Γ = P_θ( a·z + b ) with z = anchor − c·Dᵀ(D·probe − x), where a and b are
    batch normalization (1 and 0 without it). For a channel with a > 0 that is a·P_τ(z) with τ = (θ − b)/a, so that

        Γ/a = P_τ(z) is one proximal step on min ½‖x − DΓ‖² + Σβ|Γ| with β = τ/c, from the probe.

    This is the Lasso of the layer, on which the code Γ/a is measured. If τ < 0 there is no β ≥ 0, and 0 is used.

    If the filters 𝔇 absorb the step size (the residual family, and plain PyTorch layers), a goes into the atoms, and
    Eq. 3 fixes the rest: 𝔇·diag(a) = D/L with L = λmax(DᵀD), so D = 𝔇·diag(a)/λmax, c = 1/L and β = L·(θ − b). Then
    Γ itself is the code.

    Attributes:
        name: of the module in the model.
        problem: the Lasso, at the layer's own input.
        step: c of the layer.
        raw_beta: β before negative values were set to 0, (code_channels,).
        scale: 1/a, (code_channels,), the factor from the layer's output to the measured code.
        proximal: whether the last step is a proximal step on that Lasso.
        notes: where the layer departs from this reading.
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
        return self.codes[-1] * _broadcast(self.scale, self.codes[-1])

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ/a for an output of the layer."""
        return self.dictionary.synthesize(code * _broadcast(self.scale, code), signal_shape)


@dataclass(frozen=True)
class Terms:
    """D, an upper bound of its L, β before clipping (code_channels,), c and 1/a (code_channels,) of a layer."""

    dictionary: Dictionary
    lipschitz: float
    beta: Tensor
    step: float
    scale: Tensor


def trace_pursuit_layers(model: nn.Module, images: Tensor) -> TracedModel:
    """Return the pursuit layers of a network, in the order of the forward pass, and the linear modules outside them.

    Raises:
        ValueError: if a layer is used more than once.
    """
    names = {module: name or "layer" for name, module in model.named_modules()}
    traces = trace_layers(model, images)
    for trace in traces:
        if sum(other.layer is trace.layer for other in traces) > 1:
            raise ValueError(
                f"the layer {names[trace.layer]} is used more than once; expected layers that are used once"
            )
    others = [module for module in names if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)]
    unread = [(names[module], f"a {type(module).__name__} {OUTSIDE}") for module in others]
    read = sum(trace.convolves for trace in traces)
    missed = sum(isinstance(module, nn.modules.conv._ConvNd) for module in others)
    return TracedModel([(names[trace.layer], trace) for trace in traces], unread, [], Convolutions(read, read + missed))


@torch.no_grad()
def interpret(trace: LayerTrace, name: str, lipschitz: float | None = None) -> InterpretedLayer:
    """Return one layer, read as a step on a Lasso.

    Args:
        trace: of the layer.
        name: of the module in the model.
        lipschitz: of its problem, if it has been read before.

    Raises:
        UnreadableError: if it has no positive step size, or normalization flips the sign of its channels.
    """
    layer, x, step = trace.layer, trace.signals[-1], len(trace.codes) - 1
    c, weight = (float(w) for w in layer.step())
    affine = layer.threshold.eval_affine(c, step)
    absorbed = isinstance(layer.step, AbsorbedStep) and isinstance(layer.dictionary, ConvDictionary | LinearDictionary)
    terms = _absorbed(layer, affine[-1], lipschitz) if absorbed else _explicit(layer, affine, c, lipschitz)
    D, signed = terms.dictionary, any(part.theta is None for part in affine[:-1])
    D.check_signal(x)
    beta = D.split(terms.beta.clamp(min=0).view(1, -1, *[1] * D.dims))
    bounded_step = x.new_tensor(min(terms.step, 1 / terms.lipschitz))
    parts, ridge = (x, D, beta, layer.threshold.nonnegative, bounded_step), layer.threshold.ridge
    problem = (
        LayerElasticNet(*parts, ridge, terms.lipschitz, trivial=signed)
        if ridge and not absorbed
        else LayerLasso(*parts, terms.lipschitz, trivial=signed)
    )
    departures = [*_departures(layer, affine, absorbed, step, weight == 1), *trace.missed]
    notes = [*departures, *trace.remarks, *_remarks(terms, problem, affine)]
    return InterpretedLayer(
        layer, trace.signals, trace.codes, trace.input_layer, name, problem.with_slack(),
        terms.step, terms.beta, terms.scale, not departures, tuple(notes),
        missed=trace.missed, remarks=trace.remarks, concatenated=trace.concatenated,
    )  # fmt: skip


def _explicit(layer: PursuitLayer, affine: Sequence[Affine], c: float, lipschitz: float | None) -> Terms:
    """Return D itself, β = (θ − b)/(a·c) and 1/a."""
    if not c > 0:
        raise UnreadableError(f"its step size is {c:.3g}; a proximal step needs one above 0")
    scale = torch.cat([part.scale for part in affine])
    if not bool((scale > 0).all()):
        raise UnreadableError(
            "its batch normalization has a scale ≤ 0, but a proximal step keeps the sign of its channels"
        )
    shifted = layer.threshold.nonnegative
    thresholds = [torch.zeros_like(p.scale) if p.theta is None else p.theta - p.shift * shifted for p in affine]
    largest = lipschitz or _bound(layer.dictionary)
    return Terms(layer.dictionary, largest, torch.cat(thresholds) / scale / c, c, 1 / scale)


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
    """Return a copy of a convolution or a matrix with its atoms multiplied by factors (atoms,)."""
    if isinstance(dictionary, LinearDictionary):
        return LinearDictionary(dictionary.weight.detach() * factors[:, None])
    if not isinstance(dictionary, ConvDictionary):
        raise UnreadableError(f"its dictionary is a {type(dictionary).__name__}; expected a convolution or a matrix")
    return dictionary.with_weight(dictionary.weight.detach() * factors.view(-1, *[1] * (dictionary.dims + 1)))


def _departures(layer: PursuitLayer, affine: Sequence[Affine], absorbed: bool, step: int, one_step: bool) -> list[str]:
    """Return why the last step is not a proximal step on the Lasso; an empty list if it is one."""
    start, from_zero = layer.start, step == 0 and not layer.start.needs_previous
    reasons = []
    if step == 0 and start.needs_previous and not (start.anchored and start.probed and not absorbed):
        reasons.append(f"it starts at X₋₁ ({start.name}), which is not a proximal step on this Lasso")
    if step > 0 and absorbed:
        reasons.append("its further steps have step size 1 instead of the 1/L absorbed in the filters")
    on_update = layer.threshold.norm is not None and layer.threshold.norm.on == "update"
    if not from_zero and not absorbed and (on_update or not one_step):
        reasons.append("its update is rescaled against its anchor, which is not a proximal step on this Lasso")
    if layer.threshold.ridge and absorbed:
        reasons.append(f"its penalty has a ridge of {layer.threshold.ridge:g}, which this Lasso does not have")
    centered = any(bool(part.shift.any()) for part in affine)
    if centered and not layer.threshold.nonnegative:
        reasons.append(
            "it is centered before a two-sided threshold, which corresponds to no penalty; β ignores the shift"
        )
    return reasons


def _remarks(terms: Terms, problem: LayerLasso, affine: Sequence[Affine]) -> list[str]:
    """Return remarks that do not affect the reading."""
    own = terms.beta[-terms.dictionary.code_channels[-1] :]
    remarks, negative = [], int((own < 0).sum())
    if negative:
        remarks.append(
            f"{negative} of {len(own)} atoms have a threshold below 0, for which there is no β ≥ 0; 0 is used"
        )
    if len(affine) > 1 and bool((terms.beta[: -len(own)] < 0).any()):
        remarks.append("channels of the identity part have a threshold below 0; 0 is used")
    if problem.curvature():
        remarks.append(f"½·{problem.curvature():g}·‖Γ‖² is part of its problem, which makes it the elastic net")
    if problem.trivial:
        remarks.append("the identity part has no threshold, so that Γ = (x, 0) solves the Lasso at no cost")
    if terms.step * terms.lipschitz > 1 + 1e-4:
        remarks.append("its step size is above 1/L, so a step may increase the objective")
    return remarks


def _broadcast(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 2))
