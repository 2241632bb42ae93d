"""A plain PyTorch model read as the library's own layers: plain, residual and densely connected convolutions."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet import starts
from pursuitnet.dictionaries import ConvDictionary, Dictionary, LinearDictionary, WithIdentity
from pursuitnet.layer import PursuitLayer
from pursuitnet.program.trace import LayerTrace
from pursuitnet.program.whitebox.recorder import LayerRecorder
from pursuitnet.program.whitebox.sums import AveragePool, RecordedLayer, Term, ThresholdedSum
from pursuitnet.program.whitebox.traced import Convolutions, Projection, TracedModel
from pursuitnet.prox.step_size import AbsorbedStep
from pursuitnet.prox.threshold import IdentityPenalty, Threshold

TOLERANCE = 1e-5
"""How far a layer that is read may be from what the model has computed, in units of its largest value."""
ACTIVATIONS = (
    *("gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "mish", "elu", "selu", "celu"),
    *("leaky_relu", "prelu", "rrelu", "softplus", "softmax", "log_softmax", "softsign", "logsigmoid", "threshold"),
)
OWN_STATISTICS = ("group_norm", "layer_norm", "instance_norm", "rms_norm", "local_response_norm")
SPREAD: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def trace_torch_layers(model: nn.Module, *inputs: Tensor) -> TracedModel:
    """Return the layers of a plain model, named and as the library's own, and those that cannot be read, with reasons.

    A layer is a convolution or a matrix, whatever affine batch normalization in evaluation follows, and a ReLU:
    Γ = ReLU( a·(Dᵀx) + b ) channel by channel, which is P_θ( D̃ᵀx ) with the atoms D̃ = D·diag(a) and the threshold
    θ = −b. What is added before the ReLU, X₋₁ as it stands or by a projection (a convolution of its own), is the anchor
    of the start ``resnet``. Each is recomputed, and read only if that is what the model has computed.
    """
    with torch.no_grad(), LayerRecorder(model, *inputs) as recorder:
        model(*inputs)
    for layer, name in zip(recorder.layers, _distinct([f.module for f in recorder.layers]), strict=True):
        layer.name = name
    read: dict[RecordedLayer, LayerTrace] = {}
    for layer in recorder.layers:
        trace = _trace(layer, read)
        if trace is not None:
            read[layer] = trace
    parts = [f for f in recorder.layers if f.part_of in read]
    unread = [f for f in recorder.layers if f not in read and f not in parts]
    convolutions = [f for f in recorder.layers if f.convolves]
    return TracedModel(
        [(layer.name, trace) for layer, trace in read.items()],
        [(layer.name, _reason(layer)) for layer in unread] + _unused(model, recorder),
        [Projection(f.name, f.part_of.name, f.convolves) for f in parts if f.part_of is not None],
        Convolutions(sum(f not in unread for f in convolutions), len(convolutions)),
    )


@torch.no_grad()
def _trace(candidate: RecordedLayer, before: dict[RecordedLayer, LayerTrace]) -> LayerTrace | None:
    """Return a layer as the library's own, or None and leave the reason."""
    end = candidate.threshold
    if candidate.reason is not None or end is None:
        return None
    term, anchor = _split_sum(candidate, end)
    if candidate.reason is not None:
        return None
    layer = _layer(candidate, term, end, anchored=anchor is not None)
    recomputed = layer(candidate.signal, previous=anchor)
    recomputed[:, -candidate.atoms :].clamp_(max=end.cap)
    dense, pool = isinstance(layer.dictionary, WithIdentity), end.segment.max_pool
    candidate.reason = _difference((recomputed if pool is None else pool(recomputed))[:, -candidate.atoms :], end.code)
    if candidate.reason is not None:
        return None
    whole = torch.cat([candidate.signal, end.code], 1) if dense else end.code
    code = whole if pool is None else recomputed
    return LayerTrace(
        layer, [candidate.signal], [code], _index(candidate, before),
        missed=tuple(_missed(end)), remarks=tuple(_remarks(candidate, term, end)), concatenated=end.concatenated,
    )  # fmt: skip


