"""Time to codes of every density: our solvers and sporco's ADMM over sizes, filters, atoms and β, cell by cell.

    python benchmarks/solvers_grid.py [--quick] [--out runs/solvers_grid/grid.json] [--seconds 120]
                                      [--only TEXT] [--solvers ours|sporco|all]

A cell is a photograph of 256² or 512², high-passed, 32 or 100 random atoms of 5² to 15², circular boundary, and β from
0.3 to 0.003 of the smallest one whose code is zero, in single precision. Ours run as ``solve`` runs them, to a duality
gap of 2e-5, or for so many seconds; their objective and gap are those of the certificates on the way, whose time
counts. sporco's settings run in pieces of ten steps, whose objective is computed outside of their time, until ten
pieces have not lowered it, or as long. The minimum is the least objective that any of them has reached; the gaps prove
how near it is. "auto" is what ``solve`` chooses for a gap of 1e-2, and for one of 1e-4. Every run is written when it
is done, and one that the file holds is not run again. The seconds are those of the processor, which other programs
hardly affect, so everything runs on one thread. --quick has a few small cells.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import records
import sparse_coding as coding
import torch
from torch import Tensor

import pursuitnet as pn
from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.problems.lasso import Lasso, accelerated, lasso
from pursuitnet.problems.solve import run_solver, suitable_solver

SIZES, KERNELS, ATOMS = (256, 512), (5, 8, 11, 15), (32, 100)
SHARES = (0.3, 0.1, 0.03, 0.01, 0.003)
QUICK = ((64,), (8,), (16,), (0.3, 0.03, 0.003))
TARGETS = (1e-3, 1e-5)
"""Relative distances of the objective from its minimum."""
TOLERANCES = (1e-2, 1e-4)
"""Relative gaps: one about ten times as large as each distance, and the default of ``solve`` in single precision."""
LEAST_GAP = 2e-5
OURS = {
    "WorkingSet": pn.WorkingSet(),
    "ADMM, then WorkingSet": pn.WorkingSet(initial_solver=pn.ADMM()),
    "ADMM": pn.ADMM(),
    "FISTA": pn.FISTA(),
}
Curve = list[tuple[float, float, float | None]]
"""(seconds, objective, gap), without the gap where no dual point is known."""


def cells(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the settings of every cell, small ones first."""
    for size, kernel, atoms, share in itertools.product(*(QUICK if quick else (SIZES, KERNELS, ATOMS, SHARES))):
        yield {"size": size, "kernel": kernel, "atoms": atoms, "share": share}


def name_of(cell: dict[str, Any]) -> str:
    """Return the name of a cell in the file."""
    return f"{cell['size']}² image, {cell['atoms']} atoms of {cell['kernel']}², β = {cell['share']:g} of its maximum"


def problem_of(cell: dict[str, Any]) -> Lasso:
    """Return the problem of a cell."""
    x, D = coding.high_passed(coding.gray(None, cell["size"])), coding.dictionary(cell["atoms"], cell["kernel"])
    return lasso(x, D, cell["share"] * float(pn.beta_max(x, D)))


class TimeLimitError(Exception):
    """Ends a run from within."""


@dataclass
class Recorder:
    """The certificates of a run, and its last code."""

    seconds: float
    began: float = field(default_factory=time.process_time)
    curve: Curve = field(default_factory=list)
    code: Tensor = field(default_factory=lambda: torch.zeros(1))


@dataclass(frozen=True)
class RecordedLasso(Lasso):
    """(P1), which records the certificates of the whole problem."""

    recorder: Recorder

    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        certificate, recorder = super().certificate(code, residual, dual), self.recorder
        elapsed = time.process_time() - recorder.began
        recorder.curve.append((elapsed, float(certificate.objective), float(certificate.gap)))
        recorder.code = code[0]
        if elapsed > recorder.seconds:
            raise TimeLimitError
        return certificate

    def over(self, columns: pn.Dictionary, beta: Tensor) -> Lasso:
        return Lasso(self.signal.reshape(1, -1), columns, (beta,), self.nonnegative, self.step)


def run_of_ours(problem: Lasso, solver: Any, seconds: float) -> tuple[Curve, Tensor]:
    """Return the curve of a run as ``solve`` does it, and its last code."""
    code = (torch.zeros_like(problem.dictionary.analyze(problem.signal)),)
    recorder, fast = Recorder(seconds), accelerated(problem)
    try:
        recorded = RecordedLasso(*(getattr(fast, part.name) for part in fields(Lasso)), recorder)
        run_solver(recorded, solver, code, 10_000, LEAST_GAP)
    except TimeLimitError:
        pass
    return recorder.curve, recorder.code


