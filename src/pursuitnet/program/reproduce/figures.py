"""Figs. 7 and 8 from the ledger: test accuracy against epochs."""

import statistics
import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pursuitnet.program.reproduce.cells import DATA, SEEDS, TITLES
from pursuitnet.program.reproduce.tables import CellResult

COLORS = ("#c2410c", "#1d4ed8", "#047857", "#a16207", "#7c3aed", "#0e7490", "#be185d", "#52525b", "#65a30d", "#0f172a")
Panel = tuple[str, Callable[[CellResult], bool]]

PANELS: dict[str, tuple[Panel, ...]] = {
    "fig7": (
        ("A: the four starts", lambda row: row.cell.layers == 56 or row.cell.method == "plain"),
        ("B: Res-CSC by depth", lambda row: row.cell.method == "Res-CSC"),
        ("C: Res-CSC and ResNet", lambda row: row.cell.method in ("Res-CSC", "ResNet") and row.cell.layers >= 56),
    ),
    "fig8": (
        ("A: MSD-CSC by unfolding", lambda row: _fista(row)),
        ("B: MSD-CSC and others", lambda row: not _fista(row) or row.cell.unfolding == 2),
    ),
}
FEW: dict[str, tuple[Panel, ...]] = {
    "fig7": (
        ("A: the four starts, 20 layers", lambda row: row.cell.layers == 20),
        ("B: 20 and 56 layers", lambda row: row.cell.method in ("plain", "ResNet", "Res-CSC")),
    ),
    "fig8": (
        ("A: MSD-CSC by unfolding", lambda row: row.cell.method.startswith("MSD")),
        ("B: ML-CSC by unfolding", lambda row: row.cell.method.startswith(("ML", "feed"))),
    ),
}


def _fista(row: CellResult) -> bool:
    """Return whether this is MSD-CSC by FISTA, which equals ISTA below two further steps, or MSDNet, without any."""
    cell = row.cell
    return cell.layers == 12 and (cell.unfolding < 2 or cell.method == "MSD-CSC, FISTA")


def draw(name: str, scale: str, rows: Sequence[CellResult], note: str) -> Figure:
    """Plot a figure: one line of panels for each data set of the rows.

    Args:
        name: fig7 or fig8.
        scale: of its cells; of a scale that has few networks, the panels are similar ones of these.
        rows: its cells, with or without runs.
        note: on how they were run.
    """
    sets = [data for data in DATA if any(row.cell.recipe.data == data for row in rows)]
    panels = (FEW if scale in SEEDS else PANELS)[name]
    figure = Figure(figsize=(4.6 * len(panels), 3.4 * len(sets) + 0.4), layout="constrained")
    grid = figure.subplots(len(sets), len(panels), squeeze=False)
    for data, line in zip(sets, grid, strict=True):
        for axes, (title, belongs) in zip(line, panels, strict=True):
            _panel(axes, [row for row in rows if row.cell.recipe.data == data and belongs(row)])
            axes.set_title(f"{TITLES[data]}, {title}", fontsize=10, loc="left")
    figure.supxlabel(textwrap.fill(note, 65 * len(panels)), fontsize=8.5, color="0.35")
    return figure


def _panel(axes: Axes, rows: Sequence[CellResult]) -> None:
    """Plot the mean over seeds and their range; cells without a result are listed in the legend."""
    for color, row in zip(COLORS, rows, strict=False):
        if not row.ended:
            axes.plot([], [], color=color, linestyle=":", label=f"{row.cell.name}: {row.summary}")
            continue
        curves = [[100 * epoch["test_accuracy"] for epoch in record["epochs"]] for record in row.ended]
        epochs = range(1, len(curves[0]) + 1)
        by_epoch = list(zip(*curves, strict=True))
        axes.plot(epochs, [statistics.mean(a) for a in by_epoch], color=color, linewidth=1.4, label=row.cell.name)
        axes.fill_between(
            epochs, [min(a) for a in by_epoch], [max(a) for a in by_epoch], color=color, alpha=0.15, linewidth=0
        )
    axes.set_xlabel("epoch", fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("test accuracy, %", fontsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
