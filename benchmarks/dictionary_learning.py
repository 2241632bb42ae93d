"""Held-out objective of a learned dictionary against time: ours and sporco's, batch and online, in one run.

    python benchmarks/dictionary_learning.py --images fruit.mat|FOLDER [--patches N] [--held-out 2] [--atoms 100]
                                             [--size 11] [--beta 1.0] [--seconds 60] [--threads 2]
                                             [--clock wall|processor] [--stream]
                                             [--out runs/dictionary_learning]
    python benchmarks/dictionary_learning.py --memory 1000 [--atoms 100] [--size 11] [--beta 1.0] [--threads 2]

Images of one size: a .mat file with the key b (H, W, N), or a folder of image files, which are then made gray and
contrast-normalized. With --patches, so many pieces of 100 × 100 pixels are drawn from a folder's images instead, which
may be of any size. All methods start from the same random atoms, are trained on the same images on a torus, and are
stopped after --seconds. A dictionary is scored by F(D) = Σ min ½‖x − DΓ‖² + β‖Γ‖₁ over held-out images and over (up to
eight) training images, solved to a duality gap of 1e-4, outside of the timing. With --stream the two online
methods see each training image once, in the same order. With one thread the seconds are processor time by default.
Prints two tables and writes numbers and a picture. With --memory, only the peak memory of our online learning is
measured, of the whole process: from a stream of so many patches of 100 x 100 pixels, smooth noise, made one by one.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import records
import torch
from matplotlib.figure import Figure
from torch import Tensor

import pursuitnet as pn
from pursuitnet.problems.learning import Report
from pursuitnet.program.learn.pixels import files_of, prepared, read

Snapshots = Iterator[Tensor]
Curve = list[tuple[float, Tensor]]
"""Seconds, and the atoms then."""
Scores = list[tuple[float, float]]
"""Seconds, and the objective then."""


class TimeIsUpError(Exception):
    """Ends our learning from its callback."""


def images_of(path: Path, patches: int | None = None) -> Tensor:
    """Return images (N, 1, H, W) in float32, or patches of them (N, 1, 100, 100)."""
    if patches is not None:
        return patches_of([read(file, False, "contrast") for file in files_of([path])], patches)
    if path.suffix == ".mat":
        from scipy.io import loadmat

        return torch.tensor(loadmat(path)["b"]).permute(2, 0, 1)[:, None].float()
    return torch.cat([read(file, False, "contrast") for file in files_of([path])])


def patches_of(images: Sequence[Tensor], count: int, side: int = 100) -> Tensor:
    """Return patches (count, 1, side, side): one of each image in turn, at a random place."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(images), generator=generator).tolist()
    patches = []
    for index in (chosen[n % len(chosen)] for n in range(count)):
        top, left = (int(torch.randint(n - side + 1, (1,), generator=generator)) for n in images[index].shape[-2:])
        patches.append(images[index][..., top : top + side, left : left + side])
    return torch.cat(patches)


def start(atoms: int, size: int) -> Tensor:
    """Return random atoms of norm 1, (atoms, 1, size, size)."""
    weight = torch.randn(atoms, 1, size, size, generator=torch.Generator().manual_seed(0))
    return weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def objective(weight: Tensor, x: Tensor, beta: float) -> float:
    """Return F of atoms (atoms, 1, size, size), an image on average."""
    D = pn.CircularDictionary(weight).requires_grad_(False)
    return float(pn.solve(x, D, beta, pn.WorkingSet(), tol=1e-4, max_steps=200).objective.mean())


def ours(
    x: Tensor | Iterator[Tensor],
    weight: Tensor,
    beta: float,
    seconds: float,
    clock: Callable[[], float],
    online: bool,
) -> Curve:
    """Return (seconds, atoms) after each round or batch, of a tensor or of a stream."""
    curve_so_far: Curve = []
    began = clock()

    def keep(report: object, dictionary: pn.CircularDictionary) -> None:
        curve_so_far.append((clock() - began, dictionary.weight.clone()))
        if curve_so_far[-1][0] > seconds:
            raise TimeIsUpError

    try:
        rounds = 10**6 if isinstance(x, Tensor) else None
        D = pn.CircularDictionary(weight)
        pn.learn(x, D, beta, online=online, max_iterations=rounds, tol=0.0, callback=keep)
    except TimeIsUpError:
        pass
    return curve_so_far


