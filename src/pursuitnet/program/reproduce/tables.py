"""Tables from the ledger, and from nothing else."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.cells import TITLES, Cell
from pursuitnet.program.reproduce.ledger import Entry, identity
from pursuitnet.program.reproduce.statistics import LEVEL, Difference, holm


@dataclass(frozen=True)
class CellResult:
    """A cell and its records.

    Attributes:
        cell: of the table.
        records: one for each seed that was run.
    """

    cell: Cell
    records: tuple[Entry, ...]

    @property
    def ended(self) -> list[Entry]:
        """The records of the runs whose loss stayed a number."""
        return [record for record in self.records if "diverged" not in record]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of the last epoch, in per cent, of every seed that has one."""
        return [100 * record["epochs"][-1]["test_accuracy"] for record in self.ended]

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.accuracies) if len(self.ended) > 1 else None

    @property
    def said(self) -> str:
        """Mean ± standard deviation in per cent, or why there is none."""
        if not self.records:
            return "not run"
        lost = len(self.records) - len(self.ended)
        diverged = f"{lost} of {len(self.records)} diverged"
        if not self.ended:
            return diverged
        spread = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{spread}" + (f", {diverged}" if lost else "")


def cell_results(cells: Iterable[Cell], entries: Iterable[Entry]) -> list[CellResult]:
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
    return [CellResult(cell, tuple(by[str(identity(cell.recipe))])) for cell in cells]


def markdown(rows: Sequence[CellResult]) -> str:
    """Return the table, the methods of each data set below each other, beside the paper's numbers."""
    lines = [
        "| data | method | layers | unfolding | n | accuracy, last epoch | paper | difference | parameters | GFLOPs | "
        "images/s | on |",
        "|" + "---|" * 12,
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(row: CellResult) -> str:
    cell = row.cell
    head = f"| {TITLES.get(cell.recipe.data, cell.recipe.data)} | {cell.method} | {cell.layers} | {cell.unfolding} "
    paper = "–" if cell.paper is None else f"{cell.paper:.2f}"
    if not row.ended:
        return head + f"| {len(row.records)} | {row.said} | {paper} | – | – | – | – | – |"
    first = row.ended[0]
    speed = statistics.median(e["images_per_second"] for e in first["epochs"])
    numbers = f"{first['parameters']:,} | {first['flops_per_image'] / 1e9:.3f} | {speed:.0f} | {first['machine']}"
    return head + f"| {len(row.records)} | {row.said} | {paper} | {difference(row)} | {numbers} |"


def difference(row: CellResult) -> str:
    """Return the distance from the paper's number, and whether it is beyond the noise of the seeds.

    Beyond is more than two standard deviations of a single run, since the paper's number is a single run.
    """
    if row.cell.paper is None:
        return "–"
    off = row.mean - row.cell.paper
    if row.deviation is None:
        return f"{off:+.2f}"
    noise = 2 * row.deviation * (1 + 1 / len(row.ended)) ** 0.5
    return f"{off:+.2f}, {'beyond' if abs(off) > noise else 'within'} noise"


def by_layers(rows: Sequence[CellResult], *, paper: bool = False) -> str:
    """Return the table as the paper prints it: a line a method and unfolding, a column a number of layers.

    Args:
        rows: of one data set.
        paper: the paper's numbers instead of the ledger's.
    """
    depths = sorted({row.cell.layers for row in rows})
    lines = ["| | " + " | ".join(f"{depth} layers" for depth in depths) + " |", "|---" * (len(depths) + 1) + "|"]
    by: dict[str, dict[int, str]] = defaultdict(dict)
    for row in rows:
        cell = row.cell
        name = cell.method if cell.recipe.unfolding is None else f"{cell.method}, unfolding {cell.unfolding}"
        by[name][cell.layers] = ("×" if cell.paper is None else f"{cell.paper:.2f}") if paper else row.said
    return "\n".join(
        lines + [f"| {name} | " + " | ".join(found.get(d, "") for d in depths) + " |" for name, found in by.items()]
    )


def difference_of(*pairs: tuple[CellResult, CellResult]) -> Difference:
    """Return by how many points the first of a pair is better, seed by seed and over all pairs of cells given."""
    found: list[float] = []
    for pair in pairs:
        one, other = ({r["recipe"]["seed"]: r["epochs"][-1]["test_accuracy"] for r in row.ended} for row in pair)
        found += [100 * (one[seed] - other[seed]) for seed in sorted(one.keys() & other.keys())]
    return Difference(tuple(found))


def contrast(*pairs: tuple[CellResult, CellResult]) -> str:
    """Return by how much the first of a pair is better, seed by seed and over all pairs of cells that are given.

    That is mean ± standard error, and whether it is beyond noise: a mean that differs from 0 in a t-test at the level
    of 5 %; of two differences it is not said. Runs of one seed see the same batches.
    """
    found = difference_of(*pairs)
    if found.n < 2:
        return "not enough runs"
    text = f"{found.mean:+.2f} ± {found.error:.2f}"
    if found.n == 2:  # two that agree by chance would look certain
        return text
    return f"{text}, {'beyond' if found.p < LEVEL else 'within'} noise"


def tested(questions: Sequence[tuple[str, tuple[CellResult, CellResult]]]) -> str:
    """Return differences of two cells with everything that tells what they are worth, corrected for their number.

    Args:
        questions: what is asked, and the two cells; the difference is the first less the second.
    """
    found = [(name, difference_of(pair)) for name, pair in questions]
    corrected = iter(holm([d.p for _, d in found if d.n > 2]))
    lines = [
        "| difference | n | mean, points | 95 % interval | p | p, Holm | verdict | n could have seen |",
        "|" + "---|" * 8,
    ]
    for name, d in found:
        if d.n < 3:
            lines.append(f"| {name} | {d.n} | not enough runs | – | – | – | open | – |")
            continue
        (low, high), p = d.interval(), next(corrected)
        verdict = "open" if p >= LEVEL else "supported" if d.mean > 0 else "refuted: the reverse"
        numbers = f"{d.mean:+.2f} | {low:+.2f} to {high:+.2f} | {d.p:.3f} | {p:.3f}"
        lines.append(f"| {name} | {d.n} | {numbers} | {verdict} | {d.detectable():.2f} |")
    return "\n".join(lines)


def numbers(rows: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return the table for JSON."""
    return [
        {
            "data": row.cell.recipe.data,
            "method": row.cell.method,
            "layers": row.cell.layers,
            "unfolding": row.cell.unfolding,
            "n": len(row.records),
            "accuracies": row.accuracies,
            "diverged": len(row.records) - len(row.ended),
            "paper": row.cell.paper,
            "keys": [record["key"] for record in row.records],
        }
        for row in rows
    ]
