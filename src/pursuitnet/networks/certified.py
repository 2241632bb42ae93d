"""Networks that are 1-Lipschitz layer by layer, so that a margin of the logits is a radius around the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.dictionaries import ConvDictionary, ScaledDictionary
from pursuitnet.dictionaries.inputs import check_count
from pursuitnet.layer import PursuitLayer
from pursuitnet.networks.network import Network
from pursuitnet.prox.step_size import BoundedStep
from pursuitnet.prox.threshold import Threshold
from pursuitnet.utils.limits import check_number, check_weights

SMALLEST = 1e-6
"""Images whose deviation from their mean has a smaller norm are not scaled to unit norm."""


class Reflect(nn.Module):
    """x ↦ x − 2·D·Γ(x), the reflected proximal operator of a layer (``PursuitLayer.reflect``).

    Raises:
        ValueError: for a layer for which that need not be 1-Lipschitz. If it is given more steps later, to look at what
            they would do, it is ``certify`` that refuses.
    """

    def __init__(self, layer: PursuitLayer) -> None:
        super().__init__()
        if why := layer.why_not_nonexpansive():
            raise ValueError(f"x − 2·D·Γ of this layer is not certified to be 1-Lipschitz: {why}")
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x - 2 * self.layer.reconstruct(self.layer(x), x.shape)


class UnitNorm(nn.Module):
    """Every image by itself to zero mean and unit norm, as in the certificates of sparse coding."""

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(dim=(1, 2, 3), keepdim=True)
        return centered / centered.flatten(1).norm(dim=1).clamp(min=SMALLEST).view(-1, 1, 1, 1)


class Center(nn.Module):
    """Subtracts the mean of each channel: that of the batch in training, the running mean in evaluation.

    Batch normalization without the division, whose Lipschitz constant is not known in advance.
    """

    mean: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.mean.view(-1, 1, 1)
        mean = x.mean(dim=(0, 2, 3))
        with torch.no_grad():
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
        return x - mean.view(-1, 1, 1)


class PadChannels(nn.Module):
    """Appends zero channels: an isometry."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.more))


class Downsample(nn.Module):
    """Maps every 2 × 2 pixels to four channels: an isometry. Odd sizes are padded by a row or column of zeros first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)), 2)


class UnitLinear(nn.Linear):
    """A linear map whose rows are divided by their norm."""

    def unit_weight(self) -> Tensor:
        """Return the rows with norm 1, (classes, features)."""
        return F.normalize(self.weight, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.unit_weight(), self.bias)


class CertifiedNetwork(Network):
    """1-Lipschitz features, pooling by Σ/√(h·w), and a linear map with unit rows; see ``certify``.

    Args:
        features: (B, in_chans, H, W) → (B, num_features, h, w), of the modules of this file.
        num_features: channels of the last map.
        num_classes: size of the output; 0 leaves the head out.
    """

    head: UnitLinear | nn.Identity

    def __init__(self, features: nn.Sequential, num_features: int, num_classes: int) -> None:
        super().__init__(features, num_features, num_classes)
        self.head = UnitLinear(num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, num_classes), or pooled features (B, num_features) where there is no head."""
        return self.head(self.pooled(self.forward_features(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """Return Σ/√(h·w) of each channel: the coordinate along the constant maps, of norm 1."""
        return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3]) ** 0.5


def certified(
    depth: int,
    *,
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 8,
    unit_norm: bool = False,
    downsamples: int = 1,
) -> CertifiedNetwork:
    """Build a network of reflected proximal operators, with a certified radius for every image (``certify``).

    Three stages of depth/3 layers x ↦ x − 2·D·P_θ(Dᵀx) with 3 × 3 filters that are scaled to λmax(DᵀD) ≤ 1; between
    two stages, and ``downsamples`` times at the end, 2 × 2 pixels become four channels. β is zero, since every map is
    centered before its layer: a learned β grew beyond all correlations Dᵀx, which are small where images have norm 1,
    and the network became a linear one.

    Args:
        depth: a multiple of 3.
        num_classes: size of the output; 0 leaves the head out.
        in_chans: channels of the image.
        width: channels of the first stage, to which the image's are padded with zeros; the other stages have 4 and 16
            times as many.
        unit_norm: scale every image to zero mean and unit norm first.
        downsamples: how often 2 × 2 pixels become four channels after the last stage. The mean of a map is the only
            one of its h·w coordinates that reaches the head, so that margins are small where maps are large: images of
            8 pixels end at one pixel with 1, those of 28 and 32 with 3.
    """
    if depth < 3 or depth % 3:
        raise ValueError(f"a certified network of {depth} layers does not exist; expected a multiple of 3: 3, 6, 9, …")
    if width < in_chans:
        raise ValueError(f"width is {width}; expected at least the {in_chans} channels of the image")
    if not isinstance(unit_norm, bool):
        raise TypeError(f"unit_norm is {unit_norm!r}; expected True or False")
    check_count("downsamples", downsamples, 0, "how often 2 × 2 pixels become four channels after the last stage")
    check_number("downsamples", downsamples)
    channels = [width, 4 * width, 16 * width]
    num_features = 4**downsamples * channels[-1]
    check_weights(sum(9 * n * n * (depth // 3) for n in channels) + num_features * num_classes, width)
    features: list[nn.Module] = [UnitNorm()] if unit_norm else []
    features.append(PadChannels(width - in_chans))
    for stage, n in enumerate(channels):
        features += [Downsample()] if stage else []
        features += [part for _ in range(depth // 3) for part in (Center(n), _layer(n))]
    features += [Downsample() for _ in range(downsamples)]
    return CertifiedNetwork(nn.Sequential(*features), num_features, num_classes)


def _layer(channels: int) -> Reflect:
    """Return a layer whose filters are an orthogonal matrix in their middle, plus a third of noise.

    Nearly orthogonal atoms are hardly scaled down for λmax(DᵀD) ≤ 1, so that a new layer already does something. Quite
    orthogonal ones fold the image, x and −x alike, which the first layers of some seeds never undid.
    """
    weight = torch.randn(channels, channels, 3, 3) / (10 * channels**0.5)
    weight[:, :, 1, 1] += nn.init.orthogonal_(torch.empty(channels, channels))
    filters = ConvDictionary(weight, padding=1)
    step, threshold = BoundedStep(1.0, learned=False), Threshold((channels,), None)
    return Reflect(PursuitLayer(ScaledDictionary(filters), step=step, threshold=threshold))
