"""The paper's simulations and small examples, each with its numbers and pictures.

``fig1``: μ of dilated convolutions. ``fig4``: unsuccessful dimensions while networks train; ``gaussian`` holds the
experiment, ``readings`` how else it can be read. ``ill_conditioned``: the example of Section V-B. ``table1``: Table I.
"""

from collections.abc import Callable
from pathlib import Path

from pursuitnet.program.simulate import fig1, fig4, ill_conditioned, table1
from pursuitnet.program.simulate.record import Result, write
from pursuitnet.program.simulate.variations import variations as all_variations

SMALL: dict[str, Callable[[], Result]] = {
    "fig1": fig1.run,
    "ill-conditioned": ill_conditioned.run,
    "table1": table1.run,
}
FIGURES = ("fig1", "fig4", "ill-conditioned", "table1")

__all__ = ["FIGURES", "Result", "run"]


def run(
    figure: str,
    folder: Path,
    callback: Callable[[str], None] = lambda line: None,
    *,
    seeds: int | None = None,
    iterations: int | None = None,
    variations: bool = False,
) -> tuple[Result, list[Path]]:
    """Compute a figure and write its numbers and pictures into a new folder.

    Args:
        figure: one of ``FIGURES``.
        folder: where they go; it must not exist.
        callback: is told of every finished part, and of the result before it is written.
        seeds: fig4 only: how many seeds; 5, or 3 for the variations.
        iterations: fig4 only: steps of the optimizer.
        variations: fig4 only: the picture of the other readings.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: for an unknown figure, or a choice that it does not have.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; name another --out")
    result = _result(figure, callback, {"seeds": seeds, "iterations": iterations}, variations)
    callback(f"\n{result.text}")  # before anything can fail in writing it
    return result, write(result, folder)


def count(figure: str, seeds: int | None, variations: bool) -> int | None:
    """Return of how many finished parts ``run`` tells; None where there are none to tell of."""
    if figure != "fig4":
        return None
    each = len(all_variations(1)) if variations else 1
    return each * ((3 if variations else 5) if seeds is None else seeds)


def _result(figure: str, callback: Callable[[str], None], given: dict[str, int | None], variations: bool) -> Result:
    chosen = {name: value for name, value in given.items() if value is not None}
    if figure == "fig4":
        return (fig4.run_variations if variations else fig4.run)(callback, **chosen)
    if figure not in SMALL:
        raise ValueError(f"there is no figure {figure!r}; there are {', '.join(FIGURES)}")
    if variations or chosen:
        names = ", ".join(f"--{name}" for name in [*chosen, *(["variations"] if variations else [])])
        raise ValueError(f"{figure} has no {names}; only fig4 has")
    return SMALL[figure]()
