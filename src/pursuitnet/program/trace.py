"""Signal and code of every layer of a trained network, and the way back to the image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import ConvDictionary, Dictionary, ScaledDictionary, WithIdentity
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit


@dataclass(frozen=True)
class LayerTrace:
    """The signals and codes of one layer for a batch.

    Attributes:
        layer: the layer.
        signals: its input in every step, (B, channels, H, W); different in each step of a sweep over several layers.
        codes: its code after every step, (B, code_channels, h, w).
        input_layer: index of the layer whose code is the unchanged input; None if that is the image or a pooled code.
        missed: what the layer does beyond a proximal step, in sentences.
        remarks: how it was read, where that is not obvious, in sentences.
        concatenated: whether the model concatenates older channels with the code before it is thresholded.
    """

    layer: PursuitLayer
    signals: list[Tensor]
    codes: list[Tensor]
    input_layer: int | None
    missed: tuple[str, ...] = field(default=(), kw_only=True)
    remarks: tuple[str, ...] = field(default=(), kw_only=True)
    concatenated: bool = field(default=False, kw_only=True)

    @property
    def dictionary(self) -> Dictionary:
        """D of the layer."""
        return self.layer.dictionary

    @property
    def identity_channels(self) -> int:
        """Channels of the code that come before those of the learned atoms."""
        return self.dictionary.code_channels[0] if isinstance(self.dictionary, WithIdentity) else 0

    @property
    def convolves(self) -> bool:
        """Whether the learned atoms are those of a convolution."""
        D = self.dictionary
        return isinstance(D.dictionary if isinstance(D, WithIdentity | ScaledDictionary) else D, ConvDictionary)

    @property
    def block(self) -> str:
        """What the layer is in its network: plain, dense, or the start at X₋₁, such as resnet."""
        if self.layer.start.needs_previous:
            return self.layer.start.name
        return "dense" if self.identity_channels or self.concatenated else "plain"

    @property
    def atom_codes(self) -> Tensor:
        """The last code without its identity part, (B, atoms, h, w)."""
        return self.codes[-1][:, self.identity_channels :]

    def reconstructions(self) -> list[Tensor]:
        """Return DΓ after every step, (B, channels, H, W)."""
        return [self.reconstruct(c, s.shape) for c, s in zip(self.codes, self.signals, strict=True)]

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        """Return DΓ, (B, channels, H, W)."""
        return self.dictionary.synthesize(code, signal_shape)


@torch.no_grad()
def trace_layers(model: nn.Module, x: Tensor) -> list[LayerTrace]:
    """Return the trace of every layer for x (B, C, H, W), in the order in which the image passes them.

    Every step ends in the layer's threshold: hooks there record each code, also in a sweep over several layers.
    """
    pursuits = [m for m in model.modules() if isinstance(m, PursuitLayer | MultiLayerPursuit)]
    codes: dict[PursuitLayer, list[Tensor]] = {layer: [] for layer in pursuits if isinstance(layer, PursuitLayer)}
    calls: list[tuple[list[PursuitLayer], Tensor, Tensor]] = []

    def keep_code(layer: PursuitLayer, parts: tuple[Tensor, ...]) -> None:
        codes[layer].append(layer.dictionary.join(parts))

    def keep_call(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        swept = [m for m in module.modules() if isinstance(m, PursuitLayer)]
        if isinstance(module, PursuitLayer) and not codes[module]:  # a solved layer has only its optimum
            codes[module].append(output)
        calls.append((swept, inputs[0], output))

    handles = [
        layer.threshold.register_forward_hook(lambda _, __, parts, layer=layer: keep_code(layer, parts))
        for layer in codes
    ]
    handles += [module.register_forward_hook(keep_call) for module in pursuits]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return _link_layers(calls, codes)


def _link_layers(
    calls: list[tuple[list[PursuitLayer], Tensor, Tensor]], codes: dict[PursuitLayer, list[Tensor]]
) -> list[LayerTrace]:
    """Return the traces of the layers in the calls, each linked to the layer whose code is its input."""
    traces: list[LayerTrace] = []
    ends: dict[int, int] = {}  # id of a call's result → index of its last layer
    for layers, x, output in calls:
        signals, input_layer = [x] * len(codes[layers[0]]), ends.get(id(x))
        for layer in layers:
            traces.append(LayerTrace(layer, signals, codes[layer], input_layer))
            signals, input_layer = codes[layer], len(traces) - 1
        ends[id(output)] = len(traces) - 1
    return traces


def synthesize_down(traces: Sequence[LayerTrace], index: int, code: Tensor) -> tuple[Tensor, int]:
    """Return D_b … D_i Γ for a code of layer i, and b, the layer whose input is the image or a pooled code."""
    path = _path(traces, index)
    for i in path:
        code = traces[i].reconstruct(code, (len(code), *traces[i].signals[-1].shape[1:]))
    return code, path[-1]


class LayerReconstruction(NamedTuple):
    """What layer i keeps of one image, D_b … D_i Γ, with layer b's signal; both (1, channels, H, W).

    Attributes:
        target: the image, or the image's channels of the pooled code that layer b codes.
        down: the code, synthesized down to it.
        scale: a, which minimizes ‖target − a·down‖, (1, 1, 1, 1).
        base: b; 0 stands for the image.
    """

    target: Tensor
    down: Tensor
    scale: Tensor
    base: int


def layer_reconstruction(traces: Sequence[LayerTrace], index: int, channels: int) -> LayerReconstruction | None:
    """Return what layer i keeps of one image; None if no channels of layer b's signal are the image's.

    Args:
        traces: of every layer, for a batch of that one image.
        index: i.
        channels: number of the image's channels to compare.
    """
    down, base = synthesize_down(traces, index, traces[index].codes[-1])
    if not has_image_channels(traces, base):
        return None
    target, down = traces[base].signals[-1][:, :channels], down[:, :channels]
    return LayerReconstruction(target, down, best_scale(target, down), base)


def receptive_field(traces: Sequence[LayerTrace], index: int) -> int:
    """Return how many pixels of layer b's signal an atom of layer i covers, along its longer axis."""
    pixels = 1
    for i in _path(traces, index):
        d = filters(traces[i])
        pixels = max((pixels - 1) * s + r + 1 for s, r in zip(d.stride, d.reach, strict=True))
    return pixels


