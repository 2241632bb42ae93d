"""Read a plain PyTorch model of convolution + (batch norm) + ReLU as layers of this library, by recording one run."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pursuitnet.dictionaries import ConvDictionary, Dictionary, LinearDictionary
from pursuitnet.layer import PursuitLayer
from pursuitnet.program.trace import LayerTrace
from pursuitnet.prox.step_size import AbsorbedStep
from pursuitnet.prox.threshold import Threshold

LINEAR = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
CONV_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
NORM_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


@dataclass(eq=False)
class RecordedLayer:
    """A convolution or a matrix that the model has called, and the functions after it.

    Attributes:
        name: the module that called it.
        signal: x, its input.
        weight: as PyTorch holds it, (atoms, channels, *kernel) or (atoms, features).
        options: stride, padding, dilation, groups, if they were given.
        scale: a, the factor of each channel at the ReLU, (atoms,).
        shift: b, the shift of each channel at the ReLU, (atoms,).
        input_layer: the layer whose unchanged code is x.
        reason: why it cannot be read.
        instead: the first function after it that is neither batch normalization nor ReLU.
        code: ReLU( a·Dᵀx + b ), once the ReLU has been called.
    """

    name: str
    signal: Tensor
    weight: Tensor
    options: dict[str, Any]
    scale: Tensor
    shift: Tensor
    input_layer: "RecordedLayer | None"
    reason: str | None = None
    instead: str | None = None
    code: Tensor | None = None


class AffineOutput(NamedTuple):
    """A tensor that is scale·Dᵀx + shift, channel by channel, for a recorded layer."""

    layer: RecordedLayer
    scale: Tensor
    shift: Tensor


class LayerRecorder(TorchFunctionMode):
    """Records the convolutions and matrices of a model that runs in this context, each up to its ReLU.

    It records function calls, so that it does not matter whether a model calls modules or functions.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers: list[RecordedLayer] = []
        self.open = WeakTensorKeyDictionary()  # a tensor → its AffineOutput
        self.codes = WeakTensorKeyDictionary()  # a tensor → the RecordedLayer whose code it is
        self.module_stack: list[tuple[str, nn.Module]] = [("model", model)]
        self.handles = [handle for name, module in model.named_modules() for handle in self._stack_hooks(name, module)]

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func)).strip("_")
        started = self._start_layer(func, args, kwargs) if func in (*LINEAR, *TRANSPOSED) else None
        inputs = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        outputs = [self.open[v] for v in inputs if v in self.open]
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or name == "get":
            return out
        self.open.pop(out, None)  # if it was recorded, it has been changed in place
        self.codes.pop(out, None)
        if started is not None:
            self.open[out] = AffineOutput(started, started.scale, started.shift)
        if outputs and (started is not None or not self._follow(func, name, args, kwargs, outputs[0], out)):
            for output in outputs:
                output.layer.instead = output.layer.instead or name
        return out

    def _stack_hooks(self, name: str, module: nn.Module) -> Iterator[Any]:
        def leave(*_: object) -> None:
            self.module_stack.pop()

        yield module.register_forward_pre_hook(lambda *_: self.module_stack.append((name or "model", module)))
        yield module.register_forward_hook(leave, always_call=True)

    def _start_layer(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> RecordedLayer:
        """Record a convolution or a matrix before it runs, with the reason if it cannot be read."""
        call = dict(zip(CONV_NAMES, args, strict=False)) | kwargs
        x, weight, bias = call.pop("input"), call.pop("weight").detach(), call.pop("bias", None)
        one = weight.new_ones(weight.shape[0])
        shift = 0 * one if bias is None or func in TRANSPOSED else bias.detach().clone()
        name, module = self.module_stack[-1]
        layer = RecordedLayer(name, x.detach().clone(), weight, call, one, shift, self.codes.get(x))
        layer.reason = _why_unreadable(func, layer, module)
        self.layers.append(layer)
        return layer

    def _follow(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: AffineOutput,
        out: Tensor,
    ) -> bool:
        """Follow an output through the next function; return whether it can be followed further."""
        layer, scale, shift = output
        if func in RELUS:
            if layer.code is None:
                layer.scale, layer.shift, layer.code = scale, shift, out.detach().clone()
                self.codes[out] = layer
            return True
        if func is F.batch_norm:
            call = dict(zip(NORM_NAMES, args, strict=False)) | kwargs
            if call.get("training") or call["running_mean"] is None:
                return False
            self.open[out] = AffineOutput(layer, *_after_batch_norm(scale, shift, call))
            return True
        if "dropout" in name and torch.equal(out, args[0]):
            self.open[out] = output
            return True
        return False


def trace_torch_layers(model: nn.Module, images: Tensor) -> tuple[list[tuple[str, LayerTrace]], list[tuple[str, str]]]:
    """Return the layers of a plain model by name, as layers of this library, and the unreadable ones with reasons.

    A layer is a convolution or a matrix, any affine batch normalization in evaluation mode, and a ReLU:
    Γ = ReLU( a·(Dᵀx) + b ) channel by channel, which is P_θ( D̃ᵀx ) with the atoms D̃ = D·diag(a) and the threshold
    θ = −b.
    """
    with torch.no_grad(), LayerRecorder(model) as recorder:
        model(images)
    read: dict[RecordedLayer, int] = {}
    layers: list[tuple[str, LayerTrace]] = []
    for recorded, name in zip(recorder.layers, _number_duplicates([f.name for f in recorder.layers]), strict=True):
        recorded.name = name
        layer = _pursuit_layer(recorded)
        if layer is not None and recorded.code is not None:
            input_layer = read.get(recorded.input_layer) if recorded.input_layer else None
            read[recorded] = len(layers)
            layers.append((name, LayerTrace(layer, [recorded.signal], [recorded.code], input_layer)))
    return layers, [(f.name, _reason(f)) for f in recorder.layers if f not in read]


def _reason(layer: RecordedLayer) -> str:
    """Return why a layer was not read."""
    if layer.instead == "batch_norm":
        return "its batch normalization keeps no running statistics"
    return layer.reason or (f"{layer.instead} follows it instead of a ReLU" if layer.instead else "no ReLU follows it")


@torch.no_grad()
def _pursuit_layer(recorded: RecordedLayer) -> PursuitLayer | None:
    """Return the layer of this library with the same code; None, with the reason recorded, if there is none."""
    if recorded.reason is not None or recorded.code is None:
        return None
    weight = recorded.weight * recorded.scale.view(-1, *[1] * (recorded.weight.dim() - 1))
    dictionary = _dictionary(weight, recorded.options)
    if dictionary is None:
        recorded.reason = "its padding 'same' is not the same on both sides"
        return None
    threshold = Threshold(dictionary.code_channels, 0.0, free=True).to(weight)
    threshold.atom_weight.copy_(-recorded.shift)  # type: ignore[union-attr]  # it exists, since the penalty is a number
    layer = PursuitLayer(dictionary, step=AbsorbedStep(), threshold=threshold).eval()
    error = (layer(recorded.signal) - recorded.code).abs().max()
    if bool(recorded.code.isfinite().all()) and not float(error) <= torch.finfo(weight.dtype).eps ** 0.5 * float(
        recorded.code.abs().max().clamp(min=1e-30)
    ):
        recorded.reason = "its output is not ReLU( a·Dᵀx + b ) with the recorded a and b"
        return None
    return layer


def _dictionary(weight: Tensor, options: dict[str, Any]) -> Dictionary | None:
    if weight.dim() == 2:
        return LinearDictionary(weight)
    stride, padding, dilation = (
        options.get(key, default) for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    if padding == "valid":
        padding = 0
    if padding == "same":
        padding = tuple(r // 2 for r in ConvDictionary(weight, dilation=dilation).reach)
        if not ConvDictionary(weight, 1, padding, dilation).keeps_size:
            return None
    return ConvDictionary(weight, stride, padding, dilation)


def _why_unreadable(func: Callable[..., Any], layer: RecordedLayer, module: nn.Module) -> str | None:
    """Return why this is not a dictionary of this library; None if it is."""
    axes = layer.weight.dim()
    if func in TRANSPOSED:
        return "a transposed convolution, which is a D and not a Dᵀ"
    if layer.options.get("groups", 1) != 1:
        return f"a convolution in {layer.options['groups']} groups"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"its padding is {module.padding_mode!r}; zeros were expected"
    if layer.signal.dim() != axes:
        return f"its input has {layer.signal.dim()} axes; {axes} were expected, a batch among them"
    return None


def _after_batch_norm(scale: Tensor, shift: Tensor, call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return a and b after a batch normalization in evaluation mode."""
    gain = (call["running_var"] + call.get("eps", 1e-5)).rsqrt()
    gain = gain if call.get("weight") is None else gain * call["weight"].detach()
    offset = 0.0 if call.get("bias") is None else call["bias"].detach()
    return scale * gain, (shift - call["running_mean"]) * gain + offset


def _number_duplicates(names: list[str]) -> list[str]:
    """Return the names, with a number if one occurs more than once."""
    count, so_far, numbered = Counter(names), Counter[str](), []
    for name in names:
        so_far[name] += 1
        numbered.append(f"{name} ({so_far[name]})" if count[name] > 1 else name)
    return numbered
