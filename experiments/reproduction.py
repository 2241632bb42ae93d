"""docs/reproduction.md: its tables and pictures, made only from the ledger.

    python experiments/reproduction.py [--ledger DIR] [--out docs]

It updates the tracked page: it replaces the tables between <!-- NAME --> and <!-- end -->, and draws Figs. 7 and 8 at
the scales small and medium into the same folder. The text around the tables is written by hand.
"""

import argparse
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from pursuitnet.program.reproduce import CellResult, Ledger, cell_results, cells_of
from pursuitnet.program.reproduce.figures import draw
from pursuitnet.program.reproduce.ledger import Entry
from pursuitnet.program.reproduce.tables import (
    Questions,
    comparison_table,
    contrast,
    difference_of,
    markdown,
    paper_table,
    verdicts,
)

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduction.md"
LEDGER = ROOT / "experiments" / "results" / "ledger"


@cache
def entries_of(ledger: Path) -> tuple[Entry, ...]:
    """Return the records of a ledger, which all tables are made from."""
    return tuple(Ledger(ledger).entries())


@cache
def rows_of(table: str, scale: str, ledger: Path) -> list[CellResult]:
    """Return the cells of a table on CIFAR-10 with their records."""
    rows = cell_results(cells_of(table, scale), entries_of(ledger))
    return [row for row in rows if row.cell.recipe.data == "cifar10"]


def lines(*columns: str) -> list[str]:
    """Return the head of a table."""
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def residual_contrasts(ledger: Path) -> str:
    """Return what differs between the methods at one depth, and between the depths of one method."""
    by = {(row.cell.method, row.cell.layers): row for row in rows_of("table2", "small", ledger)}
    depths = sorted({layers for _, layers in by})
    methods = list(dict.fromkeys(method for method, _ in by))
    table = lines("difference", *(f"{depth} layers" for depth in depths))
    for one, other in (("Res-CSC", "ResNet"), ("Res-CSC", "plain"), ("Res-CSC-Simplified", "plain")):
        differences = (contrast((by[one, depth], by[other, depth])) for depth in depths)
        table.append(f"| {one} − {other} | {' | '.join(differences)} |")
    for method in methods:
        differences = (contrast((by[method, depth], by[method, depths[0]])) for depth in depths[1:])
        table.append(f"| {method}, − its {depths[0]} layers | – | {' | '.join(differences)} |")
    return "\n".join(table)


def dense_contrasts(ledger: Path) -> str:
    """Return what differs between numbers of steps and between solvers, at equal parameters."""
    by = {(r.cell.method, r.cell.unfolding, r.cell.layers): r for r in rows_of("table3", "small", ledger)}
    pairs = (
        ("one step − none", ("MSD-CSC, ISTA", 1), ("MSDNet", 0)),
        ("two steps − none", ("MSD-CSC, ISTA", 2), ("MSDNet", 0)),
        ("two steps − one", ("MSD-CSC, ISTA", 2), ("MSD-CSC, ISTA", 1)),
        ("FISTA − ISTA, two steps", ("MSD-CSC, FISTA", 2), ("MSD-CSC, ISTA", 2)),
    )
    names = ("MSD, 6 layers", "MSD, 9 layers", "MSD, 12 layers", "MSD, all three", "ML-CSC, 6 layers")
    table = lines("difference", *names)
    for name, one, other in pairs:
        each = [(by[*one, depth], by[*other, depth]) for depth in (6, 9, 12)]
        differences = [*map(contrast, each), contrast(*each)]
        ml = [
            ("feed-forward" if m == "MSDNet" else m.replace("MSD", "ML"), unfolding, 6) for m, unfolding in (one, other)
        ]
        differences.append(contrast((by[ml[0]], by[ml[1]])))
        table.append(f"| {name} | {' | '.join(differences)} |")
    return "\n".join(table)


def ablations(ledger: Path) -> str:
    """Return the ablation, each line beside the line that it changes."""
    table, base = lines("what is changed", "unfolding", "n", "accuracy, last epoch", "− the first of its kind"), {}
    for row in rows_of("ablation", "small", ledger):
        cell = row.cell
        kind = (cell.method.partition(",")[0], cell.unfolding)
        first = base.setdefault(kind, row)
        difference = "–" if first is row else contrast((row, first))
        table.append(f"| {cell.method} | {cell.unfolding} | {len(row.records)} | {row.summary} | {difference} |")
    return "\n".join(table)


