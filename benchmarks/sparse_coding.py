"""Time to solve convolutional sparse coding of one image: our solvers and sporco's, same problem, one run.

    python benchmarks/sparse_coding.py [--image FILE] [--size 256] [--seconds 25] [--threads 2]
                                       [--clock wall|processor] [--out runs/sparse_coding] [--record]

A gray image of size × size, by default the upper left corner of china.jpg, which comes with scikit-learn, high-passed;
64 random atoms of 8 × 8 with mean zero and unit norm, circular boundary, β = 0.1·‖Dᵀx‖∞, single precision. Every
solver is run in pieces; the objective of each code is computed outside of the timing, in double precision, and
compared with a minimum that is proven by a duality gap. With one thread the seconds are processor time, which other
programs on the machine do not affect; with more they are wall time. Needs sporco (`pip install -e ".[dev]"`). Prints
the table of docs/solving.md and writes JSON and a picture to --out; with --record to benchmarks/results/ and docs/,
where the page shows them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import records
import torch
from matplotlib import image as pictures
from matplotlib.figure import Figure
from torch import Tensor

import pursuitnet as pn
from pursuitnet.problems.lasso import Lasso, lasso
from pursuitnet.problems.loop import restarted

TARGETS = (1e-3, 1e-5)
Codes = Iterator[Callable[[], Tensor]]


def gray(path: Path | None, size: int) -> Tensor:
    """Return a square gray image in [0, 1]; by default a photograph that comes with scikit-learn, mirrored to size."""
    if path is None:
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image("china.jpg") / 255
    else:
        pixels = pictures.imread(path)
    pixels = np.asarray(pixels, dtype=np.float32)
    pixels = pixels[..., :3].mean(-1) if pixels.ndim == 3 else pixels
    short = [max(0, size - n) for n in pixels.shape]
    pixels = np.pad(pixels, [(0, short[0]), (0, short[1])], mode="symmetric")[:size, :size]
    return torch.from_numpy(pixels.copy())[None, None]


def high_passed(x: Tensor, strength: float = 5.0) -> Tensor:
    """Return what a quadratic smoothing (I + strength·∇ᵀ∇)⁻¹ takes away."""
    rows, columns = (2 - 2 * torch.cos(2 * np.pi * torch.fft.fftfreq(n)) for n in x.shape[-2:])
    smooth = 1 / (1 + strength * (rows[:, None] + columns[: x.shape[-1] // 2 + 1]))
    return torch.fft.irfft2(torch.fft.rfft2(x) * (1 - smooth), s=x.shape[-2:])


def dictionary(atoms: int, kernel: int) -> pn.CircularDictionary:
    """Return random atoms of mean zero and unit length."""
    weight = torch.randn(atoms, 1, kernel, kernel, generator=torch.Generator().manual_seed(0))
    weight -= weight.mean((2, 3), keepdim=True)
    weight /= weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return pn.CircularDictionary(weight).requires_grad_(False)


def ours(problem: Lasso, solver: pn.Solver | pn.WorkingSet, every: int) -> Codes:
    """Yield the code after every few steps; a piece runs when it is asked for."""
    zero = torch.zeros_like(problem.dictionary.analyze(problem.signal))
    state = solver.init((zero,))._replace(momentum=zero.new_ones(1, 1, 1, 1))
    while True:
        for _ in range(every):
            state = restarted(solver.step(problem, state))
        code = state.code[0]
        yield lambda code=code: code


def theirs(problem: Lasso, threads: int, every: int, kind: str, **options: object) -> Codes:
    """Yield sporco's code after every few iterations."""
    import sporco.fft
    from sporco.admm import cbpdn as admm
    from sporco.pgm import cbpdn as pgm

    sporco.fft.pyfftw_threads = threads
    module = {"admm": admm, "pgm": pgm}[kind]
    opt = module.ConvBPDN.Options({"MaxMainIter": every, "RelStopTol": 0.0, "FastSolve": True, **options})
    weight, x = problem.dictionary.weight[:, 0].permute(1, 2, 0).numpy(), problem.signal[0, 0].numpy()
    solver = module.ConvBPDN(weight, x, float(problem.beta[0]), opt)
    while True:
        solver.solve()
        yield lambda: torch.from_numpy(solver.getcoef().squeeze()).permute(2, 0, 1)[None]


def objective(problem: Lasso, code: Tensor) -> float:
    """Return ½‖x − DΓ‖² + β‖Γ‖₁ in double precision."""
    D, x = pn.CircularDictionary(problem.dictionary.weight.double()), problem.signal.double()
    code = code.double()
    with torch.no_grad():
        fit = x - D.synthesize(code, x.shape)
    return float(0.5 * fit.square().sum() + problem.beta[0].double() * code.abs().sum())


def timed(
    codes: Codes, problem: Lasso, minimum: float, seconds: float, clock: Callable[[], float]
) -> list[tuple[float, float]]:
    """Return (seconds, relative distance of the objective from the minimum) after every piece."""
    spent, curve = 0.0, []
    while spent < seconds and (not curve or curve[-1][1] > min(TARGETS) / 3):
        began = clock()
        code = next(codes)
        spent += clock() - began
        curve.append((spent, objective(problem, code()) / minimum - 1))
    return curve


