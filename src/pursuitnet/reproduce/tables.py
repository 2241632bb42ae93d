"""Tables from the ledger, and from nothing else."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pursuitnet.recipe import Recipe
from pursuitnet.reproduce.cells import TITLES, Cell
from pursuitnet.reproduce.ledger import Entry, identity


@dataclass(frozen=True)
class Filled:
    """A cell and its records.

    Attributes:
        cell: of the table.
        records: one for each seed that was run.
    """

    cell: Cell
    records: tuple[Entry, ...]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of the last epoch, in per cent, of every seed."""
        return [100 * record["epochs"][-1]["test_accuracy"] for record in self.records]

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.accuracies) if len(self.records) > 1 else None


def filled(cells: Iterable[Cell], entries: Iterable[Entry]) -> list[Filled]:
    """Return the cells with their records, in the order of the cells.

    Raises:
        ValueError: if two records of one data set were made from different data.
    """
    by: dict[str, list[Entry]] = defaultdict(list)
    sums: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        recipe = Recipe.from_json(entry["recipe"])
        by[str(identity(replace(recipe, seed=0)))].append(entry)
        sums[recipe.data].add(entry["data"])
    if mixed := [name for name, found in sums.items() if len(found) > 1]:
        raise ValueError(f"the ledger has records of different versions of {', '.join(mixed)}; keep those of one")
    return [Filled(cell, tuple(by[str(identity(cell.recipe))])) for cell in cells]


def markdown(rows: Sequence[Filled]) -> str:
    """Return the table, the methods of each data set below each other, beside the paper's numbers."""
    lines = [
        "| data | method | layers | unfolding | n | accuracy, last epoch | paper | difference | parameters | GFLOPs | "
        "images/s | on |",
        "|" + "---|" * 12,
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: Filled) -> str:
    cell = row.cell
    head = f"| {TITLES.get(cell.recipe.data, cell.recipe.data)} | {cell.method} | {cell.layers} | {cell.unfolding} "
    paper = "–" if cell.paper is None else f"{cell.paper:.2f}"
    if not row.records:
        return head + f"| 0 | not run | {paper} | – | – | – | – | – |"
    first = row.records[0]
    speed = statistics.median(e["images_per_second"] for e in first["epochs"])
    numbers = f"{first['parameters']:,} | {first['flops_per_image'] / 1e9:.3f} | {speed:.0f} | {first['machine']}"
    spread = "" if row.deviation is None else f" ± {row.deviation:.2f}"
    return head + f"| {len(row.records)} | {row.mean:.2f}{spread} | {paper} | {difference(row)} | {numbers} |"


def difference(row: Filled) -> str:
    """Return the distance from the paper's number, and whether it is beyond the noise of the seeds.

    Beyond is more than two standard deviations of a single run, since the paper's number is a single run.
    """
    if row.cell.paper is None:
        return "–"
    off = row.mean - row.cell.paper
    if row.deviation is None:
        return f"{off:+.2f}"
    noise = 2 * row.deviation * (1 + 1 / len(row.records)) ** 0.5
    return f"{off:+.2f}, {'beyond' if abs(off) > noise else 'within'} noise"


def numbers(rows: Sequence[Filled]) -> list[dict[str, Any]]:
    """Return the table for JSON."""
    return [
        {
            "data": row.cell.recipe.data,
            "method": row.cell.method,
            "layers": row.cell.layers,
            "unfolding": row.cell.unfolding,
            "n": len(row.records),
            "accuracies": row.accuracies,
            "paper": row.cell.paper,
            "keys": [record["key"] for record in row.records],
        }
        for row in rows
    ]
