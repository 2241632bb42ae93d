"""A decision taken apart: with global average pooling and a linear head, a logit is exactly a sum over atoms."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import WithIdentity
from pursuitnet.networks import Network
from pursuitnet.program.sharing import Trained
from pursuitnet.program.trace import LayerTrace, trace_layers


@dataclass(frozen=True)
class Row:
    """Where a row of the last code comes from.

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
    """The logits of one image as sums over the rows of the last code Γ:

        logit_k = bias_k + Σ_j w_kj · mean(Γ_j) = bias_k + Σ_j contribution_kj

    Attributes:
        logits: (classes,).
        bias: of the head, (classes,).
        contributions: w_kj · mean(Γ_j), (classes, rows).
        code: the last code after the last pooling, (rows, h, w).
        weight: of the head, (classes, rows).
        rows: where each row comes from.
        seen: what every layer did with the image.
        classes: names of the classes.
    """

    logits: Tensor
    bias: Tensor
    contributions: Tensor
    code: Tensor
    weight: Tensor
    rows: tuple[Row, ...]
    traces: tuple[LayerTrace, ...]
    classes: tuple[str, ...]

    def ranking(self) -> list[int]:
        """Return the labels, the most probable class first."""
        return self.logits.argsort(descending=True, stable=True).tolist()

    def strongest(self, label: int, count: int) -> list[int]:
        """Return the rows that move the logit of a class most, in either direction, strongest first."""
        return self.contributions[label].abs().argsort(descending=True, stable=True)[:count].tolist()

    def evidence(self, label: int) -> Tensor:
        """Return Σ_j w_kj·Γ_j at every place, (h, w): where the evidence lies; its mean is the logit less its bias."""
        return torch.einsum("j,jhw->hw", self.weight[label], self.code)


@torch.no_grad()
def explain(about: Trained, image: Tensor) -> Explanation:
    """Take the decision on one image apart.

    Args:
        about: a trained network.
        image: (C, H, W), uint8, or float in [0, 1].

    Raises:
        ValueError: if the network has no linear head, or the image does not fit.
    """
    network = about.network
    head = network.get_classifier()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"the head is a {type(head).__name__}; expected a linear one, whose logits are sums")
    x = about.prepare(image[None].to(about.mean.device))
    traces, code = trace_layers(network, x), network.forward_features(x)[0]
    contributions = head.weight * code.mean(dim=(1, 2))
    bias = contributions.new_zeros(len(head.weight)) if head.bias is None else head.bias
    logits = network.forward_head(code[None])[0]
    return Explanation(
        logits, bias, contributions, code, head.weight, origins(network, x.shape[1]), tuple(traces), about.classes
    )


def origins(network: Network, channels: int) -> tuple[Row, ...]:
    """Return where each row of a network's last code comes from: [I D] hands on the rows before it.

    Args:
        network: the network.
        channels: of the image.
    """
    rows = tuple(Row(None, index) for index in range(channels))
    for number, layer in enumerate(network.pursuits()):
        D = layer.dictionary
        own = tuple(Row(number, index) for index in range(D.code_channels[-1]))
        rows = (*rows, *own) if isinstance(D, WithIdentity) else own
    return rows