def sporco_batch(x: Tensor, weight: Tensor, beta: float, seconds: float, clock: Callable[[], float]) -> Curve:
    """Return (seconds, atoms) after each five iterations of sporco's alternating ADMM, as its example sets it."""
    from sporco.dictlrn import cbpdndl

    options = {"Verbose": False, "MaxMainIter": 5, "CBPDN": {"rho": 50 * beta + 0.5}, "CCMOD": {"rho": 10.0}}
    opt = cbpdndl.ConvBPDNDictLearn.Options(options, dmethod="cns")
    solver = cbpdndl.ConvBPDNDictLearn(_theirs(weight), _theirs(x), beta, opt, dmethod="cns")
    return _pieces(solver.solve, lambda: solver.getdict(), weight, seconds, clock)


def drawn(x: Tensor) -> Iterator[Tensor]:
    """Yield random images (1, 1, H, W) without end."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield x[int(torch.randint(len(x), (1,), generator=generator))][None]


def sporco_online(
    images: Iterator[Tensor], weight: Tensor, beta: float, seconds: float, clock: Callable[[], float]
) -> Curve:
    """Return (seconds, atoms) after each image of sporco's online learning."""
    from sporco.dictlrn import onlinecdl

    cbpdn = {"rho": 50 * beta + 0.5, "MaxMainIter": 50, "RelStopTol": 1e-3, "AutoRho": {"Enabled": True}}
    options = {"Verbose": False, "CBPDN": cbpdn, "eta_a": 10.0, "eta_b": 20.0, "ZeroMean": False}
    opt = onlinecdl.OnlineConvBPDNDictLearn.Options(options)
    solver = onlinecdl.OnlineConvBPDNDictLearn(_theirs(weight), beta, opt)

    def step() -> None:
        solver.solve(next(images)[0, 0].numpy())

    return _pieces(step, lambda: solver.getdict(), weight, seconds, clock)


def _theirs(images: Tensor) -> np.ndarray:
    return np.ascontiguousarray(images[:, 0].permute(1, 2, 0).numpy())


def _pieces(
    step: Callable[[], object],
    atoms: Callable[[], np.ndarray],
    weight: Tensor,
    seconds: float,
    clock: Callable[[], float],
) -> Curve:
    """Return (seconds, atoms) after each piece of a solver, until a stream of images ends."""
    elapsed, points = 0.0, [(0.0, weight)]
    while elapsed < seconds:
        began = clock()
        try:
            step()
        except StopIteration:
            break
        elapsed += clock() - began
        points.append((elapsed, torch.from_numpy(atoms().squeeze().transpose(2, 0, 1).copy()).float()[:, None]))
    return points


def snapshots(learned: Curve, points: int) -> Curve:
    """Return the dictionaries at about so many times, evenly in their logarithm, the last included."""
    times = np.array([at for at, _ in learned])
    wanted = np.geomspace(max(times[times > 0].min(initial=1.0), 1e-3), times[-1], points)
    chosen = sorted({0, *(int(np.abs(times - t).argmin()) for t in wanted), len(learned) - 1})
    return [learned[i] for i in chosen]


def table(curves: dict[str, Scores], images: str) -> str:
    """Return the best objective of each method, and when it had reached sporco's best, as Markdown."""
    rivals = {name: min(f for _, f in c) for name, c in curves.items() if name.startswith("sporco")}
    goal = min(rivals.values())
    lines = [
        f"| method | best objective of {images} | in | seconds to sporco's best, {goal:.2f} |",
        "|---|---|---|---|",
    ]
    for name, points in curves.items():
        at, best = min(points, key=lambda p: p[1])
        reached = next((f"{t:.1f} s" for t, f in points if f <= goal), "not reached")
        lines.append(f"| {name} | {best:.2f} | {at:.1f} s | {reached} |")
    return "\n".join(lines)


def picture(curves: dict[str, Scores], path: Path) -> None:
    """Draw the held-out objective against time."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.semilogx(*zip(*[p for p in points if p[0] > 0], strict=True), "o-", ms=3, lw=1.5, label=name)
    axes.set(xlabel="seconds", ylabel="held-out objective of an image")
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def stream_of_patches(count: int, side: int = 100) -> Snapshots:
    """Yield patches (1, 1, side, side) of smooth noise, contrast-normalized."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        noise = torch.randn(1, 1, side, side, generator=generator)
        rough = torch.nn.functional.avg_pool2d(noise, 3, 1, 1).sign()
        yield prepared(torch.nn.functional.avg_pool2d(rough, 3, 1, 1) / 2 + 0.5, "contrast")