QUESTIONS = (
    ("Res-CSC − ResNet, 20 layers", ("Res-CSC", 20, 0), ("ResNet", 20, 0)),
    ("ResNet − plain, 20 layers", ("ResNet", 20, 0), ("plain", 20, 0)),
    ("Res-CSC-Simplified − plain, 20 layers", ("Res-CSC-Simplified", 20, 0), ("plain", 20, 0)),
    ("MSD-CSC, one step − MSDNet", ("MSD-CSC, ISTA", 6, 1), ("MSDNet", 6, 0)),
    ("MSD-CSC, two steps − MSDNet", ("MSD-CSC, ISTA", 6, 2), ("MSDNet", 6, 0)),
    ("MSD-CSC, FISTA − ISTA, two steps", ("MSD-CSC, FISTA", 6, 2), ("MSD-CSC, ISTA", 6, 2)),
    ("ML-CSC, one step − feed-forward", ("ML-CSC, ISTA", 6, 1), ("feed-forward", 6, 0)),
    ("ML-CSC, two steps − feed-forward", ("ML-CSC, ISTA", 6, 2), ("feed-forward", 6, 0)),
    ("Res-CSC − ResNet, 56 layers", ("Res-CSC", 56, 0), ("ResNet", 56, 0)),
    ("plain, 20 − 56 layers", ("plain", 20, 0), ("plain", 56, 0)),
    ("ResNet, 56 − 20 layers", ("ResNet", 56, 0), ("ResNet", 20, 0)),
)
"""What the paper claims, as differences of two cells: method, layers, unfolding."""


def medium_questions(ledger: Path) -> Questions:
    """Return the paper's claims with their cells at the scale medium."""
    by = {(r.cell.method, r.cell.layers, r.cell.unfolding): r for r in rows_of("tables", "medium", ledger)}
    return [(name, (by[one], by[other])) for name, one, other in QUESTIONS]


def precision_contrasts(ledger: Path) -> str:
    """Return what differs between convolutions in bfloat16 and in float32, seed by seed."""
    rows = rows_of("precision", "medium", ledger)
    table = lines("network", "float32", "bfloat16", "n", "difference, points", "95 % interval", "p", "detectable")
    for single, half in zip(rows[::2], rows[1::2], strict=True):
        d = difference_of((half, single))
        name, _, _ = single.cell.method.partition(",")
        tested = " | ".join(["–"] * 4)
        if d.n > 2:
            low, high = d.interval()
            tested = f"{d.mean:+.2f} | {low:+.2f} to {high:+.2f} | {d.p:.3f} | {d.detectable():.2f}"
        table.append(f"| {name}, {single.cell.layers} layers | {single.summary} | {half.summary} | {d.n} | {tested} |")
    return "\n".join(table)


def details(table: str, ledger: Path, scale: str = "small") -> str:
    """Return every cell of a table with all that is known of it."""
    rows = markdown(rows_of(table, scale, ledger))
    return f"<details><summary>Every cell: parameters, operations, speed</summary>\n\n{rows}\n\n</details>"


BLOCKS: dict[str, Callable[[Path], str]] = {
    "table2-small": lambda ledger: paper_table(rows_of("table2", "small", ledger)),
    "table2-full": lambda ledger: paper_table(rows_of("table2", "full", ledger)),
    "table2-paper": lambda ledger: paper_table(rows_of("table2", "full", ledger), paper=True),
    "table2-contrasts": residual_contrasts,
    "table2-details": lambda ledger: details("table2", ledger),
    "table3-small": lambda ledger: paper_table(rows_of("table3", "small", ledger)),
    "table3-full": lambda ledger: paper_table(rows_of("table3", "full", ledger)),
    "table3-paper": lambda ledger: paper_table(rows_of("table3", "full", ledger), paper=True),
    "table3-contrasts": dense_contrasts,
    "table3-details": lambda ledger: details("table3", ledger),
    "ablation-small": ablations,
    "medium": lambda ledger: markdown(rows_of("tables", "medium", ledger)),
    "medium-questions": lambda ledger: comparison_table(medium_questions(ledger)),
    "medium-precision": precision_contrasts,
    "medium-verdicts": lambda ledger: verdicts(medium_questions(ledger)),
}


PICTURES = {
    "fig7-small": ("fig7", "small", "1,600"),
    "fig8-small": ("fig8", "small", "1,600"),
    "fig7-medium": ("fig7", "medium", "50,000"),
    "fig8-medium": ("fig8", "medium", "50,000"),
}
"""Each with its figure, its scale and the number of images."""


def page(text: str, ledger: Path = LEDGER) -> str:
    """Return a page with its tables made again.

    Raises:
        KeyError: for a name that is no table.
    """
    return re.sub(
        r"(<!-- ([\w-]+) -->\n).*?(<!-- end -->)",
        lambda at: f"{at[1]}\n{BLOCKS[at[2]](ledger)}\n\n{at[3]}",
        text,
        flags=re.DOTALL,
    )


def pictures(ledger: Path, folder: Path = PAGE.parent) -> Iterator[Path]:
    """Draw Figs. 7 and 8 at the small scale, and in their manner at the medium one."""
    for name, (figure, scale, images) in PICTURES.items():
        path = folder / f"{name}.png"
        note = f"{images} training images of CIFAR-10, 4 epochs; mean and range over seeds: not the paper's experiment"
        draw(figure, scale, rows_of(figure, scale, ledger), note).savefig(path, dpi=110, metadata={"Software": ""})
        yield path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--out", type=Path, default=PAGE.parent, help="folder for the page; by default docs/ itself")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = arguments.out / PAGE.name
    written.write_text(page(PAGE.read_text(), arguments.ledger))
    print(written, *pictures(arguments.ledger, arguments.out), sep="\n")