def _index(candidate: RecordedLayer, before: dict[RecordedLayer, LayerTrace]) -> int | None:
    """Return the index of the layer whose code, all of it, a layer takes as its signal."""
    at = before.get(candidate.input_layer) if candidate.input_layer is not None else None
    if at is None or at.codes[-1].shape != candidate.signal.shape:
        return None
    return next(index for index, other in enumerate(before.values()) if other is at)


def _split_sum(candidate: RecordedLayer, end: ThresholdedSum) -> tuple[Term, Tensor | None]:
    """Return the layer's own term of its sum, and the sum of the others, the anchor; None where there are none."""
    own = next(term for term in end.segment.terms if term.source is candidate)
    others = [term for term in end.segment.terms if term is not own]
    candidate.reason = next((why for term in others if (why := _no_anchor(term, candidate)) is not None), None)
    if candidate.reason is not None:
        return own, None
    return own, sum((_computed(term) for term in others), torch.zeros_like(end.code)) if others else None


def _no_anchor(term: Term, candidate: RecordedLayer) -> str | None:
    """Return why a term is no part of the anchor, neither X₋₁ nor a projection of it; None if it is one."""
    if term.depth > candidate.depth:
        return "what is added before its ReLU comes from a deeper branch that is not read, and is no X₋₁"
    layer = term.layer
    if layer is None:
        return None
    if layer.reason is not None:
        return f"{layer.name}, which is not read, is added before its ReLU"
    same = layer.signal.shape == candidate.signal.shape and torch.equal(layer.signal, candidate.signal)
    if term.depth == candidate.depth and not same:
        return f"{layer.name}, a parallel branch with a signal of its own, is added before its ReLU, and is no X₋₁"
    return None


def _computed(term: Term) -> Tensor:
    """Return scale·source + shift, (B, channels, …)."""
    source = term.source
    if isinstance(source, RecordedLayer):
        image = dictionary(source, term.scale, term.pool).analyze(source.signal)
    else:
        image = source * _column(term.scale, source)
    return image + _column(term.shift, image)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 2))


def _layer(candidate: RecordedLayer, term: Term, end: ThresholdedSum, *, anchored: bool) -> PursuitLayer:
    """Return the candidate as a layer of the library."""
    D = dictionary(candidate, term.scale, term.pool)
    if candidate.passes_input and not anchored and isinstance(D, LinearDictionary | ConvDictionary):
        D = WithIdentity(D) if isinstance(D, LinearDictionary) or D.keeps_size else D
    identity = IdentityPenalty.SIGNED if bool((candidate.signal < 0).any()) else IdentityPenalty.OWN
    threshold = Threshold(D.code_channels, 0.0, identity, free=True).to(candidate.weight)
    threshold.atom_weight.copy_(-term.shift - end.segment.shift)  # type: ignore[union-attr]  # there is one, as the penalty is a number
    return PursuitLayer(D, starts.resnet if anchored else starts.zero, step=AbsorbedStep(), threshold=threshold).eval()


def _difference(recomputed: Tensor, code: Tensor) -> str | None:
    """Return why a layer's code is not what the model has computed, None if it is; infinite values are not judged."""
    if not code.isfinite().all():
        return None
    off = float((recomputed - code).abs().max() / code.abs().max().clamp(min=1e-30))
    return None if off <= TOLERANCE else f"recomputed as P_θ(Dᵀx) it differs by {off:.1e} of its largest value"


def dictionary(candidate: RecordedLayer, scale: Tensor, pool: AveragePool | None = None) -> Dictionary:
    """Return a layer's dictionary, its atoms multiplied by scale (atoms,) and, if there is a pool, average-pooled."""
    weight = candidate.weight * scale.view(-1, *[1] * (candidate.weight.dim() - 1))
    if weight.dim() == 2:
        return LinearDictionary(weight)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | candidate.options
    if options["padding"] == "valid":
        options["padding"] = 0
    return _convolution(weight, options) if pool is None else _convolution(*_merged(weight, options, pool))


def _convolution(weight: Tensor, options: dict[str, Any]) -> ConvDictionary:
    return ConvDictionary(weight, options["stride"], options["padding"], options["dilation"], options["groups"])


