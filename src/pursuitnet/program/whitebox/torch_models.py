"""A plain PyTorch model of convolution + (batch norm) + ReLU, read as the library's own layers by watching it run."""

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
class FoundLayer:
    """A convolution or a matrix that the model has used, and what has followed it.

    Attributes:
        name: the module that used it.
        signal: x, its input.
        weight: as PyTorch holds it, (atoms, channels, *kernel) or (atoms, features).
        options: stride, padding, dilation, groups, as far as they were given.
        scale: a, the factor that each channel had got at the ReLU, (atoms,).
        shift: b, what each channel had got added, (atoms,).
        below: the one whose code x is, as it stands.
        reason: why it cannot be read.
        instead: what came first that is neither batch normalization nor ReLU.
        code: ReLU( a·Dᵀx + b ), once it is met.
    """

    name: str
    signal: Tensor
    weight: Tensor
    options: dict[str, Any]
    scale: Tensor
    shift: Tensor
    input_layer: "FoundLayer | None"
    reason: str | None = None
    instead: str | None = None
    code: Tensor | None = None


class Image(NamedTuple):
    """A tensor that is scale·Dᵀx + shift, channel by channel, for what has been found."""

    found: FoundLayer
    scale: Tensor
    shift: Tensor


class LayerRecorder(TorchFunctionMode):
    """Follows what a model, run inside of this context, does with convolutions and matrices, up to their ReLU.

    Functions are watched and not modules, so that it makes no difference which of the two a model calls.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[FoundLayer] = []
        self.open = WeakTensorKeyDictionary()  # a tensor → the Image that it is
        self.codes = WeakTensorKeyDictionary()  # a tensor → the Found whose code it is
        self.inside: list[tuple[str, nn.Module]] = [("model", model)]
        self.handles = [handle for name, module in model.named_modules() for handle in self._named(name, module)]

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func)).strip("_")
        begun = self._begin(func, args, kwargs) if func in (*LINEAR, *TRANSPOSED) else None
        given = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        images = [self.open[v] for v in given if v in self.open]
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or name == "get":
            return out
        self.open.pop(out, None)  # it has been changed in place, if it was known
        self.codes.pop(out, None)
        if begun is not None:
            self.open[out] = Image(begun, begun.scale, begun.shift)
        if images and (begun is not None or not self._follow(func, name, args, kwargs, images[0], out)):
            for image in images:
                image.found.instead = image.found.instead or name
        return out

    def _named(self, name: str, module: nn.Module) -> Iterator[Any]:
        def leave(*_: object) -> None:
            self.inside.pop()

        yield module.register_forward_pre_hook(lambda *_: self.inside.append((name or "model", module)))
        yield module.register_forward_hook(leave, always_call=True)

    def _begin(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> FoundLayer:
        """Note a convolution or a matrix before it runs, and with it the reasons for which it cannot be read."""
        call = dict(zip(CONV_NAMES, args, strict=False)) | kwargs
        x, weight, bias = call.pop("input"), call.pop("weight").detach(), call.pop("bias", None)
        one = weight.new_ones(weight.shape[0])
        shift = 0 * one if bias is None or func in TRANSPOSED else bias.detach().clone()
        name, module = self.inside[-1]
        found = FoundLayer(name, x.detach().clone(), weight, call, one, shift, self.codes.get(x))
        found.reason = _unreadable(func, found, module)
        self.found.append(found)
        return found

    def _follow(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        image: Image,
        out: Tensor,
    ) -> bool:
        """Follow an image through one function more; return whether this was a way to go on."""
        found, scale, shift = image
        if func in RELUS:
            if found.code is None:
                found.scale, found.shift, found.code = scale, shift, out.detach().clone()
                self.codes[out] = found
            return True
        if func is F.batch_norm:
            call = dict(zip(NORM_NAMES, args, strict=False)) | kwargs
            if call.get("training") or call["running_mean"] is None:
                return False
            self.open[out] = Image(found, *_normalized(scale, shift, call))
            return True
        if "dropout" in name and torch.equal(out, args[0]):
            self.open[out] = image
            return True
        return False


def trace_torch_layers(model: nn.Module, images: Tensor) -> tuple[list[tuple[str, LayerTrace]], list[tuple[str, str]]]:
    """Return the layers of a plain model, named and as the library's own, and those that cannot be read, with reasons.

    A layer is a convolution or a matrix, whatever affine batch normalization in evaluation follows, and a ReLU:
    Γ = ReLU( a·(Dᵀx) + b ) channel by channel, which is P_θ( D̃ᵀx ) with the atoms D̃ = D·diag(a) and the threshold
    θ = −b.
    """
    with torch.no_grad(), LayerRecorder(model) as watching:
        model(images)
    read: dict[FoundLayer, int] = {}
    layers: list[tuple[str, LayerTrace]] = []
    for found, name in zip(watching.found, _distinct([f.name for f in watching.found]), strict=True):
        found.name = name
        layer = _converted(found)
        if layer is not None and found.code is not None:
            input_layer = read.get(found.input_layer) if found.input_layer else None
            read[found] = len(layers)
            layers.append((name, LayerTrace(layer, [found.signal], [found.code], input_layer)))
    return layers, [(f.name, _why(f)) for f in watching.found if f not in read]


def _why(found: FoundLayer) -> str:
    """Return why a layer has not been read."""
    if found.instead == "batch_norm":
        return "its batch normalization keeps no running statistics"
    return found.reason or (f"{found.instead} follows it, and no ReLU" if found.instead else "no ReLU follows it")


@torch.no_grad()
def _converted(found: FoundLayer) -> PursuitLayer | None:
    """Return the layer whose code is the found one, or None and leave the reason."""
    if found.reason is not None or found.code is None:
        return None
    weight = found.weight * found.scale.view(-1, *[1] * (found.weight.dim() - 1))
    dictionary = _dictionary(weight, found.options)
    if dictionary is None:
        found.reason = "its padding 'same' is not the same on both sides"
        return None
    threshold = Threshold(dictionary.code_channels, 0.0, free=True).to(weight)
    threshold.atom_weight.copy_(-found.shift)  # type: ignore[union-attr]  # there is one, as the penalty is a number
    layer = PursuitLayer(dictionary, step=AbsorbedStep(), threshold=threshold).eval()
    off = (layer(found.signal) - found.code).abs().max()
    if bool(found.code.isfinite().all()) and not float(off) <= torch.finfo(weight.dtype).eps ** 0.5 * float(
        found.code.abs().max().clamp(min=1e-30)
    ):
        found.reason = "what it gives is not ReLU( a·Dᵀx + b ) with the a and b that were read"
        return None
    return layer


def _dictionary(weight: Tensor, options: dict[str, Any]) -> Dictionary | None:
    if weight.dim() == 2:
        return LinearDictionary(weight)
    stride, padding, dilation = (options.get(key, at) for key, at in (("stride", 1), ("padding", 0), ("dilation", 1)))
    if padding == "valid":
        padding = 0
    if padding == "same":
        padding = tuple(r // 2 for r in ConvDictionary(weight, dilation=dilation).reach)
        if not ConvDictionary(weight, 1, padding, dilation).keeps_size:
            return None
    return ConvDictionary(weight, stride, padding, dilation)


def _unreadable(func: Callable[..., Any], found: FoundLayer, module: nn.Module) -> str | None:
    """Return why this is no dictionary of the library."""
    axes = found.weight.dim()
    if func in TRANSPOSED:
        return "a transposed convolution, which is a D and not a Dᵀ"
    if found.options.get("groups", 1) != 1:
        return f"a convolution in {found.options['groups']} groups"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"its padding is {module.padding_mode!r}; zeros were expected"
    if found.signal.dim() != axes:
        return f"its input has {found.signal.dim()} axes; {axes} were expected, a batch among them"
    return None


def _normalized(scale: Tensor, shift: Tensor, call: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return a and b after a batch normalization in evaluation."""
    gain = (call["running_var"] + call.get("eps", 1e-5)).rsqrt()
    gain = gain if call.get("weight") is None else gain * call["weight"].detach()
    offset = 0.0 if call.get("bias") is None else call["bias"].detach()
    return scale * gain, (shift - call["running_mean"]) * gain + offset


def _distinct(names: list[str]) -> list[str]:
    """Return names, numbered where one occurs more than once."""
    count, so_far, found = Counter(names), Counter[str](), []
    for name in names:
        so_far[name] += 1
        found.append(f"{name} ({so_far[name]})" if count[name] > 1 else name)
    return found
