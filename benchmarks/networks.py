"""A training step and an inference of MSD-CSC and Res-CSC: ours and the paper's algorithms as printed, in one run.

    python benchmarks/networks.py [--depth 12] [--unfolding 2] [--batch 64] [--rounds 3] [--steps 3] [--threads 2]
                                  [--device cpu] [--only TEXT] [--out runs/networks] [--record]

The baselines are Algorithms 2 and 3 as they are printed, including all concatenations, and Eq. 5 with its four
convolutions; they have the same weights and give the same numbers, which is checked first. If pytorchcv is installed,
its ResNet-20 is timed as well. In every round each competitor has a separate process, in turn, and times some steps on
fresh images; medians, and their range. The peak memory is that of one more process, above the memory before the step.
The floor of each time is the minimum time of the convolutions, by operations at the machine's rate in a matrix product
or by bytes at its rate in a copy, whichever takes longer; both rates are printed, and each network's fraction of the
first. Prints the table of docs/speed.md and writes JSON and a picture to --out; with --record to benchmarks/results/
and docs/, where the page shows them.

On a GPU, whose memory is managed by PyTorch's own allocator, all are timed in one process, as well as the trainer's
CUDA graph; torch.compile, which takes minutes, with --compiled.
"""

import argparse
import dataclasses
import importlib
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import records
import torch
from literal import LiteralMSD, LiteralResidual
from matplotlib.figure import Figure
from measure import Machine, Step
from torch import nn

import pursuitnet as pn


