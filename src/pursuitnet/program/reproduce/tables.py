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
    where = "; ".join(dict.fromkeys(map(_where, row.ended)))
    numbers = f"{first['parameters']:,} | {first['flops_per_image'] / 1e9:.3f} | {speed:.0f} | {where}"
    return head + f"| {len(row.records)} | {row.said} | {paper} | {difference(row)} | {numbers} |"


def _where(record: Entry) -> str:
    """Return what a run was computed on, and in which number format."""
    return ", ".join(filter(None, (record["machine"], record.get("precision"))))


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


def paper_table(rows: Sequence[CellResult], *, paper: bool = False) -> str:
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


@dataclass(frozen=True)
class Comparison:
    """What the runs say to a question.

    Attributes:
        name: the question.
        difference: of its two cells.
        corrected: its p-value, corrected for the number of tests by Holm's method; None of fewer than three runs.
        tests: number of these tests.
    """

    name: str
    difference: Difference
    corrected: float | None
    tests: int

    @property
    def verdict(self) -> str:
        if self.corrected is None or self.corrected >= LEVEL:
            return "open"
        return "supported" if self.difference.mean > 0 else "refuted"

    @property
    def seen(self) -> str:
        """The true differences that so many runs find four times in five: by this test alone, and as corrected."""
        found = (self.difference.detectable(level) for level in (LEVEL, LEVEL / self.tests))
        return "; ".join(f"{value:.2f}" for value in found)

    def line(self) -> str:
        """Return everything that tells what the difference is worth."""
        d = self.difference
        if self.corrected is None:
            return f"| {self.name} | {d.n} | not enough runs | – | – | – | open | – |"
        (low, high), verdict = d.interval(), self.verdict
        told = f"{d.mean:+.2f} | {low:+.2f} to {high:+.2f} | {_p(d.p)} | {_p(self.corrected)}"
        reverse = ": the reverse" if verdict == "refuted" else ""
        return f"| {self.name} | {d.n} | {told} | {verdict}{reverse} | {self.seen} |"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


Questions = Sequence[tuple[str, tuple[CellResult, CellResult]]]
"""What is asked, and two cells, the first of which is said to be better."""


def answers(questions: Questions) -> list[Comparison]:
    """Return what the runs say to questions, corrected for the number of those that can be tested."""
    found = [(name, difference_of(pair)) for name, pair in questions]
    tests = [d.p for _, d in found if d.n > 2]
    corrected = iter(holm(tests))
    return [Comparison(name, d, next(corrected) if d.n > 2 else None, len(tests)) for name, d in found]


def tested(questions: Questions) -> str:
    """Return the answers to questions as a table."""
    lines = [
        "| difference | n | mean, points | 95 % interval | p | p, Holm | verdict | n could have seen |",
        "|" + "---|" * 8,
    ]
    return "\n".join(lines + [answer.line() for answer in answers(questions)])


def verdicts(questions: Questions) -> str:
    """Return which questions are answered by yes, by no, and not at all, as a list."""
    found = answers(questions)
    lines = []
    for verdict, words in (("supported", "Supported"), ("refuted", "Refuted, the reverse holds"), ("open", "Open")):
        chosen = [_told(answer) for answer in found if answer.verdict == verdict]
        lines.append(f"- **{words}:** {'; '.join(chosen) or 'nothing'}.")
    return "\n".join(lines)


def _told(answer: Comparison) -> str:
    d = answer.difference
    if answer.corrected is None:
        return f"{answer.name} (not enough runs)"
    p = _p(answer.corrected)
    return f"{answer.name} ({d.mean:+.2f} points, n = {d.n}, p {p if p[0] == '<' else f'= {p}'} as corrected)"


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
