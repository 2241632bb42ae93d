"""Time to codes of every density: our solvers and sporco's ADMM over sizes, filters, atoms and β, cell by cell.

    python benchmarks/solvers_grid.py [--quick] [--out runs/solvers_grid/grid.json] [--threads 1] [--seconds 120]
                                      [--only TEXT]

A cell is a photograph of 256² or 512², high-passed, 32 or 100 random atoms of 5² to 15², circular boundary, and β from
0.3 to 0.003 of the smallest one whose code is zero, in single precision. Each solver runs in pieces, until ten of
them have not lowered its objective, which is computed outside of its time in double precision, or for so many seconds.
The minimum is the best that any of them has reached; a duality gap proves how near it is. "auto" is what ``solve``
chooses for a gap of ten times the distance from the minimum. Every cell is written when it is done, and one that the
file holds is not run again: a run that was ended goes on. --quick has a few small cells.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import records
import sparse_coding as coding
import torch
from torch import Tensor

import pursuitnet as pn
from pursuitnet.iterations import ISTA
from pursuitnet.problems.lasso import Lasso, accelerated, lasso
from pursuitnet.problems.solve import suitable_solver

SIZES, KERNELS, ATOMS = (256, 512), (5, 8, 11, 15), (32, 100)
SHARES = (0.3, 0.1, 0.03, 0.01, 0.003)
QUICK = ((64,), (8,), (16,), (0.3, 0.03, 0.003))
TARGETS = (1e-3, 1e-5)
Curve = list[tuple[float, float]]


def cells(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the settings of every cell, small ones first."""
    for size, kernel, atoms, share in itertools.product(*(QUICK if quick else (SIZES, KERNELS, ATOMS, SHARES))):
        yield {"size": size, "kernel": kernel, "atoms": atoms, "share": share}


def name_of(cell: dict[str, Any]) -> str:
    """Return the name of a cell in the file."""
    return f"{cell['size']}² image, {cell['atoms']} atoms of {cell['kernel']}², β = {cell['share']:g} of its maximum"


def admm(problem: Lasso, every: int) -> coding.Codes:
    """Yield the code of ADMM after every few steps."""
    split = pn.ADMM().split(problem)
    state = split.begin((torch.zeros_like(problem.dictionary.analyze(problem.signal)),))
    solver = ISTA()
    while True:
        for _ in range(every):
            state = solver.step(split, solver.init(state)).code
        (code,) = split.full_code(state)
        yield lambda code=code: code


def solvers(problem: Lasso, threads: int) -> dict[str, Callable[[], coding.Codes]]:
    """Return what competes."""
    fast, beta = accelerated(problem), float(problem.beta[0])
    runs = {
        "WorkingSet": lambda: coding.ours(fast, pn.WorkingSet(), 1),
        "FISTA": lambda: coding.ours(fast, pn.FISTA(), 10),
        "ADMM": lambda: admm(problem, 10),
    }
    try:
        import sporco.admm.cbpdn  # noqa: F401
    except ImportError:
        return runs
    target = {"Enabled": True, "RsdlTarget": 1.0}
    fixed = {"rho": 100 * beta, "AutoRho": {"Enabled": False}}
    return runs | {
        "sporco ADMM, own settings": lambda: coding.theirs(problem, threads, 10, "admm"),
        "sporco ADMM, residual target 1": lambda: coding.theirs(problem, threads, 10, "admm", AutoRho=target),
        "sporco ADMM, ρ = 100β": lambda: coding.theirs(problem, threads, 10, "admm", **fixed),
    }


def timed(problem: Lasso, codes: coding.Codes, seconds: float) -> tuple[Curve, Tensor]:
    """Return (seconds, objective) after every piece of a run, and its last code."""
    spent, curve, patience = 0.0, [], 0
    best, kept = float("inf"), torch.empty(0)
    while spent < seconds and patience < 10:
        began = time.perf_counter()
        code = next(codes)
        spent += time.perf_counter() - began
        value = coding.objective(problem, code())
        curve.append((spent, value))
        patience = patience + 1 if value > best * (1 - 1e-7) else 0
        if value < best:
            best, kept = value, code().clone()
    return curve, kept


