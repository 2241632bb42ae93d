"""The residual networks of Table II: four starts at 6n+2 layers."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet import starts
from pursuitnet.dictionaries import ConvDictionary
from pursuitnet.layer import PursuitLayer
from pursuitnet.networks.choices import RESIDUAL_NORMS, known
from pursuitnet.networks.network import Network
from pursuitnet.prox.norms import BatchNorm
from pursuitnet.prox.step_size import AbsorbedStep
from pursuitnet.prox.threshold import Threshold
from pursuitnet.starts import Start
from pursuitnet.utils.limits import check_weights


class ResidualBlock(nn.Module):
    """Two layers: Eq. 3, then Eq. 5 from X₋₁ = the block's input, as far as ``start`` takes it (Fig. 3).

    Where the stage changes, X₋₁ is subsampled and padded with zero channels (no parameters).
    """

    def __init__(
        self, in_channels: int, atoms: int, start: Start, c: float | None, norm: BatchNorm | None, scale: float
    ) -> None:
        super().__init__()
        self.stride, self.more = (1 if in_channels == atoms else 2), atoms - in_channels
        self.first = residual_layer(in_channels, atoms, self.stride, norm=norm)
        self.second = residual_layer(atoms, atoms, start=start, c=c if start.probed else None, norm=norm, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), previous=self._shortcut(x) if self.second.start.needs_previous else None)

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.more:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))


def residual(
    depth: int,
    start: Start,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    norm: str | None = "batch",
    c: float = 0.0,
) -> Network:
    """Build the plain, ResNet, Res-CSC-Simplified or Res-CSC network of 6n+2 layers (Table II).

    Args:
        depth: 6n+2: a first layer, three stages of n blocks of two layers, the head.
        start: where the second layer of each block starts.
        num_classes: size of the output; 0 leaves the head out.
        in_chans: channels of the image.
        width: channels of the first stage; the others have twice and four times as many.
        norm: "batch" normalizes Dᵀ(x + c·D·X₋₁) before X₋₁ is added, "whole" the sum with X₋₁; None leaves a free
            bias in its place.
        c: the start of the learned c of Eq. 5; at 0 Res-CSC is ResNet.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"a residual network of {depth} layers does not exist; expected 6n+2: 8, 14, 20, 26, 32, …")
    spec = RESIDUAL_NORMS[known("norm", norm, RESIDUAL_NORMS)]
    check_weights(width * (63 * depth * width + 9 * in_chans + 4 * num_classes), width)
    widths = [width, *(width * 2**stage for stage in range(3) for _ in range(depth // 6))]
    # What n blocks add to X₋₁ has the size of X₋₁ itself, so that hundreds of layers start to learn at once.
    scale = (len(widths) - 1) ** -0.5 if start.anchored else 1.0
    blocks = [ResidualBlock(a, b, start, c, spec, scale) for a, b in pairwise(widths)]
    first = residual_layer(in_chans, width, norm=spec)
    return Network(nn.Sequential(first, *blocks), widths[-1], num_classes)


def residual_layer(
    in_channels: int,
    atoms: int,
    stride: int = 1,
    *,
    start: Start = starts.zero,
    c: float | None = None,
    norm: BatchNorm | None = None,
    scale: float = 1.0,
) -> PursuitLayer:
    """Return a 3 × 3 layer of He-initialized filters with c absorbed in them: Eq. 3, or Eq. 5 by ``start``."""
    weight = nn.init.kaiming_normal_(torch.empty(atoms, in_channels, 3, 3), mode="fan_out", nonlinearity="relu")
    threshold = Threshold((atoms,), None if norm else 0.0, free=True, norm=norm)
    for parameter in threshold.scales():
        nn.init.constant_(parameter, scale)
    dictionary = ConvDictionary(weight, stride=stride, padding=1)
    return PursuitLayer(dictionary, start, step=AbsorbedStep(c), threshold=threshold)
