"""Explanation of a class: with global average pooling and a linear head, a logit is exactly a sum over atoms."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import WithIdentity
from pursuitnet.networks import Network
from pursuitnet.program.sharing import Trained
from pursuitnet.program.trace import LayerTrace, trace_layers


@dataclass(frozen=True)
class CodeChannel:
    """Where a channel of the last code comes from.

    Attributes:
        layer: number of the layer whose atom it is, from 0; None for a channel of the image.
        index: number of the atom among the learned ones of that layer, or of the channel.
    """

    layer: int | None
    index: int

    def __str__(self) -> str:
        if self.layer is None:
            return f"image channel {self.index + 1}"
        return f"layer {self.layer + 1}, atom {self.index + 1}"


@dataclass(frozen=True)
class Explanation:
    """The logits of one image as sums over the channels of the last code Γ:

        logit_k = bias_k + Σ_j w_kj · mean(Γ_j) = bias_k + Σ_j contribution_kj

    Attributes:
        logits: (classes,).
        bias: of the head, (classes,).
        contributions: w_kj · mean(Γ_j), (classes, code_channels).
        code: the last code after the last pooling, (code_channels, h, w).
        weight: of the head, (classes, code_channels).
        channels: where each channel of the code comes from.
        traces: of every layer, for this image.
        classes: names of the classes.
    """

    logits: Tensor
    bias: Tensor
    contributions: Tensor
    code: Tensor
    weight: Tensor
    channels: tuple[CodeChannel, ...]
    traces: tuple[LayerTrace, ...]
    classes: tuple[str, ...]

    def ranking(self) -> list[int]:
        """Return the labels, the most probable class first."""
        return self.logits.argsort(descending=True, stable=True).tolist()

    def strongest(self, label: int, count: int) -> list[int]:
        """Return the code channels that change the logit of a class most, up or down, strongest first."""
        return self.contributions[label].abs().argsort(descending=True, stable=True)[:count].tolist()

    def evidence(self, label: int) -> Tensor:
        """Return Σ_j w_kj·Γ_j at every position, (h, w): a map of evidence, whose mean is the logit minus its bias."""
        return torch.einsum("j,jhw->hw", self.weight[label], self.code)


@torch.no_grad()
def explain(loaded: Trained, image: Tensor) -> Explanation:
    """Explain the class of one image.

    Args:
        loaded: a trained network.
        image: (C, H, W), uint8, or float in [0, 1].

    Raises:
        ValueError: if the network has no linear head, or the image does not fit.
    """
    network = loaded.network
    head = network.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"the head is a {type(head).__name__}; expected a linear one, whose logits are sums")
    x = loaded.prepare(image[None].to(loaded.mean.device))
    traces, code = trace_layers(network, x), network.forward_features(x)[0]
    contributions = head.weight * code.mean(dim=(1, 2))
    bias = contributions.new_zeros(len(head.weight)) if head.bias is None else head.bias
    logits = network.forward_head(code[None])[0]
    return Explanation(
        logits, bias, contributions, code, head.weight, origins(network, x.shape[1]), tuple(traces), loaded.classes
    )


def origins(network: Network, channels: int) -> tuple[CodeChannel, ...]:
    """Return where each channel of a network's last code comes from: [I D] passes on the channels before it.

    Args:
        network: the network.
        channels: of the image.
    """
    origin = tuple(CodeChannel(None, index) for index in range(channels))
    for number, layer in enumerate(network.pursuits()):
        D = layer.dictionary
        own = tuple(CodeChannel(number, index) for index in range(D.code_channels[-1]))
        origin = (*origin, *own) if isinstance(D, WithIdentity) else own
    return origin