def reached(curve: Curve, minimum: float, target: float) -> float | None:
    """Return the seconds after which a curve is first within a relative distance of the minimum, or None."""
    within = [at for at, value in curve if value <= (1 + target) * minimum]
    return round(within[0], 3) if within else None


@torch.no_grad()
def measured(cell: dict[str, Any], threads: int, seconds: float) -> dict[str, Any]:
    """Return the times of a cell."""
    x, D = coding.high_passed(coding.gray(None, cell["size"])), coding.dictionary(cell["atoms"], cell["kernel"])
    problem = lasso(x, D, cell["share"] * float(pn.beta_max(x, D)))
    next(next(iter(solvers(problem, threads).values()))())  # a first piece that nobody times
    curves, best, code = {}, float("inf"), torch.empty(0)
    for name, make in solvers(problem, threads).items():
        curves[name], last = timed(problem, make(), seconds)
        value = min(v for _, v in curves[name])
        best, code = (value, last) if value < best else (best, code)
    exact = pn.CircularDictionary(D.weight.double()).requires_grad_(False)
    proof = pn.solve(x.double(), exact, problem.beta[0].double(), start=code.double(), max_steps=0)
    return {
        **cell,
        "minimum": best,
        "gap": float(proof.gap),
        "nonzeros": float((code != 0).float().mean()),
        "auto": {f"{t:g}": type(suitable_solver(problem, tol=10 * t)).__name__ for t in TARGETS},
        "seconds": {n: {f"{t:g}": reached(c, best, t) for t in TARGETS} for n, c in curves.items()},
        "curves": {n: [(round(t, 3), v) for t, v in c] for n, c in curves.items()},
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the seconds to both targets of what "auto" chooses, of our fastest and of sporco's, as Markdown."""
    heads = ["cell", "non-zeros", '"auto"', '"auto", seconds', "our fastest", "sporco's fastest", 'sporco / "auto"']
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        seconds = result["seconds"]
        auto = result["auto"]
        chosen = [seconds[auto[f"{target:g}"]][f"{target:g}"] for target in TARGETS]
        mine = [fastest(seconds, target, lambda name: not name.startswith("sporco")) for target in TARGETS]
        theirs = [fastest(seconds, target, lambda name: name.startswith("sporco")) for target in TARGETS]
        ratios = [None if a is None or b is None else b / a for a, b in zip(chosen, theirs, strict=True)]
        shown = [" / ".join("–" if s is None else f"{s:.2f}" for s in pair) for pair in (chosen, mine, theirs, ratios)]
        lines.append(
            f"| {name_of(result)} | {100 * result['nonzeros']:.1f} % | {' / '.join(dict.fromkeys(auto.values()))} | "
            f"{' | '.join(shown)} |"
        )
    return "\n".join(lines)


def fastest(seconds: dict[str, Any], target: float, belongs: Callable[[str], bool]) -> float | None:
    """Return the least seconds to a target of the solvers that belong; None if none has reached it."""
    reached = [times.get(f"{target:g}") for name, times in seconds.items() if belongs(name)]
    return min((time for time in reached if time is not None), default=None)


def read(path: Path) -> dict[str, Any]:
    """Return the cells that are done, by name."""
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": {}}
    return held


def write(path: Path, held: dict[str, Any]) -> None:
    """Write all cells so that a kill leaves the file as it was before or after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(held, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def main() -> None:
    """Run the cells that are missing and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cells, for a first look")
    parser.add_argument("--out", type=Path, default=Path("runs/solvers_grid/grid.json"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120, help="time limit of each solver in each cell")
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pn.keep_freed_memory()
    held = read(arguments.out)
    for cell in cells(arguments.quick):
        name = name_of(cell)
        if arguments.only not in name or name in held["cells"]:
            continue
        result = measured(cell, arguments.threads, arguments.seconds)
        held["cells"][name] = {**records.about("cpu"), "threads": arguments.threads, **result}
        write(arguments.out, held)
        print(f"{name}: {result['seconds']}", flush=True)
    print(table(list(held["cells"].values())))


if __name__ == "__main__":
    main()
