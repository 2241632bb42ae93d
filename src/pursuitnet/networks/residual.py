"""The residual networks of Table II, four starts at 6n+2 layers, and three more starts that are not in the paper."""

from itertools import pairwise
from typing import Literal

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
from pursuitnet.starts import AnyStart, LearnedStart
from pursuitnet.utils.limits import check_weights

CORNERS = {start.name: start for start in (starts.zero, starts.resnet, starts.res_csc_simplified, starts.res_csc)}
"""The initial values of a learned start."""


class ResidualBlock(nn.Module):
    """Two layers: Eq. 3, then Eq. 5 with X₋₁ the block's input, as ``start`` uses it (Fig. 3).

    Where the stage changes, X₋₁ is subsampled and padded with zero channels (no parameters).
    """

    def __init__(
        self,
        in_channels: int,
        atoms: int,
        start: AnyStart,
        c: float | None,
        norm: BatchNorm | None,
        scale: float,
    ) -> None:
        super().__init__()
        self.stride, self.new_channels = (1 if in_channels == atoms else 2), atoms - in_channels
        self.first = residual_layer(in_channels, atoms, self.stride, norm=norm)
        self.second = residual_layer(atoms, atoms, start=start, c=c if start.probed else None, norm=norm, scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), previous=self._shortcut(x) if self.second.start.needs_previous else None)

    def _shortcut(self, x: Tensor) -> Tensor:
        if not self.new_channels:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class MomentumBlocks(nn.Module):
    """Residual blocks that start at X₋₁ + k·(X₋₂ − X₋₁) instead of X₋₁, with X₋₂ the input of the previous block.

    Args:
        blocks: in order.
        weights: k of every block: None to learn it from 0, as in LM-ResNet (Lu et al., Beyond finite layer neural
            networks, 2018); or fixed numbers, such as −(tₙ − 1)/tₙ₊₁, FISTA's extrapolation.
    """

    fixed: Tensor

    def __init__(self, blocks: list[ResidualBlock], weights: list[float] | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.learned = nn.ParameterList([torch.zeros(1) for _ in blocks if weights is None])
        self.register_buffer("fixed", torch.tensor(weights or []), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last code; the first block, which has no X₋₂, starts at X₋₁."""
        before, weights = x, self.learned or self.fixed
        for block, k in zip(self._each(), weights, strict=True):
            here, there = block._shortcut(x), block._shortcut(before)
            start = here + k.to(x.dtype) * (there - here)
            # where the stage changes, X₋₂ of the next block has the new shape already
            x, before = block.second(block.first(x), previous=start), here
        return x

    def _each(self) -> list[ResidualBlock]:
        return [block for block in self.blocks if isinstance(block, ResidualBlock)]


def fista_weights(blocks: int) -> list[float]:
    """Return −(tₙ − 1)/tₙ₊₁ of FISTA for n = 1, 2, …; the first is 0."""
    t, weights = 1.0, []
    for _ in range(blocks):
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        weights.append(-(t - 1) / after)
        t = after
    return weights


def residual(
    depth: int,
    start: AnyStart | type[LearnedStart],
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    norm: str | None = "batch",
    c: float = 0.0,
    recall: Literal["learned", "fista"] | None = None,
    corner: str = "res_csc",
) -> Network:
    """Build the plain, ResNet, Res-CSC-Simplified or Res-CSC network of 6n+2 layers (Table II).

    Args:
        depth: 6n+2: a first layer, three stages of n blocks of two layers, the head.
        start: the start of the second layer of each block, or LearnedStart for a separate one in each block.
        num_classes: size of the output; 0 leaves the head out.
        in_chans: channels of the image.
        width: channels of the first stage; the others have twice and four times as many.
        norm: "batch" normalizes Dᵀ(x + c·D·X₋₁) before X₋₁ is added, "whole" the sum with X₋₁; None has a free bias
            instead.
        c: initial value of the learned c of Eq. 5; at 0 Res-CSC is ResNet.
        corner: initial value of a learned start: "zero", "resnet", "res_csc_simplified" or "res_csc".
        recall: start at X₋₁ + k·(X₋₂ − X₋₁), with k learned, or that of FISTA's momentum (``MomentumBlocks``).
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"a residual network of {depth} layers does not exist; expected 6n+2: 8, 14, 20, 26, 32, …")
    spec = RESIDUAL_NORMS[known("norm", norm, RESIDUAL_NORMS)]
    check_weights(width * (63 * depth * width + 9 * in_chans + 4 * num_classes), width)
    widths = [width, *(width * 2**stage for stage in range(3) for _ in range(depth // 6))]
    # The sum of all blocks' updates has the size of X₋₁ itself, so that hundreds of layers learn from the first epoch.
    begin = CORNERS[known("corner", corner, CORNERS)] if isinstance(start, type) else start
    own = [start(begin.anchored, begin.probed) if isinstance(start, type) else start for _ in widths[1:]]
    scale = (len(widths) - 1) ** -0.5 if begin.anchored else 1.0
    blocks = [ResidualBlock(a, b, at, c, spec, scale) for at, (a, b) in zip(own, pairwise(widths), strict=True)]
    first = residual_layer(in_chans, width, norm=spec)
    if recall is None:
        return Network(nn.Sequential(first, *blocks), widths[-1], num_classes)
    weights = fista_weights(len(blocks)) if recall == "fista" else None
    return Network(nn.Sequential(first, MomentumBlocks(blocks, weights)), widths[-1], num_classes)


def residual_layer(
    in_channels: int,
    atoms: int,
    stride: int = 1,
    *,
    start: AnyStart = starts.zero,
    c: float | None = None,
    norm: BatchNorm | None = None,
    scale: float = 1.0,
) -> PursuitLayer:
    """Return a layer of He-initialized 3 × 3 filters with c absorbed in them: Eq. 3, or Eq. 5 for another start."""
    weight = nn.init.kaiming_normal_(torch.empty(atoms, in_channels, 3, 3), mode="fan_out", nonlinearity="relu")
    threshold = Threshold((atoms,), None if norm else 0.0, free=True, norm=norm)
    for parameter in threshold.scales():
        nn.init.constant_(parameter, scale)
    dictionary = ConvDictionary(weight, stride=stride, padding=1)
    return PursuitLayer(dictionary, start, step=AbsorbedStep(c), threshold=threshold)
