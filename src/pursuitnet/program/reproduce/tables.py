"""Tables, from the ledger alone."""

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
        """The records of the runs that did not diverge."""
        return [record for record in self.records if "diverged" not in record]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of the last epoch, in percent, of every seed that has one."""
        return [100 * record["epochs"][-1]["test_accuracy"] for record in self.ended]

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return statistics.stdev(self.accuracies) if len(self.ended) > 1 else None

    @property
    def summary(self) -> str:
        """Mean ± standard deviation in percent, or why there is none."""
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
    records_of: dict[str, list[Entry]] = defaultdict(list)
    sums: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        recipe = Recipe.from_json(entry["recipe"])
        records_of[str(identity(replace(recipe, seed=0)))].append(entry)
        sums[recipe.data].add(entry["data"])
    if mixed := [name for name, checksums in sums.items() if len(checksums) > 1]:
        raise ValueError(f"the ledger has records of different versions of {', '.join(mixed)}; keep those of one")
    return [CellResult(cell, tuple(records_of[str(identity(cell.recipe))])) for cell in cells]


def markdown(rows: Sequence[CellResult]) -> str:
    """Return the table as Markdown, data set by data set, with the paper's numbers."""
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
        return head + f"| {len(row.records)} | {row.summary} | {paper} | – | – | – | – | – |"
    first = row.ended[0]
    speed = statistics.median(e["images_per_second"] for e in first["epochs"])
    device = "; ".join(dict.fromkeys(map(_device, row.ended)))
    numbers = f"{first['parameters']:,} | {first['flops_per_image'] / 1e9:.3f} | {speed:.0f} | {device}"
    return head + f"| {len(row.records)} | {row.summary} | {paper} | {difference(row)} | {numbers} |"


def _device(record: Entry) -> str:
    """Return the machine of a run, and its number format."""
    return ", ".join(filter(None, (record["machine"], record.get("precision"))))


def difference(row: CellResult) -> str:
    """Return the difference from the paper's number, and whether it is beyond the noise of the seeds.

    Beyond is more than two standard deviations of a single run, since the paper's number is a single run.
    """
    if row.cell.paper is None:
        return "–"
    change = row.mean - row.cell.paper
    if row.deviation is None:
        return f"{change:+.2f}"
    noise = 2 * row.deviation * (1 + 1 / len(row.ended)) ** 0.5
    return f"{change:+.2f}, {'beyond' if abs(change) > noise else 'within'} noise"


def paper_table(rows: Sequence[CellResult], *, paper: bool = False) -> str:
    """Return the table in the paper's form: one row per method and unfolding, one column per number of layers.

    Args:
        rows: of one data set.
        paper: the paper's numbers instead of the ledger's.
    """
    depths = sorted({row.cell.layers for row in rows})
    lines = ["| | " + " | ".join(f"{depth} layers" for depth in depths) + " |", "|---" * (len(depths) + 1) + "|"]
    cells_of: dict[str, dict[int, str]] = defaultdict(dict)
    for row in rows:
        cell = row.cell
        name = cell.method if cell.recipe.unfolding is None else f"{cell.method}, unfolding {cell.unfolding}"
        cells_of[name][cell.layers] = ("×" if cell.paper is None else f"{cell.paper:.2f}") if paper else row.summary
    return "\n".join(
        lines
        + [f"| {name} | " + " | ".join(columns.get(d, "") for d in depths) + " |" for name, columns in cells_of.items()]
    )


def difference_of(*pairs: tuple[CellResult, CellResult]) -> Difference:
    """Return the differences in percentage points, first minus second of each pair of cells, seed by seed."""
    differences: list[float] = []
    for pair in pairs:
        one, other = ({r["recipe"]["seed"]: r["epochs"][-1]["test_accuracy"] for r in row.ended} for row in pair)
        differences += [100 * (one[seed] - other[seed]) for seed in sorted(one.keys() & other.keys())]
    return Difference(tuple(differences))


def contrast(*pairs: tuple[CellResult, CellResult]) -> str:
    """Return a summary of the difference of cells, first minus second of each pair, over all seeds and pairs.

    It has mean ± standard error and, for more than two differences, whether the mean is beyond noise: different from 0
    in a t-test at the level of 5 %. Runs of one seed have the same batches.
    """
    d = difference_of(*pairs)
    if d.n < 2:
        return "not enough runs"
    text = f"{d.mean:+.2f} ± {d.error:.2f}"
    if d.n == 2:  # two runs that agree by chance would look significant
        return text
    return f"{text}, {'beyond' if d.p < LEVEL else 'within'} noise"


@dataclass(frozen=True)
class Comparison:
    """The test of a claim about two cells.

    Attributes:
        name: the claim.
        difference: of its two cells.
        corrected: its p-value, corrected for the number of tests by Holm's method; None for fewer than three runs.
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
    def detectable(self) -> str:
        """The true differences that n runs detect with 80 % power: by this test alone, and with the correction."""
        values = (self.difference.detectable(level) for level in (LEVEL, LEVEL / self.tests))
        return "; ".join(f"{value:.2f}" for value in values)

    def line(self) -> str:
        """Return the comparison as a row of ``comparison_table``."""
        d = self.difference
        if self.corrected is None:
            return f"| {self.name} | {d.n} | not enough runs | – | – | – | open | – |"
        (low, high), verdict = d.interval(), self.verdict
        result = f"{d.mean:+.2f} | {low:+.2f} to {high:+.2f} | {_p(d.p)} | {_p(self.corrected)}"
        reverse = ": the reverse" if verdict == "refuted" else ""
        return f"| {self.name} | {d.n} | {result} | {verdict}{reverse} | {self.detectable} |"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


Questions = Sequence[tuple[str, tuple[CellResult, CellResult]]]
"""Claims, each with two cells of which the first is claimed to be better."""


def compare(questions: Questions) -> list[Comparison]:
    """Return the tests of claims, corrected for the number of those that can be tested."""
    differences = [(name, difference_of(pair)) for name, pair in questions]
    tests = [d.p for _, d in differences if d.n > 2]
    corrected = iter(holm(tests))
    return [Comparison(name, d, next(corrected) if d.n > 2 else None, len(tests)) for name, d in differences]


def comparison_table(questions: Questions) -> str:
    """Return the tests of claims as a table."""
    lines = [
        "| difference | n | mean, points | 95 % interval | p | p, Holm | verdict | detectable |",
        "|" + "---|" * 8,
    ]
    return "\n".join(lines + [comparison.line() for comparison in compare(questions)])


def verdicts(questions: Questions) -> str:
    """Return which claims are supported, refuted and open, as a list."""
    comparisons = compare(questions)
    lines = []
    for verdict, words in (("supported", "Supported"), ("refuted", "Refuted, the reverse holds"), ("open", "Open")):
        chosen = [_summary(comparison) for comparison in comparisons if comparison.verdict == verdict]
        lines.append(f"- **{words}:** {'; '.join(chosen) or 'none'}.")
    return "\n".join(lines)


def _summary(comparison: Comparison) -> str:
    d = comparison.difference
    if comparison.corrected is None:
        return f"{comparison.name} (not enough runs)"
    p = _p(comparison.corrected)
    return f"{comparison.name} ({d.mean:+.2f} points, n = {d.n}, p {p if p[0] == '<' else f'= {p}'} corrected)"


def numbers(rows: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Return the table as JSON values."""
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
