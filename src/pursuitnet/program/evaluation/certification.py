"""Certified accuracy: which share of the test images is right, and stays so inside a radius."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet.networks import Network, certify
from pursuitnet.networks.certified import UnitNorm

RADII = (0.0, 0.064, 36 / 255, 72 / 255, 108 / 255, 0.5, 1.0)
"""At which accuracy is told: 0.064 is that of supervised sparse coding (Sulam et al., 2020), n/255 those of CIFAR."""

FRAGILE = 8
"""How many of the images with the smallest radius are named."""


@dataclass(frozen=True)
class Certification:
    """What a certified network guarantees on labeled images; distances are ℓ₂.

    Attributes:
        units: of what images the radii are, in words.
        accuracy: pairs (radius, share of the images that are right and have a radius above it).
        radii: of every image, in order; 0 where it is taken for another class.
        fragile: the images that are right with the smallest radii, by their place, the most fragile first.
    """

    units: str
    accuracy: tuple[tuple[float, float], ...]
    radii: tuple[float, ...]
    fragile: tuple[int, ...]

    def at(self, radius: float) -> float:
        """Return the share of the images that are right and have a radius above this one."""
        return certified_share(torch.tensor(self.radii), radius)


def certification(
    model: Network,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    std: Tensor,
    radii: Sequence[float] = RADII,
) -> Certification:
    """Return the certified accuracy of a network.

    Args:
        model: a certified network, in evaluation mode.
        images: uint8 (N, C, H, W).
        labels: (N,).
        prepare: brings a batch of the images to what the network expects.
        std: what prepare divides the channels of images in [0, 1] by, (C,).
        radii: at which the accuracy is told.

    Raises:
        ValueError: for a network whose radii cannot be certified, with the reason.
    """
    x, units = prepare(images), "images in [0, 1]"
    scale = float(std.min())  # ‖δ‖ in [0, 1] is at least this times ‖δ‖ as the network sees it
    first = next(model.features.children(), None)
    if isinstance(first, UnitNorm):
        with torch.no_grad():
            x, units, scale = first(x.double()), "images of zero mean and unit norm", 1.0
    found = certify(model, x)
    right = found.labels == labels
    kept = torch.where(right, scale * found.radii, 0.0).cpu()
    order = kept.masked_fill(~right.cpu(), torch.inf).argsort(stable=True)[: min(FRAGILE, int(right.sum()))]
    shares = tuple(
        (radius, float(right.double().mean()) if not radius else certified_share(kept, radius)) for radius in radii
    )
    return Certification(units, shares, tuple(kept.tolist()), tuple(order.tolist()))


def certified_share(radii: Tensor, radius: float) -> float:
    """Return the share of the radii that are above one."""
    return float((radii > radius).double().mean())
