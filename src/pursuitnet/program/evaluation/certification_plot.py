"""Certified accuracy as a picture: the curve over the radius, and the most fragile images."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pursuitnet.program.evaluation.certification import FRAGILE, Certification
from pursuitnet.program.evaluation.plots import COOL, SOFT, WARM


def drawn(title: str, found: Certification, fragile: Tensor) -> Figure:
    """Return the picture.

    Args:
        title: which network on which data.
        found: what is certified.
        fragile: the images that ``found.fragile`` names, uint8 (n, C, H, W).
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(f"{title}: certified accuracy", x=0.01, ha="left", fontsize=12)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[3, 2])[0]
    _curve(left.subplots(), found)
    right.suptitle("right, with the smallest radii", x=0.02, ha="left", fontsize=10.5)
    places = right.subplots(2, FRAGILE // 2, squeeze=False).flat
    for axes in places:
        axes.set_axis_off()
    for axes, index, image in zip(places, found.fragile, fragile, strict=False):
        axes.imshow(image.permute(1, 2, 0).squeeze(2) if len(image) == 1 else image.permute(1, 2, 0), cmap="gray")
        axes.set_title(f"{index}: {found.radii[index]:.2g}", fontsize=9)
    return figure


def _curve(axes: Axes, found: Certification) -> None:
    """Draw the share that is right and certified over the radius, with the radii at which it is told."""
    radii, clean = np.sort(found.radii), found.accuracy[0][1]
    share = 1 - np.arange(1, len(radii) + 1) / len(radii)
    axes.step(np.concatenate([[0], radii]), np.concatenate([[(radii > 0).mean()], share]), where="post", color=COOL)
    shown = [(radius, accuracy) for radius, accuracy in found.accuracy if radius <= max(radii[-1], 0.1)]
    for radius, accuracy in shown:
        axes.plot(radius, accuracy, "o", color=WARM, markersize=4)
        axes.annotate(f"{100 * accuracy:.1f} %", (radius, accuracy), (4, 4), textcoords="offset points", fontsize=8)
    axes.axhline(clean, color=SOFT, linewidth=1, linestyle="--")
    axes.set(xlim=(0, None), ylim=(0, 1.04), xlabel=f"ℓ₂ radius, {found.units}", ylabel="right and certified")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