def sporco_settings(problem: Lasso) -> dict[str, dict[str, Any]]:
    """Return three settings of sporco's ADMM: its own, the better target of its residuals, and a fixed ρ."""
    fixed = {"rho": 100 * float(problem.beta[0]), "AutoRho": {"Enabled": False}}
    return {
        "sporco ADMM, own settings": {},
        "sporco ADMM, residual target 1": {"AutoRho": {"Enabled": True, "RsdlTarget": 1.0}},
        "sporco ADMM, ρ = 100β": fixed,
    }


def run_of_sporco(problem: Lasso, options: dict[str, Any], seconds: float) -> tuple[Curve, Tensor]:
    """Return the curve of a run in pieces of ten steps, and its best code."""
    codes = coding.theirs(problem, 1, 10, "admm", **options)
    elapsed, best, patience = 0.0, float("inf"), 0
    curve: Curve = []
    kept = torch.empty(0)
    while elapsed < seconds and patience < 10:
        began = time.process_time()
        code = next(codes)
        elapsed += time.process_time() - began
        value = coding.objective(problem, code())
        curve.append((elapsed, value, None))
        patience = patience + 1 if value > best * (1 - 1e-7) else 0
        if value < best:
            best, kept = value, code().clone()
    return curve, kept


def runs_of(problem: Lasso) -> dict[str, Callable[[float], tuple[Curve, Tensor]]]:
    """Return what competes: (seconds) → (curve, code) by name."""
    runs: dict[str, Callable[[float], tuple[Curve, Tensor]]] = {
        name: lambda seconds, solver=solver: run_of_ours(problem, solver, seconds) for name, solver in OURS.items()
    }
    try:
        import sporco.admm.cbpdn  # noqa: F401
    except ImportError:
        return runs
    return runs | {
        name: lambda seconds, options=options: run_of_sporco(problem, options, seconds)
        for name, options in sporco_settings(problem).items()
    }


@torch.no_grad()
def run_missing(cell: dict[str, Any], seconds: float, wanted: str) -> Iterator[str]:
    """Run the solvers that a cell has no run of, and yield the name of each when its run is in the cell."""
    problem = problem_of(cell)
    for name, run in runs_of(problem).items():
        if name in cell["runs"] or wanted not in ("all", "ours" if name in OURS else "sporco"):
            continue
        run(1e-3)  # a first piece that nobody times
        curve, code = run(seconds)
        shown = [(round(at, 3), value, gap) for at, value, gap in curve]
        about = {**records.about("cpu"), "seconds": seconds}
        cell["runs"][name] = {**about, "nonzeros": float((code != 0).float().mean()), "curve": shown}
        yield name


@torch.no_grad()
def choices(cell: dict[str, Any]) -> dict[str, str]:
    """Return what "auto" chooses for each tolerance."""
    problem, names = problem_of(cell), {solver: name for name, solver in OURS.items()}
    return {f"{tol:g}": names[suitable_solver(problem, tol=tol)] for tol in TOLERANCES}


def to_distance(run: dict[str, Any], minimum: float, target: float) -> float | None:
    """Return the seconds after which a run is first within a relative distance of the minimum, or None."""
    return next((at for at, value, _ in run["curve"] if value <= (1 + target) * minimum), None)


def to_gap(run: dict[str, Any], tol: float) -> float | None:
    """Return the seconds after which a gap is first at most this, or None."""
    return next((at for at, _, gap in run["curve"] if gap is not None and gap <= tol), None)


def minimum_of(cell: dict[str, Any]) -> tuple[float, float]:
    """Return the least objective of a cell, and the relative distance from the minimum that the gaps leave."""
    points = [(value, gap) for run in cell["runs"].values() for _, value, gap in run["curve"]]
    least = min(value for value, _ in points)
    return least, 1 - max(value * (1 - gap) for value, gap in points if gap is not None) / least


def fastest(seconds: dict[str, float | None], belongs: Callable[[str], bool]) -> float | None:
    """Return the least of the seconds of the solvers that belong; None if none has come so far."""
    return min((at for name, at in seconds.items() if belongs(name) and at is not None), default=None)


@dataclass(frozen=True)
class Times:
    """The seconds of one cell to one target: of what "auto" chooses, of our fastest, and of sporco's."""

    auto: float | None
    mine: float | None
    theirs: float | None

    @staticmethod
    def of(seconds: dict[str, float | None], auto: str) -> "Times":
        """Return those among the seconds of every solver."""
        ours = fastest(seconds, lambda name: name in OURS)
        return Times(seconds.get(auto), ours, fastest(seconds, lambda name: name not in OURS))