def networks(arguments: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """Return how each competitor is made, by name; those of one family hold the same weights."""
    depth, choices = arguments.depth, {"unfolding": arguments.unfolding}
    msd = lambda **more: seeded(f"msd_csc_{depth}", **choices, **more)  # noqa: E731
    residual = lambda: seeded("res_csc_20", norm=None, c=-0.1)  # noqa: E731
    found = {
        "Algorithm 2, literal": lambda: LiteralMSD(msd(norm=None), arguments.unfolding, False),
        "MSD-CSC, ISTA": lambda: msd(norm=None),
        "MSD-CSC, ISTA, normalized": msd,
        "Algorithm 3, literal": lambda: LiteralMSD(msd(norm=None), arguments.unfolding, True),
        "MSD-CSC, FISTA": lambda: msd(norm=None, solver="fista"),
        "Eq. 5, literal": lambda: LiteralResidual(residual()),
        "Res-CSC": residual,
        "ResNet": lambda: seeded("resnet_20", norm=None),
        "Res-CSC, normalized": lambda: seeded("res_csc_20"),
        "ResNet, normalized": lambda: seeded("resnet_20"),
        PEER: peer,
    }
    return found if importlib.util.find_spec("pytorchcv") else {n: made for n, made in found.items() if n != PEER}


def seeded(name: str, **choices: Any) -> pn.Network:
    """Return a network with the weights of seed 0, L up to date."""
    torch.manual_seed(0)
    return pn.create_model(name, **choices).eval()


def peer() -> nn.Module:
    """Return the ResNet-20 of pytorchcv, which needs nothing of what that requires (pip install --no-deps)."""
    return importlib.import_module("pytorchcv.models.resnet_cifar").resnet20_cifar10()


PEER = "ResNet of pytorchcv"
PAIRS = {
    "MSD-CSC, ISTA": "Algorithm 2, literal",
    "MSD-CSC, ISTA, normalized": "Algorithm 2, literal",
    "MSD-CSC, FISTA": "Algorithm 3, literal",
    "Res-CSC": "Eq. 5, literal",
    "ResNet": "Eq. 5, literal",
    "Res-CSC, normalized": "ResNet, normalized",
    PEER: "ResNet, normalized",
}
"""What each network is held against; itself where it is not named."""
EXACT = ("MSD-CSC, ISTA", "MSD-CSC, FISTA", "Res-CSC")
"""The networks that give the numbers of what they are held against."""

OURS: dict[str, dict[str, Any]] = {
    "": {},
    ", checkpointing": {"checkpointing": True},
    ", bfloat16": {"dtype": torch.bfloat16},
}
GRAPHED: dict[str, dict[str, Any]] = {
    ", CUDA graph": {"graphed": True},
    ", bfloat16, CUDA graph": {"graphed": True, "dtype": torch.bfloat16},
}
"""On a GPU only."""
COMPILED: dict[str, dict[str, Any]] = {
    ", compiled": {"compiled": "default"},
    ", bfloat16, compiled": {"compiled": "default", "dtype": torch.bfloat16},
    ", bfloat16, graphs": {"compiled": "reduce-overhead", "dtype": torch.bfloat16},
}
"""On a GPU only, and only if asked for: on a CPU it takes minutes and gains nothing."""
LITERAL: dict[str, dict[str, Any]] = {
    "": {},
    ", channels_last": {"layout": torch.channels_last},
    ", bfloat16": {"dtype": torch.bfloat16},
}


def competitors(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return every network under its variants, by name, as the arguments of ``step_of``; ours are channels-last."""
    found = {}
    for name in networks(arguments):
        ours = name != PEER and "literal" not in name
        variants = LITERAL if not ours else OURS
        if ours and arguments.device != "cpu":
            variants = variants | GRAPHED | (COMPILED if arguments.compiled else {})
        layout = {"layout": torch.channels_last} if ours else {}
        for suffix, options in variants.items():
            found[name + suffix] = {"name": name, **layout, **options}
    return {name: options for name, options in found.items() if any(text in name for text in arguments.only or [""])}


def step_of(arguments: argparse.Namespace, competitor: str, training: bool) -> Step:
    """Return the step of a competitor."""
    options = dict(competitors(arguments)[competitor])
    return Step(networks(arguments)[options.pop("name")](), training, **options)


def check(arguments: argparse.Namespace) -> float:
    """Return the largest difference of ours from the literal ones in double precision, relative to a logit."""
    made, worst = networks(arguments), 0.0
    torch.set_default_dtype(torch.float64)
    x = torch.rand(2, 3, 32, 32)
    for ours in EXACT:
        one, other = (made[name]().eval()(x).detach() for name in (ours, PAIRS[ours]))
        worst = max(worst, float((one - other).abs().max() / other.abs().max()))
    torch.set_default_dtype(torch.float32)
    return worst


def rows(arguments: argparse.Namespace, device: Machine, argv: list[str]) -> list[dict[str, Any]]:
    """Measure everything; return a row for each competitor."""

    def ask(*what: str) -> Any:
        if arguments.device == "cpu":
            return measure.alone(__file__, argv, *what)
        return one(argparse.Namespace(**{**vars(arguments), "measure": what}))

    names, times = competitors(arguments), {}
    for what in ("training", "inference"):
        some = [n for n in names if what == "training" or not ("checkpointing" in n or "CUDA graph" in n)]
        times[what] = measure.in_rounds(some, arguments.rounds, lambda name, what=what: ask("time", name, what))
    table = []
    for name, options in names.items():
        against = PAIRS.get(options["name"], options["name"])
        row: dict[str, Any] = {"name": name, "against": against, "peak_mb": ask("peak", name, "training")}
        for what in ("training", "inference"):
            if name not in times[what]:
                continue
            eager = dataclasses.replace(step_of(arguments, name, what == "training"), compiled=None, graphed=False)
            needs = measure.needs_of(eager, arguments.batch, arguments.device)
            dtype = options.get("dtype", torch.float32)
            middle = row[what] = statistics.median(times[what][name])
            row[f"{what}_range"] = min(times[what][name]), max(times[what][name])
            row[f"{what}_floor"] = device.floor(needs, dtype)
            row[f"{what}_share"] = needs.operations / middle / device.operations[dtype]
            if against in times[what]:
                row[f"{what}_ratio"] = statistics.median(times[what][against]) / middle
        table.append(row)
        print(line(row), flush=True)
    return table


HEADER = (
    "| network | training step | against | floor | inference | against | floor | peak memory | of the matrix rate |\n"
    + "|---" * 9
    + "|"
)


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    cells = [row["name"]]
    for what in ("training", "inference"):
        if what not in row:
            cells += ["–"] * 3
            continue
        low, high = row[f"{what}_range"]
        ratio = f"{row[f'{what}_ratio']:.2f}×" if f"{what}_ratio" in row else "–"
        cells += [f"{row[what]:.4g} s ({low:.4g} to {high:.4g})", ratio, f"{row[f'{what}_floor']:.3g} s"]
    return "| " + " | ".join([*cells, f"{row['peak_mb']:.0f} MB", f"{100 * row['training_share']:.0f} %"]) + " |"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of every competitor."""
    figure = Figure(figsize=(11, 0.34 * len(found) + 1.2), layout="constrained")
    names = [row["name"] for row in found][::-1]
    ours = [PEER not in name and "literal" not in name for name in names]
    for axes, key, title in zip(
        figure.subplots(1, 2, sharey=True),
        ("training", "peak_mb"),
        ("seconds a training step", "MB above the start"),
        strict=True,
    ):
        values = [row[key] for row in found][::-1]
        axes.barh(names, values, color=["#1d4ed8" if mine else "#8a8a8a" for mine in ours])
        axes.margins(x=0.12, y=0.01)  # space for the numbers
        for at, value in enumerate(values):
            axes.text(value, at, f" {value:.3f}" if value < 10 else f" {value:.0f}", va="center", fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def one(arguments: argparse.Namespace) -> Any:
    """Return the one measurement that this process was started for."""
    what, name, kind = arguments.measure
    step = step_of(arguments, name, kind == "training")
    if what == "peak":
        return measure.peak(step, arguments.batch, arguments.device)
    return measure.seconds(step, arguments.batch, arguments.device, arguments.steps)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"depth": 12, "unfolding": 2, "batch": 64, "rounds": 3, "steps": 3, "threads": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="on a GPU, torch.compile too")
    records.add_out(parser, "networks")
    parser.add_argument("--only", action="append", help="competitors whose names contain this; not with --record")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(one(arguments)))
        return
    if arguments.only and arguments.record:
        parser.error("--only measures a part, which is no record: leave out --record")
    if not competitors(arguments):
        known = "; ".join(competitors(argparse.Namespace(**{**vars(arguments), "only": None})))
        parser.error(f"--only is {arguments.only}, which no competitor's name holds; they are {known}")
    print(f"ours and the literal ones differ by {check(arguments):.1e}, relatively, in double precision")
    device = measure.machine(arguments.device)
    rates = {str(dtype).removeprefix("torch."): rate for dtype, rate in device.operations.items()}
    listed = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    print(f"matrix product: {listed}; copy: {device.bytes / 1e9:.1f} GB/s, read and written\n\n{HEADER}")
    results = rows(arguments, device, sys.argv[1:])
    about = {**measure.settings(arguments), "matrix_rate": rates, "copy_rate": device.bytes}
    draw(results, records.write(arguments, "networks", {**about, "rows": results}, arguments.device))


if __name__ == "__main__":
    main()