def reached(curve: list[tuple[float, float]], target: float) -> float | None:
    """Return the seconds to a relative distance, interpolated in its logarithm, or None."""
    before = (0.0, 1.0)
    for at, gap in curve:
        if gap <= target:
            share = np.log(before[1] / target) / np.log(before[1] / max(gap, 1e-12))
            return float(before[0] + share * (at - before[0]))
        before = (at, gap)
    return None


def table(curves: dict[str, list[tuple[float, float]]]) -> str:
    """Return the times and their ratios as Markdown."""
    lines = ["| solver | to 1e-3 | to 1e-5 | final distance |", "|---|---|---|---|"]
    for name, curve in curves.items():
        times = [reached(curve, t) for t in TARGETS]
        shown = [f"{t:.1f} s" if t is not None else "not reached" for t in times]
        lines.append(f"| {name} | {' | '.join(shown)} | {curve[-1][1]:.1e} in {curve[-1][0]:.0f} s |")
    for target in TARGETS:
        rivals = [t for name, c in curves.items() if name.startswith("sporco") and (t := reached(c, target))]
        own = reached(curves["pursuitnet WorkingSet"], target)
        limit = max(c[-1][0] for name, c in curves.items() if name.startswith("sporco"))
        ratio = f"{min(rivals) / own:.1f}" if rivals and own else f"more than {limit / own:.1f}" if own else "none"
        lines.append(f"\nsporco's best / WorkingSet to {target:.0e}: {ratio}")
    return "\n".join(lines)


def picture(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw the distance from the minimum against time."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.loglog(*zip(*curve, strict=True), "o-" if "WorkingSet" in name else "-", ms=3, lw=1.5, label=name)
    for target in TARGETS:
        axes.axhline(target, color="0.7", lw=0.8)
    axes.set(xlabel="seconds", ylabel="relative distance of the objective from the minimum")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run all solvers and leave table, numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a gray or color image; default: china.jpg of scikit-learn")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=25, help="time limit of each solver")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "processor"), help="default: processor with one thread, else wall")
    records.add_out(parser, "sparse_coding")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pn.keep_freed_memory()
    kind = arguments.clock or ("processor" if arguments.threads == 1 else "wall")
    clock = time.process_time if kind == "processor" else time.perf_counter
    x, D = high_passed(gray(arguments.image, arguments.size)), dictionary(64, 8)
    beta = 0.1 * float(D.analyze(x).abs().max())
    problem = lasso(x, D, beta)
    exact = pn.CircularDictionary(D.weight.double()).requires_grad_(False)
    best = pn.solve(x.double(), exact, beta, pn.WorkingSet(), max_steps=60, tol=1e-7)
    minimum, support = float(best.objective), int((best.code != 0).sum())
    print(f"β = {beta:.4f}, support {support}, minimum {minimum:.6f}, proven to {float(best.gap):.1e}")
    L = D.lipschitz(x.shape)
    tight = Lasso(x, D, problem.beta, False, torch.tensor(1 / L))
    runs: dict[str, Callable[[], Codes]] = {
        "pursuitnet WorkingSet": lambda: ours(problem, pn.WorkingSet(), 1),
        "pursuitnet FISTA, restart": lambda: ours(tight, pn.FISTA(), 5),
        "pursuitnet ISTA": lambda: ours(tight, pn.ISTA(), 5),
        "sporco ADMM, own settings": lambda: theirs(problem, arguments.threads, 5, "admm"),
        "sporco ADMM, residual target 1": lambda: theirs(
            problem, arguments.threads, 5, "admm", AutoRho={"Enabled": True, "RsdlTarget": 1.0}
        ),
        "sporco ADMM, ρ = 100β": lambda: theirs(
            problem, arguments.threads, 5, "admm", rho=100 * beta, AutoRho={"Enabled": False}
        ),
        "sporco FISTA, L = λmax": lambda: theirs(problem, arguments.threads, 5, "pgm", L=L),
    }
    curves = {}
    for name, make in runs.items():
        next(make())()  # a first piece that nobody times: imports, plans of transforms, threads
        curves[name] = timed(make(), problem, minimum, arguments.seconds, clock)
        print(f"{name}: {curves[name][-1][1]:.1e} after {curves[name][-1][0]:.1f} s", flush=True)
    report = {
        "image": arguments.image.name if arguments.image else "china.jpg of scikit-learn",
        "size": arguments.size,
        "threads": arguments.threads,
        "clock": kind,
        "beta": beta,
        "support": support,
        "minimum": minimum,
        "proven": float(best.gap),
        "curves": {name: [(round(t, 3), float(f"{g:.3e}")) for t, g in c] for name, c in curves.items()},
    }
    picture(curves, records.write(arguments, "sparse_coding", report))
    print(table(curves))


if __name__ == "__main__":
    main()