def _merged(weight: Tensor, options: dict[str, Any], pool: AveragePool) -> tuple[Tensor, dict[str, Any]]:
    """Return the one convolution that a convolution and an average pooling after it are."""
    dims = weight.dim() - 2
    stride, dilation = (
        (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)
        for value in (options["stride"], options["dilation"])
    )
    window = torch.ones(1, 1, *pool.window).to(weight)
    window /= window.numel()
    spread = SPREAD[dims - 1](window, weight.flatten(0, 1).unsqueeze(0), stride=stride, dilation=dilation)
    longer = tuple(s * q for s, q in zip(stride, pool.stride, strict=True))
    return spread[0].unflatten(0, weight.shape[:2]), options | {"stride": longer, "dilation": 1}


def _missed(end: ThresholdedSum) -> list[str]:
    """Return why the code is no proximal step on a Lasso."""
    if end.cap == torch.inf or not bool((end.code >= end.cap).any()):
        return []
    share = 100 * float((end.code >= end.cap).double().mean())
    return [f"its ReLU cuts {share:.1f} % of the code at {end.cap:g}, which no penalty of this library does"]


def _remarks(candidate: RecordedLayer, term: Term, end: ThresholdedSum) -> list[str]:
    """Return how it was read, where that is not plain to see."""
    remarks = []
    others = [t for t in end.segment.terms if t.source is not candidate]
    names = [t.layer.name for t in others if t.layer is not None]
    if names:
        remarks.append(f"X₋₁ comes through a projection, {', '.join(names)}")
    if end.segment.normalized:
        remarks.append("pre-activation: X₋₁ is the sum before it is normalized and thresholded")
    if end.concatenated:
        remarks.append(
            "densely connected: the I of [I D] brings older channels beside its code; this Lasso is that of D alone"
        )
    if candidate.padded is not None:
        remarks.append(f"its signal is the input after padding ({candidate.padded})")
    if end.segment.max_pool is not None:
        remarks.append("its code is what comes before the max pooling, which the model takes before the ReLU")
    if term.pool is not None:
        remarks.append("its atoms hold the average pooling that comes before the ReLU")
    return remarks


def _reason(candidate: RecordedLayer) -> str:
    """Return why a layer has not been read, in a sentence."""
    if candidate.reason is not None:
        return candidate.reason
    if candidate.part_of is not None:
        return f"it is added to {candidate.part_of.name}, which is not read"
    if not candidate.followed_by:
        return "no ReLU follows it"
    names = list(dict.fromkeys(candidate.followed_by))
    known = next((sentence for name in names if (sentence := _why_not(name)) is not None), None)
    return known or f"{' and '.join(names[:3])} follow{'s' * (len(names) == 1)} it, and no ReLU"


def _why_not(name: str) -> str | None:
    """Return why a function ends a layer before its ReLU; None where nothing more is known."""
    if name == "batch_norm":
        return "its batch normalization keeps no running statistics"
    if name in ACTIVATIONS:
        return f"{name} follows it, which is no proximal map of this library; it is read up to there"
    if name in OWN_STATISTICS:
        return f"{name} follows it, whose statistics are each image's own, so that there is no fixed a and b"
    if name == "mul":
        return "mul follows it, by factors that are each image's own, so that there is no fixed a"
    if name in ("getitem", "chunk", "split", "unbind", "narrow"):
        return f"{name} takes parts of it, which are not followed one by one"
    if name.startswith("conv") or name == "linear":
        return f"{name} takes what it gives as it stands, and no ReLU is between"
    return None


def _unused(model: nn.Module, recorder: LayerRecorder) -> list[tuple[str, str]]:
    """Return the convolutions and matrices of a model that these images do not meet."""
    used = {f.module for f in recorder.layers} | {f.weight.data_ptr() for f in recorder.layers}
    return [
        (name, "it was not seen at work on these images")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and not {name, module.weight.data_ptr()} & used
    ]


def _distinct(names: list[str]) -> list[str]:
    """Return names, numbered where one occurs more than once."""
    count, so_far, numbered = Counter(names), Counter[str](), []
    for name in names:
        so_far[name] += 1
        numbered.append(f"{name} ({so_far[name]})" if count[name] > 1 else name)
    return numbered
