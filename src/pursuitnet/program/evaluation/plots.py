"""An evaluation as a figure: reliability diagram, confusion matrix, and accuracy on corrupted images."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter

from pursuitnet.program.evaluation.corruptions import SEVERITIES
from pursuitnet.program.evaluation.measures import Evaluation
from pursuitnet.program.evaluation.robustness import Robustness

WARM, COOL, SOFT = "#c2410c", "#1d4ed8", "#8a8a8a"
NAMED = 20
"""Most classes whose names fit next to the matrix."""


def plot_evaluation(title: str, evaluation: Evaluation, robust: Robustness | None = None) -> Figure:
    """Return the figure of an evaluation, with the robustness below it if that was tested."""
    figure = Figure(figsize=(11, 5 if robust is None else 8.4), layout="constrained")
    figure.suptitle(
        f"{title}: {100 * evaluation.top1:.2f} % of {evaluation.images} test images", x=0.01, ha="left", fontsize=12
    )
    areas = figure.subfigures(1 if robust is None else 2, 1, squeeze=False, height_ratios=[5, 3.4][: 1 + bool(robust)])
    left, right = areas[0, 0].subplots(1, 2)
    _reliability(left, evaluation)
    _confusion(right, evaluation)
    if robust is not None:
        _robustness(areas[1, 0], robust)
    return figure


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    """Draw accuracy over confidence; darker bars stand for more images."""
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1)
    most = max(b.count for b in evaluation.bins)
    for b in evaluation.bins:
        if b.accuracy is not None and b.confidence is not None:
            strength = 0.25 + 0.75 * b.count / most
            axes.bar(b.lower, b.accuracy, b.upper - b.lower, align="edge", color=COOL, alpha=strength, edgecolor="w")
            axes.plot(b.confidence, b.accuracy, "o", color=WARM, markersize=4, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"calibration, ECE {100 * evaluation.ece:.2f} %", loc="left", fontsize=10.5)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)


def _confusion(axes: Axes, evaluation: Evaluation) -> None:
    """Draw the fraction of each class predicted as each class, with errors on a color scale of their own.

    The scale ends at a fifth of a class at least, so that few errors stay pale.
    """
    counts = np.array(evaluation.confusion, dtype=float)
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    right = np.eye(len(share), dtype=bool)
    most = share[~right].max() if len(share) > 1 else 0.0
    axes.imshow(np.where(right, np.nan, share), cmap="Oranges", vmin=0, vmax=max(most, 0.2))
    axes.imshow(np.where(right, share, np.nan), cmap="Blues", vmin=0, vmax=1.6)
    if len(share) <= NAMED:
        ticks = range(len(share))
        axes.set_xticks(
            ticks, evaluation.classes, rotation=60 if max(map(len, evaluation.classes)) > 2 else 0, fontsize=8
        )
        axes.set_yticks(ticks, evaluation.classes, fontsize=8)
        for i, j in np.argwhere(counts > 0):
            dark = i != j and share[i, j] > 0.6 * max(most, 0.2)
            axes.text(j, i, f"{int(counts[i, j])}", ha="center", va="center", fontsize=7, color="w" if dark else "0.15")
    axes.set(xlabel="predicted", ylabel="true class")
    axes.set_title(f"confusions, at most {100 * most:.1f} % of a class", loc="left", fontsize=10.5)


def _robustness(area: SubFigure, robust: Robustness) -> None:
    axes = area.subplots(1, len(robust.rows), sharey=True, squeeze=False)[0]
    for axis, row in zip(axes, robust.rows, strict=True):
        axis.axhline(robust.clean.mean, color=SOFT, linewidth=1, linestyle="--")
        axis.plot(SEVERITIES, row.accuracy, "o-", color=WARM, markersize=3.5, label="as trained")
        if row.adapted is not None:
            axis.plot(SEVERITIES, row.adapted, "o-", color=COOL, markersize=3.5, label="adapted")
        axis.set_title(row.name.replace("_", " "), loc="left", fontsize=9.5)
        axis.set_xticks(SEVERITIES)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        axis.spines[["top", "right"]].set_visible(False)
    most = max(max(row.accuracy + (row.adapted or ())) for row in (robust.clean, *robust.rows))
    axes[0].set(xlabel="strength", ylabel="accuracy (dashed: clean)", ylim=(0, 1.04 * max(most, 0.01)))
    if robust.adapted_mean is not None:
        axes[0].legend(frameon=False, fontsize=8)
