"""Certified accuracy: the fraction of test images that are classified correctly, also anywhere inside a radius."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet.networks import Network, certify
from pursuitnet.networks.certified import UnitNorm

RADII = (0.0, 0.064, 36 / 255, 72 / 255, 108 / 255, 0.5, 1.0)
"""Radii of the accuracy: 0.064 is that of supervised sparse coding (Sulam et al., 2020), n/255 are usual for CIFAR."""

FRAGILE = 8
"""Number of images with the smallest radius to list."""


@dataclass(frozen=True)
class Certification:
    """What a certified network guarantees on labeled images; distances are ℓ₂.

    Attributes:
        units: description of the images that the radii refer to.
        accuracy: pairs (radius, fraction of images that are classified correctly and have a larger radius).
        radii: of every image, in order; 0 if it is misclassified.
        fragile: indices of the correctly classified images with the smallest radii, the smallest first.
    """

    units: str
    accuracy: tuple[tuple[float, float], ...]
    radii: tuple[float, ...]
    fragile: tuple[int, ...]

    def at(self, radius: float) -> float:
        """Return the fraction of images that are classified correctly and have a radius above this one."""
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
        prepare: turns a batch of the images into input of the network.
        std: by which prepare divides the channels of images in [0, 1], (C,).
        radii: at which the accuracy is computed.

    Raises:
        ValueError: for a network whose radii cannot be certified, with the reason.
    """
    x, units = prepare(images), "images in [0, 1]"
    scale = float(std.min())  # ‖δ‖ in [0, 1] is at least this times ‖δ‖ of the network's input
    first = next(model.features.children(), None)
    if isinstance(first, UnitNorm):
        with torch.no_grad():
            x, units, scale = first(x.double()), "images of zero mean and unit norm", 1.0
    certified = certify(model, x)
    right = certified.labels == labels
    certified_radii = torch.where(right, scale * certified.radii, 0.0).cpu()
    order = certified_radii.masked_fill(~right.cpu(), torch.inf).argsort(stable=True)[: min(FRAGILE, int(right.sum()))]
    shares = tuple(
        (radius, float(right.double().mean()) if not radius else certified_share(certified_radii, radius))
        for radius in radii
    )
    return Certification(units, shares, tuple(certified_radii.tolist()), tuple(order.tolist()))


def certified_share(radii: Tensor, radius: float) -> float:
    """Return the fraction of the radii that are above ``radius``."""
    return float((radii > radius).double().mean())
