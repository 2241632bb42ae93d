"""The curves of the white-box page: accuracy and gap by number of steps."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pursuitnet.program.report.pictures import COOL, INK, SOFT, WARM, inline
from pursuitnet.program.whitebox.layers import Layer
from pursuitnet.program.whitebox.unfolding import AtSteps

Line = Sequence[float | None]


def curves(layers: Sequence[Layer], steps: Sequence[AtSteps]) -> str:
    """Return up to three panels as an SVG element: accuracy, gaps of the network, gaps after further steps."""
    panels: list[Any] = []
    if any(at.accuracy is not None for at in steps):
        panels.append(lambda axes: _accuracy(axes, steps))
    if len(steps) > 1:
        panels.append(lambda axes: _network(axes, steps))
    panels.append(lambda axes: _further_steps(axes, layers))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves", "font.size": 9.5}):
        figure = Figure(figsize=(10.5, 3.1), layout="constrained")
        figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
        for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes)
            _style_axes(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return inline(text.getvalue())


def median(values: Line) -> float | None:
    """Return the median of the values that are not None."""
    known = sorted(v for v in values if v is not None)
    middle = len(known) // 2
    return None if not known else (known[middle] + known[-1 - middle]) / 2


def _accuracy(axes: Axes, steps: Sequence[AtSteps]) -> None:
    _line(axes, [at.accuracy for at in steps], WARM)
    axes.set_title("test accuracy", loc="left", color=INK, fontsize=10.5)
    _mark_trained(axes, steps)


def _network(axes: Axes, steps: Sequence[AtSteps]) -> None:
    for layer in zip(*(at.gaps for at in steps), strict=True):
        _thin_line(axes, layer)
    _line(axes, [at.gap for at in steps], WARM)
    axes.set_title("gap of the layers", loc="left", color=INK, fontsize=10.5)
    _mark_trained(axes, steps)


def _further_steps(axes: Axes, layers: Sequence[Layer]) -> None:
    gaps = [layer.solving.gap for layer in layers]
    for layer in gaps:
        _thin_line(axes, layer)
    _line(axes, [median(values) for values in zip(*gaps, strict=True)], COOL)
    axes.set_title("gap of each layer after further steps", loc="left", color=INK, fontsize=10.5)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("further steps from the layer's code", color=INK)


def _mark_trained(axes: Axes, steps: Sequence[AtSteps]) -> None:
    """Set the range of the axes and mark the number of steps of the training."""
    axes.set_ylim(bottom=0)
    axes.set_xlabel("unfolding", color=INK)
    for at in steps:
        if at.trained:
            axes.axvline(at.unfolding, color=SOFT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
            axes.text(at.unfolding, 0.02, " as trained", color=INK, fontsize=8.5, transform=axes.get_xaxis_transform())


def _line(axes: Axes, values: Line, color: str) -> None:
    axes.plot(range(len(values)), _floats(values), color=color, marker="o", markersize=3.6, linewidth=1.8, zorder=3)


def _thin_line(axes: Axes, values: Line) -> None:
    axes.plot(range(len(values)), _floats(values), color=SOFT, linewidth=1.0)


def _floats(values: Line) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _style_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelcolor=INK, which="both")
    axes.grid(axis="y", color=SOFT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