def learn_and_report_memory(arguments: argparse.Namespace) -> None:
    """Learn online, and print the peak resident memory of this process after every tenth of the patches, in MB."""
    tenth = max(1, arguments.memory // 10)

    def print_peak(report: Report, dictionary: pn.Dictionary) -> None:
        if report.iteration % tenth == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            kilobytes = peak / 1024 if sys.platform == "darwin" else peak
            print(f"{report.iteration:6d} patches: {kilobytes / 1024:.0f} MB at most", flush=True)

    torch.set_num_threads(arguments.threads)
    pn.keep_freed_memory()
    D = pn.ConvDictionary(start(arguments.atoms, arguments.size), padding=arguments.size - 1)
    pn.learn(stream_of_patches(arguments.memory), D, arguments.beta, gap=1e-3, callback=print_peak)


def main() -> None:
    """Run all methods and leave table, numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a .mat file with the key b, or a folder")
    parser.add_argument("--patches", type=int, metavar="N", help="draw so many from the images of a folder")
    parser.add_argument("--stream", action="store_true", help="online methods alone, each image once, in one order")
    parser.add_argument("--memory", type=int, metavar="N", help="only measure the memory of learning from N patches")
    parser.add_argument("--held-out", type=int, default=2, help="number of images, the last ones, that are held out")
    parser.add_argument("--atoms", type=int, default=100)
    parser.add_argument("--size", type=int, default=11)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=60, help="of each method")
    parser.add_argument("--points", type=int, default=8, help="dictionaries of each method that are scored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "processor"), help="by default the processor's with one thread")
    records.add_out(parser, "dictionary_learning")
    arguments = parser.parse_args()
    if arguments.memory:
        learn_and_report_memory(arguments)
        return
    if arguments.images is None:
        parser.error("--images is missing; expected a .mat file with the key b, or a folder of images, or --memory N")
    import sporco.fft

    torch.set_num_threads(arguments.threads)
    pn.keep_freed_memory()
    sporco.fft.pyfftw_threads = arguments.threads
    timed = arguments.clock or ("processor" if arguments.threads == 1 else "wall")
    clock = time.process_time if timed == "processor" else time.perf_counter
    images, beta, weight = (
        images_of(arguments.images, arguments.patches),
        arguments.beta,
        start(arguments.atoms, arguments.size),
    )
    x = images[: -arguments.held_out]
    limit, scored = arguments.seconds, {"held-out": images[-arguments.held_out :], "training": x[:8]}
    runs = {
        "pursuitnet, rounds": lambda: ours(x, weight, beta, limit, clock, False),
        "pursuitnet, online": lambda: ours(x, weight, beta, limit, clock, True),
        "sporco, ADMM consensus": lambda: sporco_batch(x, weight, beta, limit, clock),
        "sporco, online": lambda: sporco_online(drawn(x), weight, beta, limit, clock),
    }
    if arguments.stream:
        runs = {
            "pursuitnet, stream": lambda: ours(iter(x.split(1)), weight, beta, limit, clock, True),
            "sporco, stream": lambda: sporco_online(iter(x.split(1)), weight, beta, limit, clock),
        }
    curves: dict[str, dict[str, Scores]] = {kind: {} for kind in scored}
    for name, run in runs.items():
        learned = snapshots(run(), arguments.points)
        for kind, chosen in scored.items():
            curves[kind][name] = [(t, objective(atoms, chosen, beta)) for t, atoms in learned]
            t, last = curves[kind][name][-1]
            print(f"{name}: {last:.2f} of {kind} images after {t:.1f} s", flush=True)
    report = {
        "images": arguments.images.name,
        "patches": arguments.patches,
        "stream": arguments.stream,
        "atoms": arguments.atoms,
    }
    report |= {
        "size": arguments.size,
        "beta": beta,
        "threads": arguments.threads,
        "clock": timed,
        "torch": torch.__version__,
    }
    report["curves"] = {
        kind: {name: [(round(t, 3), round(f, 4)) for t, f in c] for name, c in found.items()}
        for kind, found in curves.items()
    }
    picture(curves["held-out"], records.write(arguments, "dictionary_learning", report))
    for kind, found in curves.items():
        print(table(found, f"{kind} images"))


if __name__ == "__main__":
    main()
