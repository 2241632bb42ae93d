"""pursuitnet simulate."""

import time
from pathlib import Path
from typing import Literal

from pursuitnet.program.writable import check_folder


def simulate(
    figure: Literal["fig1", "fig4", "ill-conditioned", "table1"],
    *,
    out: Path | None = None,
    variations: bool = False,
    seeds: int | None = None,
    iterations: int | None = None,
) -> None:
    """Compute a simulation or a small example of the paper; leave its numbers (JSON) and its picture (PNG).

    Args:
        figure: fig1 (coherence of dilated convolutions), fig4 (unsuccessful dimensions in training), ill-conditioned
            (the example of Section V-B) or table1 (CNN and CSC, row by row).
        out: A new folder for the files; by default runs/ and the figure's name.
        variations: fig4 only: how the curves move when what the paper leaves open is chosen otherwise.
        seeds: fig4 only: number of seeds; by default 5, or 3 for the variations.
        iterations: fig4 only: steps of the optimizer; by default 300.
    """
    from pursuitnet.data.progress import progress, say
    from pursuitnet.program import simulate as simulations

    folder = Path("runs", f"{figure}-variations" if variations else figure) if out is None else out
    check_folder(folder)
    began = time.perf_counter()
    with progress("runs", simulations.count(figure, seeds, variations)) as advance:

        def callback(line: str) -> None:
            say(line)
            advance(not line.startswith("\n"))  # but the result is no run

        chosen = {"seeds": seeds, "iterations": iterations, "variations": variations}
        _, paths = simulations.run(figure, folder, callback, **chosen)  # type: ignore[arg-type]
    print(f"\nin {time.perf_counter() - began:.0f} s")
    print("\n".join(map(str, paths)))
