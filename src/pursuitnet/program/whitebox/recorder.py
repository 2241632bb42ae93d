"""A plain PyTorch model, watched while it runs: its convolutions and matrices, and their sums up to a ReLU."""

from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pursuitnet.program.whitebox import sums
from pursuitnet.program.whitebox.sums import AveragePool, RecordedLayer, ThresholdedSum, Value

LINEAR = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
CONV_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
STATISTICS = ("running_mean", "running_var")
BATCH_NORMS: dict[Any, tuple[str, ...]] = {
    F.batch_norm: ("input", *STATISTICS, "weight", "bias", "training", "momentum", "eps"),
    torch.batch_norm: ("input", "weight", "bias", *STATISTICS, "training", "momentum", "eps"),
}
POOL_NAMES = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
SAME_FUNCTION = {
    **{"iadd": "add", "radd": "add", "isub": "sub", "imul": "mul", "rmul": "mul"},
    **{"truediv": "div", "itruediv": "div", "concat": "cat", "concatenate": "cat"},
}
UNCHANGED = ("contiguous", "clone", "detach")


class Call(NamedTuple):
    """A function that the model calls, under one name for all its spellings, and what it is given."""

    func: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @staticmethod
    def of(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Call":
        name = getattr(func, "__name__", str(func)).strip("_")
        return Call(func, SAME_FUNCTION.get(name, name), args, kwargs)

    def bound(self, *names: str) -> dict[str, Any]:
        """Return the arguments by their names."""
        return dict(zip(names, self.args, strict=False)) | self.kwargs

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, and in lists and tuples among them."""
        return list(_tensors((*self.args, *self.kwargs.values())))


class LayerRecorder(TorchFunctionMode):
    """Follows what a model, run inside of this context, does with convolutions and matrices, up to their ReLU.

    Functions are watched as they are called, so that it makes no difference whether a model uses modules or functions,
    nor which way through its Python code these images take: what a graph made beforehand would have to know.

    Args:
        model: the model.
        inputs: what it will be called with.

    Attributes:
        layers: those found, in the order of their calls.
    """

    def __init__(self, model: nn.Module, *inputs: Tensor) -> None:
        super().__init__()
        self.layers: list[RecordedLayer] = []
        self.values = WeakTensorKeyDictionary()  # a tensor → the sum that it is
        self.codes = WeakTensorKeyDictionary()  # a tensor → the layer whose code it is
        self.padded = WeakTensorKeyDictionary()  # a tensor → how it was padded
        self.depths = WeakTensorKeyDictionary()  # a tensor that depends on the inputs → how many layers lie before it
        for x in inputs:
            self.depths[x] = 0
        self.inside: list[str] = ["model"]
        self.handles = [handle for name, module in model.named_modules() for handle in self._named(name, module)]

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = Call.of(func, args, kwargs or {})
        if call.name == "get":  # an attribute, such as x.shape
            return func(*args, **call.kwargs)
        depth = max((self.depths[t] for t in call.tensors if t in self.depths), default=None)
        waiting = [layer for t in call.tensors for layer in self._waiting(t)]
        begins = func in (*LINEAR, *TRANSPOSED)
        # all this before it runs, as it may work in place
        value = self._begin(call, depth or 0) if begins else self._follow(call) if waiting else None
        code = self.codes.get(args[0]) if _changes_nothing(call) else None
        out = func(*args, **call.kwargs)
        made = list(_tensors((out,)))
        for each in made:
            self._forget(each)
            if depth is not None:
                self.depths[each] = depth + begins
        if isinstance(out, Tensor):
            self._note(call, value, out)
            if code is not None:
                self.codes[out] = code
        if made and (begins or value is None or not isinstance(out, Tensor)):
            for layer in waiting:
                layer.followed_by.append(call.name)
        return out

    def _named(self, name: str, module: nn.Module) -> Iterator[Any]:
        def leave(*_: object) -> None:
            self.inside.pop()

        yield module.register_forward_pre_hook(lambda *_: self.inside.append(name or "model"))
        yield module.register_forward_hook(leave, always_call=True)

    def _forget(self, out: Tensor) -> None:
        """Forget what a result was: if it was known, it has been changed in place."""
        for known in (self.values, self.codes, self.padded, self.depths):
            known.pop(out, None)

    def _waiting(self, tensor: Tensor) -> list[RecordedLayer]:
        """Return the layers in a tensor's sum that have met no ReLU."""
        segments = self.values.get(tensor, ())
        return [layer for segment in segments for layer in segment.layers if layer.waits]

    def _value(self, tensor: Tensor) -> Value:
        """Return a tensor's sum; what has no layer in it that still waits, is taken as it stands."""
        return self.values[tensor] if self._waiting(tensor) else sums.of_tensor(tensor, self.depths.get(tensor, 0))

    def _begin(self, call: Call, depth: int) -> Value | None:
        """Note a convolution or a matrix before it runs, and with it the reason for which it cannot be read."""
        options = call.bound(*CONV_NAMES)
        x, weight, bias = options.pop("input"), options.pop("weight").detach(), options.pop("bias", None)
        layer = RecordedLayer(
            self.inside[-1], x.detach().clone(), weight, options, depth, self.codes.get(x), self.padded.get(x)
        )
        self.layers.append(layer)
        if call.func in TRANSPOSED:
            layer.reason = "it is a transposed convolution, which is a D and not a Dᵀ"
        elif x.dim() != weight.dim():
            layer.reason = f"its input has {x.dim()} axes; {weight.dim()} were expected, a batch among them"
        elif options.get("padding") == "same":
            _pad_as_said(layer)
        return None if layer.reason else sums.of_layer(layer, bias)

    def _follow(self, call: Call) -> Value | None:
        """Return the sum that a function of sums gives; None where it is none, or none that can be followed."""
        if call.name in ("add", "sub"):
            return self._added(call)
        if call.name in ("mul", "div"):
            return self._scaled(call)
        if call.name == "cat":
            return self._side_by_side(call)
        x = call.tensors[0]
        if x not in self.values:
            return None
        if call.func in BATCH_NORMS:
            return _normalized(self.values[x], call.bound(*BATCH_NORMS[call.func]))
        if call.name in ("avg_pool1d", "avg_pool2d", "avg_pool3d"):
            return _pooled(self.values[x], call.bound(*POOL_NAMES), x.dim() - 2)
        if call.name in ("max_pool1d", "max_pool2d", "max_pool3d"):
            pool, more = call.func, call.args[1:]
            return sums.max_pooled(self.values[x], lambda z: pool(z, *more, **call.kwargs))
        return self.values[x] if _changes_nothing(call) or relu_cap(call) is not None else None

    def _added(self, call: Call) -> Value | None:
        given = call.bound("input", "other")
        one, other = given["input"], given["other"]
        sign = -1.0 if call.name == "sub" else 1.0
        weight = sign * float(given.get("alpha", 1))
        if (offset := self._constant(other, one)) is not None:
            return sums.affine(self._value(one), 1.0, weight * offset)
        if (offset := self._constant(one, other)) is not None:
            return sums.affine(self._value(other), weight, offset)
        if one.shape != other.shape:
            return None
        return sums.plus(self._value(one), sums.affine(self._value(other), weight, 0.0))

    def _scaled(self, call: Call) -> Value | None:
        given = call.bound("input", "other")
        x, other = given["input"], given["other"]
        if call.name == "mul" and not self._waiting(x):
            x, other = other, x
        factor = self._constant(other, x)
        if factor is None or given.get("rounding_mode"):
            return None
        return sums.affine(self._value(x), 1 / factor if call.name == "div" else factor, 0.0)

    def _constant(self, value: Any, like: Any) -> Tensor | float | None:
        """Return a number, or a tensor of the model's own with a number for each channel, as (channels,); else None."""
        if isinstance(value, Real):
            return float(value)
        if not isinstance(value, Tensor) or value in self.depths or not isinstance(like, Tensor):
            return None
        if value.numel() == 1:
            return float(value)
        shape = (1,) * (like.dim() - value.dim()) + tuple(value.shape)
        each = shape[1] == like.shape[1] == value.numel() and len(shape) == like.dim()
        return value.detach().flatten() if each else None

    def _side_by_side(self, call: Call) -> Value | None:
        given = call.bound("tensors", "dim")
        parts, axis = given["tensors"], given.get("dim", 0)
        if axis % parts[0].dim() != 1:
            return None
        return tuple(segment for part in parts for segment in self._value(part))

    def _note(self, call: Call, value: Value | None, out: Tensor) -> None:
        """Keep what a result is: a sum, a code, a padded signal."""
        cap = relu_cap(call)
        if value is not None and cap is not None:
            self._close(value, out, cap)
        elif value is not None:
            self.values[out] = value
        elif call.name == "pad":
            given = call.bound("input", "pad", "mode", "value")
            self.padded[out] = given.get("mode") or "constant"
        elif call.name == "cat":
            self._pass_input(call, out)

    def _close(self, value: Value, out: Tensor, cap: float) -> None:
        """End the sums of a tensor at its ReLU: the deepest layer of each is the one that is thresholded."""
        codes = out.detach().clone().split([len(segment.shift) for segment in value], 1)
        older = [not segment.layers for segment in value]
        for segment, code in zip(value, codes, strict=True):
            waiting = [layer for layer in segment.layers if layer.waits]
            if not waiting:
                continue
            *others, last = sorted(waiting, key=lambda layer: layer.depth)
            last.threshold = ThresholdedSum(segment, code, cap, any(older))
            for layer in others:
                layer.part_of = last
            if len(value) == 1 and segment.max_pool is None:
                self.codes[out] = last

    def _pass_input(self, call: Call, out: Tensor) -> None:
        """Note a dense connection, [x, code of x]: together they are the code of [I D]."""
        parts = call.bound("tensors", "dim")["tensors"]
        layer = self.codes.get(parts[-1]) if isinstance(parts, list | tuple) else None
        if layer is None or layer.passes_input or out.dim() != layer.signal.dim():
            return
        before = out[:, : out.shape[1] - layer.atoms]
        if before.shape == layer.signal.shape and torch.equal(before, layer.signal):
            layer.passes_input = True
            self.codes[out] = layer


def relu_cap(call: Call) -> float | None:
    """Return the largest value of a ReLU, 6 for ReLU6, infinite for ReLU itself; None for any other function."""
    if call.name == "relu":
        return torch.inf
    if call.name == "relu6":
        return 6.0
    if call.name in ("hardtanh", "clamp", "clip"):
        given = call.bound("input", "min", "max")
        low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
        if isinstance(low, Real) and low == 0 and (high is None or isinstance(high, Real)):
            return torch.inf if high is None else float(high)
    return None


def _tensors(values: tuple[Any, ...] | list[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _changes_nothing(call: Call) -> bool:
    """Return whether a function gives back its first argument: a dropout in evaluation does."""
    if not call.args or not isinstance(call.args[0], Tensor):
        return False
    if "dropout" in call.name:
        given = call.bound("input", "p", "training")
        return not given.get("training", given.get("train", True))
    return call.name in UNCHANGED


def _normalized(value: Value, given: dict[str, Any]) -> Value | None:
    """Return a batch normalization in evaluation, which is a fixed a and b; None for one of the batch itself."""
    if given.get("training") or given["running_mean"] is None:
        return None
    gain = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    gain = gain if given.get("weight") is None else gain * given["weight"].detach()
    offset = 0.0 if given.get("bias") is None else given["bias"].detach()
    return sums.affine(value, gain, offset - given["running_mean"] * gain)


def _pooled(value: Value, given: dict[str, Any], dims: int) -> Value | None:
    """Return an average pooling that has no border of its own."""
    if given.get("padding", 0) not in (0, (0,) * dims) or given.get("ceil_mode") or given.get("divisor_override"):
        return None
    window = _each(given["kernel_size"], dims)
    return sums.pooled(value, AveragePool(window, _each(given.get("stride") or window, dims)))


def _each(number: Any, dims: int) -> tuple[int, ...]:
    """Return one number an axis."""
    return tuple(number) * (dims if len(number) == 1 else 1) if isinstance(number, tuple | list) else (number,) * dims


def _pad_as_said(layer: RecordedLayer) -> None:
    """Resolve padding='same', which is not always the same on both sides."""
    dims = layer.weight.dim() - 2
    dilation = _each(layer.options.get("dilation", 1), dims)
    reach = [d * (k - 1) for d, k in zip(dilation, layer.weight.shape[2:], strict=True)]
    if all(r % 2 == 0 for r in reach):
        layer.options["padding"] = tuple(r // 2 for r in reach)
        return
    layer.options["padding"] = 0
    layer.signal = F.pad(layer.signal, [n for r in reversed(reach) for n in (r // 2, r - r // 2)])
    layer.padded, layer.input_layer = "constant", None