def times_of(cell: dict[str, Any]) -> tuple[list[Times], list[Times]]:
    """Return the seconds to each distance from the minimum, and to each gap."""
    minimum, _ = minimum_of(cell)
    runs, auto = cell["runs"], [cell["auto"][f"{tol:g}"] for tol in TOLERANCES]
    near = [{name: to_distance(run, minimum, target) for name, run in runs.items()} for target in TARGETS]
    proven = [{name: to_gap(run, tol) for name, run in runs.items()} for tol in TOLERANCES]
    return list(map(Times.of, near, auto)), list(map(Times.of, proven, auto))


def nonzeros_of(cell: dict[str, Any]) -> float:
    """Return the fraction of non-zeros of the code with the least objective."""
    best = min(cell["runs"].values(), key=lambda run: min(value for _, value, _ in run["curve"]))
    return float(best["nonzeros"])


def both(values: list[float | None]) -> str:
    """Return two numbers as a cell of a table."""
    return " / ".join("–" if value is None else f"{value:.2f}" for value in values)


def table(results: list[dict[str, Any]]) -> str:
    """Return the seconds to both distances and both gaps as Markdown."""
    heads = ["cell", "non-zeros", '"auto"', 'distance: "auto"', "our fastest", "sporco's fastest", 'sporco / "auto"']
    heads += ['gap: "auto"', "our fastest"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for cell in results:
        near, proven = times_of(cell)
        ratios = [t.theirs / t.auto if t.theirs and t.auto else None for t in near]
        columns = [[t.auto for t in near], [t.mine for t in near], [t.theirs for t in near], ratios]
        columns += [[t.auto for t in proven], [t.mine for t in proven]]
        auto = " / ".join(dict.fromkeys(cell["auto"].values()))
        share = f"{100 * nonzeros_of(cell):.1f} %"
        lines.append(f"| {name_of(cell)} | {share} | {auto} | {' | '.join(map(both, columns))} |")
    return "\n".join(lines)


def summary(results: list[dict[str, Any]]) -> str:
    """Return the largest ratio of "auto" to our fastest, and how it compares with sporco, one line for each target."""
    lines = []
    kinds = [(f"to {t:g} of the minimum", 0, i) for i, t in enumerate(TARGETS)]
    kinds += [(f"to a gap of {t:g}", 1, i) for i, t in enumerate(TOLERANCES)]
    for label, kind, number in kinds:
        times = [times_of(cell)[kind][number] for cell in results]
        slower = sorted(t.auto / t.mine for t in times if t.auto and t.mine)
        missed = sum(t.auto is None and t.mine is not None for t in times)
        line = f'{label}: "auto" / our fastest at most {slower[-1]:.2f}, and not reached by it alone in {missed} cells'
        ratios = sorted(t.theirs / t.auto for t in times if t.theirs and t.auto)
        if ratios:
            alone = sum(t.theirs is None and t.auto is not None for t in times)
            line += f'; sporco / "auto" {ratios[0]:.2f} to {ratios[-1]:.2f}, median {ratios[len(ratios) // 2]:.2f}'
            line += f", in {len(ratios)} cells; sporco alone not in {alone}"
        lines.append(line)
    return "\n".join(lines)


def read(path: Path) -> dict[str, Any]:
    """Return the cells that are done, by name."""
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": {}}
    return held


def write(path: Path, held: dict[str, Any]) -> None:
    """Write all cells so that a kill leaves the file as it was before or after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(held, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def main() -> None:
    """Run what is missing and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small cells, for a first look")
    parser.add_argument("--out", type=Path, default=Path("runs/solvers_grid/grid.json"))
    parser.add_argument("--seconds", type=float, default=120, help="time limit of each solver in each cell")
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--solvers", choices=("ours", "sporco", "all"), default="all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pn.keep_freed_memory()
    held = read(arguments.out)
    for settings in cells(arguments.quick):
        name = name_of(settings)
        if arguments.only not in name:
            continue
        cell = held["cells"].setdefault(name, {**settings, "runs": {}})
        for solver in run_missing(cell, arguments.seconds, arguments.solvers):
            write(arguments.out, held)
            at, value, gap = cell["runs"][solver]["curve"][-1]
            print(f"{name}, {solver}: objective {value:.6g}, gap {gap or 0:.1e}, in {at:.2f} s", flush=True)
    results = [cell for cell in held["cells"].values() if cell["runs"]]
    for cell in results:
        cell["auto"] = choices(cell)
    write(arguments.out, held)
    print(f"{table(results)}\n\n{summary(results)}")


if __name__ == "__main__":
    main()
