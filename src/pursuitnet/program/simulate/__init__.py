"""The paper's simulations and small examples, each with its numbers and figures.

``fig1``: μ of dilated convolutions. ``fig4``: unsuccessful dimensions while networks train; ``gaussian`` is the
experiment, ``variations`` its other readings. ``ill_conditioned``: the example of Section V-B. ``table1``: Table I.
"""

from collections.abc import Callable
from pathlib import Path

from pursuitnet.program.simulate import fig1, fig4, ill_conditioned, table1
from pursuitnet.program.simulate.record import Result, write
from pursuitnet.program.simulate.variations import variations as all_variations

SMALL: dict[str, Callable[[], Result]] = {
    "fig1": fig1.compute,
    "ill-conditioned": ill_conditioned.compute,
    "table1": table1.compute,
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
    """Compute a figure and write its numbers and plots into a new folder.

    Args:
        figure: one of ``FIGURES``.
        folder: for the results; it must not exist.
        callback: called with a line of text after every finished part, and with the result before it is written.
        seeds: fig4 only: number of seeds; by default 5, or 3 for the variations.
        iterations: fig4 only: steps of the optimizer.
        variations: fig4 only: plot the other readings of the experiment.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: for an unknown figure, or an option that it does not have.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; name another --out")
    result = _result(figure, callback, {"seeds": seeds, "iterations": iterations}, variations)
    callback(f"\n{result.text}")  # printed first, in case writing fails
    return result, write(result, folder)


def count(figure: str, seeds: int | None, variations: bool) -> int | None:
    """Return the number of parts after which ``run`` calls its callback; None if the figure has no parts."""
    if figure != "fig4":
        return None
    readings = len(all_variations(1)) if variations else 1
    return readings * ((3 if variations else 5) if seeds is None else seeds)


def _result(figure: str, callback: Callable[[str], None], options: dict[str, int | None], variations: bool) -> Result:
    given = {name: value for name, value in options.items() if value is not None}
    if figure == "fig4":
        return (fig4.compute_variations if variations else fig4.compute)(callback, **given)
    if figure not in SMALL:
        raise ValueError(f"unknown figure {figure!r}; expected one of {', '.join(FIGURES)}")
    if variations or given:
        names = ", ".join(f"--{name}" for name in [*given, *(["variations"] if variations else [])])
        raise ValueError(f"{figure} has no {names}; only fig4 has")
    return SMALL[figure]()
