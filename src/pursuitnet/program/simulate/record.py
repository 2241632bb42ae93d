"""The results of a figure: its numbers, its plots, and the versions that made them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pursuitnet.program.versions import versions
from pursuitnet.program.writable import write_picture, write_whole

PLAIN, DENSE, SOFT = "#c2410c", "#1d4ed8", "#8a8a8a"
"""The colors of D alone (ML-CSC), of [I D] (MSD-CSC), and of references."""


@dataclass(frozen=True)
class Result:
    """The results of one figure.

    Attributes:
        name: of the files.
        numbers: every choice and every value, for JSON.
        pictures: plots by the name of their file.
        text: what the program prints.
    """

    name: str
    numbers: dict[str, Any]
    pictures: dict[str, Figure]
    text: str


def write(result: Result, folder: Path) -> list[Path]:
    """Write NAME.json and the PNGs into a new folder and return their paths.

    Raises:
        FileExistsError: if the folder exists.
    """
    folder.mkdir(parents=True)
    numbers = json.dumps(result.numbers | {"versions": versions("matplotlib")}, separators=(",", ":")) + "\n"
    pictures = [write_picture(folder / f"{name}.png", figure) for name, figure in result.pictures.items()]
    return [write_whole(folder / f"{result.name}.json", numbers), *pictures]


def caption(figure: Figure, text: str) -> None:
    """Write a caption under a figure and reserve the space for it."""
    share = (0.17 * (text.count("\n") + 1) + 0.12) / figure.get_size_inches()[1]
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))  # type: ignore[union-attr, call-arg]
    figure.text(0.01, share - 0.01, text, fontsize=8.5, color="0.35", va="top")


def hide_spines(*axes: Axes) -> None:
    """Remove the upper and the right spine."""
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
