"""Certified accuracy as a figure: the curve over the radius, and the images with the smallest radii."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from pursuitnet.program.evaluation.certification import FRAGILE, Certification
from pursuitnet.program.evaluation.plots import COOL, SOFT, WARM


def plot_certification(title: str, certification: Certification, fragile: Tensor) -> Figure:
    """Return the figure.

    Args:
        title: network and data set.
        certification: what to plot.
        fragile: the images of ``certification.fragile``, uint8 (n, C, H, W).
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(f"{title}: certified accuracy", x=0.01, ha="left", fontsize=12)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[3, 2])[0]
    draw_curve(left.subplots(), certification)
    right.suptitle("correct, with the smallest radii", x=0.02, ha="left", fontsize=10.5)
    places = right.subplots(2, FRAGILE // 2, squeeze=False).flat
    for axes in places:
        axes.set_axis_off()
    for axes, index, image in zip(places, certification.fragile, fragile, strict=False):
        axes.imshow(image.permute(1, 2, 0).squeeze(2) if len(image) == 1 else image.permute(1, 2, 0), cmap="gray")
        axes.set_title(f"{index}: {certification.radii[index]:.2g}", fontsize=9)
    return figure


def draw_curve(
    axes: Axes, certification: Certification, line: str = COOL, points: str = WARM, clean: str = SOFT
) -> None:
    """Draw the fraction that is correct and certified over the radius, with the values at the listed radii.

    Args:
        axes: where to draw.
        certification: what to draw.
        line: color of the curve.
        points: color of the values at the listed radii.
        clean: color of the accuracy on the images themselves, a dashed line.
    """
    radii = np.sort(certification.radii)
    fraction = 1 - np.arange(1, len(radii) + 1) / len(radii)
    axes.step(np.concatenate([[0], radii]), np.concatenate([[(radii > 0).mean()], fraction]), where="post", color=line)
    shown = [(radius, accuracy) for radius, accuracy in certification.accuracy if radius <= max(radii[-1], 0.1)]
    for radius, accuracy in shown:
        axes.plot(radius, accuracy, "o", color=points, markersize=4)
        axes.annotate(f"{100 * accuracy:.1f} %", (radius, accuracy), (4, 4), textcoords="offset points", fontsize=8)
    axes.axhline(certification.accuracy[0][1], color=clean, linewidth=1, linestyle="--")
    axes.set(xlim=(0, None), ylim=(0, 1.04), xlabel=f"ℓ₂ radius, {certification.units}", ylabel="correct and certified")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