def has_image_channels(traces: Sequence[LayerTrace], base: int) -> bool:
    """Return whether the first channels of layer b's signal are the image: b is 0, or [I D] in all layers before."""
    return base == 0 or all(isinstance(trace.dictionary, WithIdentity) for trace in traces[:base])


@torch.no_grad()
def effective_atoms(traces: Sequence[LayerTrace], index: int, most: int, in_chans: int) -> Tensor | None:
    """Return D_b … D_i e_j of the most used atoms j, cropped to where they are not zero: (n, in_chans, h, w).

    On the image an atom ends at the image's borders; a pooled signal, often smaller than the atom, is extended to
    the atom's size. None if a pooling comes before the layer and no channels of its signal are the image's.
    """
    trace, path = traces[index], _path(traces, index)
    if not has_image_channels(traces, path[-1]):
        return None
    size = tuple(
        max(n, receptive_field(traces, index) if path[-1] else 0) for n in traces[path[-1]].signals[-1].shape[2:]
    )
    shapes = {}
    for i in reversed(path):
        shapes[i] = (traces[i].layer.dictionary.channels, *size)
        size = filters(traces[i]).code_size(size)
    chosen = most_used(trace, most)
    code = trace.codes[-1].new_zeros(len(chosen), trace.codes[-1].shape[1], *size)
    code[torch.arange(len(chosen)), chosen + trace.identity_channels, size[0] // 2, size[1] // 2] = 1
    for i in path:
        code = traces[i].reconstruct(code, (len(chosen), *shapes[i]))
    return _crop(code[:, :in_chans])


def strongest_kernels(trace: LayerTrace, most: int, channels: int) -> Tensor:
    """Return the most used atoms on the channels where each has its largest norm: (channels · n, 1, h, w)."""
    weight = filters(trace).weight[most_used(trace, most)]
    order = weight.flatten(2).norm(dim=2).argsort(dim=1, descending=True, stable=True)[:, :channels]
    picked = weight.detach().gather(1, order[..., None, None].expand(-1, -1, *weight.shape[2:]))
    return picked.transpose(0, 1).flatten(0, 1).unsqueeze(1)


def most_used(trace: LayerTrace, most: int) -> Tensor:
    """Return the indices of the atoms with the largest mean |Γ|, at most ``most``, in ascending order."""
    use = trace.atom_codes.abs().mean(dim=(0, 2, 3))
    return use.argsort(descending=True, stable=True)[:most].sort().values


def relative_error(signal: Tensor, model: Tensor) -> Tensor:
    """Return ‖x − DΓ‖/‖x‖ of every example, (B,)."""
    error: Tensor = (signal - model).flatten(1).norm(dim=1)
    return error / signal.flatten(1).norm(dim=1).clamp(min=1e-12)


def best_scale(signal: Tensor, model: Tensor) -> Tensor:
    """Return the a ≥ 0 that minimizes ‖x − a·DΓ‖ for every example, as (B, 1, 1, 1)."""
    x, m = signal.flatten(1), model.flatten(1)
    a: Tensor = (x * m).sum(dim=1) / m.square().sum(dim=1).clamp(min=1e-24)
    return a.clamp(min=0).view(-1, 1, 1, 1)


def filters(trace: LayerTrace | PursuitLayer) -> ConvDictionary:
    """Return the learned part of a layer's dictionary."""
    d = (
        trace.dictionary.dictionary
        if isinstance(trace.dictionary, WithIdentity | ScaledDictionary)
        else trace.dictionary
    )
    if not isinstance(d, ConvDictionary):
        raise ValueError(f"the layer has a {type(d).__name__}; a report shows convolutional dictionaries")
    return d


def describe_dictionary(D: Dictionary) -> str:
    """Return a short description of a dictionary, such as [I D], 16 atoms 3 × 3, dilation 2."""
    inner = D.dictionary if isinstance(D, WithIdentity) else D
    symbol = "[I D]" if isinstance(D, WithIdentity) else "D"
    if not isinstance(inner, ConvDictionary):
        return f"{symbol}, {inner.code_channels[-1]} atoms in {inner.channels}"
    size = " × ".join(str(n) for n in inner.weight.shape[2:])
    more = {"dilation": max(inner.dilation), "stride": max(inner.stride)}
    return f"{symbol}, {inner.code_channels[0]} atoms {size}" + "".join(
        f", {name} {n}" for name, n in more.items() if n > 1
    )


def density(code: Tensor) -> float:
    """Return the fraction of a code's entries that are not zero."""
    return float((code != 0).double().mean())


def _path(traces: Sequence[LayerTrace], index: int) -> list[int]:
    """Return the layers from layer i down to b, the one whose input is the image or a pooled code."""
    path = [index]
    while (input_layer := traces[path[-1]].input_layer) is not None:
        path.append(input_layer)
    return path


def _crop(atoms: Tensor) -> Tensor:
    """Crop atoms to the smallest window that contains all their non-zero pixels."""
    used = (atoms != 0).any(dim=0).any(dim=0)
    if not used.any():
        return atoms
    rows, columns = used.any(dim=1).nonzero(), used.any(dim=0).nonzero()
    return atoms[..., int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
