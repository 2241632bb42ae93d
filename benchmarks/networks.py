"""A training step and an inference of MSD-CSC and Res-CSC: ours beside the paper's algorithms written out, one run.

    python benchmarks/networks.py [--depth 12] [--unfolding 2] [--batch 64] [--rounds 7] [--threads 2] [--device cpu]

The baselines are Algorithms 2 and 3 as they are printed, concatenations and all, and Eq. 5 with its four convolutions;
they hold the same weights and give the same numbers, which is checked first. Every round takes one step of every
competitor in turn, on fresh images; medians, and their spread. The peak of the memory is that of a process of its own,
above what it took before the step. Also printed: the machine's rate in a matrix product, and each network's share of
it. Writes a table, JSON to benchmarks/results/ and a picture to docs/.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import pursuitnet as pn
from pursuitnet import train

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


class LiteralMSD(nn.Module):
    """MSD-CSC as Algorithms 2 and 3 print it, with the weights of one of our networks without normalisation."""

    def __init__(self, model: pn.Network, unfolding: int, fista: bool) -> None:
        super().__init__()
        self.unfolding, self.fista = unfolding, fista
        self.blocks, self.dilations = [], []
        self.filters, self.biases, self.steps = (nn.ParameterList() for _ in range(3))
        for module in model.features:
            layers = [m for m in module.modules() if isinstance(m, pn.PursuitLayer)]
            self.blocks.append([self._take(layer) for layer in layers] or module)
        self.head = nn.Linear(model.head.in_features, model.head.out_features)
        self.head.load_state_dict(model.head.state_dict())

    def _take(self, layer: pn.PursuitLayer) -> int:
        """Take over F, b and c of a layer; return its number."""
        convolution, threshold, c = layer.dictionary.dictionary, layer.threshold, layer.step()[0].detach().clone()
        beta = torch.cat([threshold.identity_penalty, threshold.penalty]).detach()
        self.filters.append(convolution.weight.detach().clone())
        self.biases.append((-c * beta).view(-1, 1, 1))
        self.steps.append(c)
        self.dilations.append(convolution.dilation[0])
        return len(self.steps) - 1

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if isinstance(block, nn.Module):
                x = block(x)
                continue
            for number in block:
                x = self._layer(number, x)
        return self.head(x.mean(dim=(2, 3)))

    def _layer(self, number: int, X: Tensor) -> Tensor:
        W, b, c, s = self.filters[number], self.biases[number], self.steps[number], self.dilations[number]
        w = len(W)
        code = before = F.relu(c * torch.cat([X, F.conv2d(X, W, padding=s, dilation=s)], 1) + b)
        t = 1.0
        for _ in range(self.unfolding):
            t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
            Z = code + (last - 1) / t * (code - before) if self.fista else code
            f1 = Z[:, :-w] + F.conv_transpose2d(Z[:, -w:], W, padding=s, dilation=s) - X
            f2 = F.conv2d(f1, W, padding=s, dilation=s)
            f3 = torch.cat([f1, f2], 1)
            before, code = code, F.relu(Z - c * f3 + b)
        return code


class LiteralResidual(nn.Module):
    """Res-CSC as Eq. 5 prints it, Dᵀx and c·DᵀD·X₋₁ apart, without normalisation."""

    def __init__(self, model: pn.Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        first, *blocks = self.model.features
        x = first(x)
        for block in blocks:
            code, previous, layer = block.first(x), block._shortcut(x), block.second
            D, c = layer.dictionary, -layer.step()[1]
            again = D.analyze(D.synthesize(previous, code.shape))
            x = layer.threshold((previous,), (D.analyze(code) + c * again,))[0]
        return self.model.head(x.mean(dim=(2, 3)))


@dataclass(frozen=True)
class Step:
    """What is timed: forward, loss and backward, or an inference, of a network under one variant.

    Attributes:
        model: the network.
        training: whether there is a backward pass.
        checkpointing: whether codes are computed again instead of kept.
        recursive: whether those between the layers are, too.
        dtype: of convolutions, under autocast; None for float32.
        layout: of images and filters.
    """

    model: nn.Module
    training: bool
    checkpointing: bool = False
    recursive: bool = False
    dtype: torch.dtype | None = None
    layout: torch.memory_format = torch.contiguous_format

    def images(self, arguments: argparse.Namespace) -> Tensor:
        """Return a fresh batch; the network is brought to its layout."""
        self.model.to(arguments.device).to(memory_format=self.layout)
        x = torch.rand(arguments.batch, 3, 32, 32, device=arguments.device)
        return x.contiguous(memory_format=self.layout)

    def __call__(self, x: Tensor) -> None:
        model = self.model
        if isinstance(model, pn.Network):
            model.set_grad_checkpointing(self.checkpointing, recursive=self.recursive)
        if model.training != self.training:
            model.train(self.training)
        half = torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None)
        with half, torch.set_grad_enabled(self.training):
            logits = model(x)
        if self.training:
            model.zero_grad()
            F.cross_entropy(logits.float(), torch.zeros(len(x), dtype=torch.long, device=x.device)).backward()


def networks(arguments: argparse.Namespace, dtype: torch.dtype = torch.float32) -> dict[str, nn.Module]:
    """Return the competitors by name; those of one family hold the same weights."""
    torch.manual_seed(0)
    choices = {"unfolding": arguments.unfolding, "norm": None}
    ista = pn.create_model(f"msd_csc_{arguments.depth}", **choices)
    fista = pn.create_model(f"msd_csc_{arguments.depth}", solver="fista", **choices)
    fista.load_state_dict(ista.state_dict())
    for model in (ista, fista):
        model.to(dtype).eval()  # brings L up to date
    residual = pn.create_model("res_csc_20", norm=None, c=-0.1).to(dtype)
    found = {
        "Algorithm 2, literal": LiteralMSD(ista, arguments.unfolding, False),
        "MSD-CSC, ISTA": ista,
        "MSD-CSC, ISTA, normalised": pn.create_model(f"msd_csc_{arguments.depth}", unfolding=arguments.unfolding),
        "Algorithm 3, literal": LiteralMSD(fista, arguments.unfolding, True),
        "MSD-CSC, FISTA": fista,
        "Eq. 5, literal": LiteralResidual(residual),
        "Res-CSC": residual,
        "ResNet": pn.create_model("resnet_20", norm=None),
    }
    return {name: model.to(dtype) for name, model in found.items()}


PAIRS = {
    "MSD-CSC, ISTA": "Algorithm 2, literal",
    "MSD-CSC, ISTA, normalised": "Algorithm 2, literal",
    "MSD-CSC, FISTA": "Algorithm 3, literal",
    "Res-CSC": "Eq. 5, literal",
    "ResNet": "Eq. 5, literal",
}
OURS: dict[str, dict[str, Any]] = {
    "": {"layout": torch.channels_last},
    ", checkpointing": {"layout": torch.channels_last, "checkpointing": True},
    ", bfloat16": {"layout": torch.channels_last, "dtype": torch.bfloat16},
}
LITERAL: dict[str, dict[str, Any]] = {
    "": {},
    ", channels_last": {"layout": torch.channels_last},
    ", bfloat16": {"dtype": torch.bfloat16},
}


def competitors(arguments: argparse.Namespace, training: bool) -> dict[str, Step]:
    """Return every network under its variants; ours are channels-last, as they are trained."""
    found = {}
    for name, model in networks(arguments).items():
        for suffix, options in (OURS if isinstance(model, pn.Network) else LITERAL).items():
            if training or "checkpointing" not in suffix:
                found[name + suffix] = Step(model, training, **options)
    return found


def check(arguments: argparse.Namespace) -> float:
    """Return the largest difference of ours from the literal ones in double precision, relative to a logit."""
    models, worst = networks(arguments, torch.float64), 0.0
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    for ours, literal in PAIRS.items():
        if ours in ("ResNet", "MSD-CSC, ISTA, normalised"):  # which are something else
            continue
        one, other = (models[name].eval()(x).detach() for name in (ours, literal))
        worst = max(worst, float((one - other).abs().max() / other.abs().max()))
    return worst


def timed(steps: dict[str, Step], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each, a round after another."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(arguments.rounds + 1):
        for name, step in steps.items():
            x = step.images(arguments)
            began = clock(arguments.device)
            step(x)
            if round_:  # the first one warms up
                found[name].append(clock(arguments.device) - began)
    return found


def clock(device: str) -> float:
    """Return the time at which all that was asked of the device is done."""
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def peak_of(step: Step, arguments: argparse.Namespace) -> float:
    """Return the megabytes of one step above the start, in this process."""
    x = step.images(arguments)
    step(x[:2])  # what is loaded with the first step is not the step's
    if arguments.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(x)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS", anew=True)
    step(x)
    return (resident("VmHWM") - before) / 1e6


def resident(name: str, anew: bool = False) -> int:
    """Return bytes of this process in memory, now (VmRSS) or at most (VmHWM), as Linux counts them.

    Args:
        name: which.
        anew: let the peak be counted from here.
    """
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def peak_apart(script: str, argv: list[str], *what: str) -> float:
    """Return the megabytes of one step, in a process of its own that returns memory as soon as it is free.

    As it comes, the C library keeps some of it, and how much depends on the order of requests.
    """
    command = [sys.executable, script, *argv, "--peak-of", *what]
    returning = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=returning).stdout)


def matrix_rate(device: str, n: int = 2048) -> float:
    """Return floating-point operations a second of a float32 matrix product, the best of five."""
    a, b, best = torch.rand(n, n, device=device), torch.rand(n, n, device=device), float("inf")
    for _ in range(5):
        began = clock(device)
        a @ b
        best = min(best, clock(device) - began)
    return 2 * n**3 / best


def operations(step: Step, arguments: argparse.Namespace) -> float:
    """Return the floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step(step.images(arguments))
    return counter.get_total_flops()


def rows(arguments: argparse.Namespace, argv: list[str]) -> list[dict[str, Any]]:
    """Measure everything; return a row for each competitor."""
    times = {what: timed(competitors(arguments, what == "training"), arguments) for what in ("training", "inference")}
    rate, found = matrix_rate(arguments.device), []
    for name, seconds in times["training"].items():
        literal = PAIRS.get(plain(name), plain(name))
        middle = statistics.median(seconds)
        row = {
            "name": name,
            "against": literal,
            "training": middle,
            "training_range": (min(seconds), max(seconds)),
            "training_ratio": statistics.median(times["training"][literal]) / middle,
            "peak_mb": peak_apart(__file__, argv, name),
        }
        if name in times["inference"]:
            row["inference"] = statistics.median(times["inference"][name])
            row["inference_ratio"] = statistics.median(times["inference"][literal]) / row["inference"]
        if arguments.device == "cpu" and "bfloat16" not in name:
            row["share_of_rate"] = operations(competitors(arguments, True)[name], arguments) / middle / rate
        found.append(row)
        print(line(row), flush=True)
    print(f"\nmatrix product: {rate / 1e9:.0f} GFLOP/s")
    return found


def plain(name: str) -> str:
    """Return the name of a network without that of its variant."""
    for suffix in filter(None, {**OURS, **LITERAL}):
        name = name.removesuffix(suffix)
    return name


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    low, high = row["training_range"]
    inference = f"{row['inference']:.3f} s | {row['inference_ratio']:.2f}×" if "inference" in row else "– | –"
    share = f"{100 * row['share_of_rate']:.0f} %" if "share_of_rate" in row else "–"
    return (
        f"| {row['name']} | {row['training']:.3f} s ({low:.3f} to {high:.3f}) | {row['training_ratio']:.2f}× | "
        f"{inference} | {row['peak_mb']:.0f} MB | {share} |"
    )


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of every competitor."""
    figure = Figure(figsize=(11, 0.34 * len(found) + 1.2), layout="constrained")
    names = [row["name"] for row in found][::-1]
    for axes, key, title in zip(
        figure.subplots(1, 2, sharey=True),
        ("training", "peak_mb"),
        ("seconds a training step", "MB above the start"),
        strict=True,
    ):
        values = [row[key] for row in found][::-1]
        axes.barh(names, values, color=["#8a8a8a" if "literal" in name else "#1d4ed8" for name in names])
        for at, value in enumerate(values):
            axes.text(value, at, f" {value:.3f}" if value < 10 else f" {value:.0f}", va="center", fontsize=8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("depth", 12), ("unfolding", 2), ("batch", 64), ("rounds", 7), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print(peak_of(competitors(arguments, training=True)[arguments.peak_of], arguments))
        return
    print(f"ours and the literal ones differ by {check(arguments):.1e}, relatively, in double precision\n")
    print(
        "| network | training step | against literal | inference | against literal | peak memory | of the matrix rate |"
    )
    print("|---" * 7 + "|")
    found = rows(arguments, sys.argv[1:])
    RESULTS.mkdir(exist_ok=True)
    about = {"machine": platform.machine(), "torch": torch.__version__, "commit": train.commit(), **vars(arguments)}
    (RESULTS / "networks.json").write_text(json.dumps({**about, "rows": found}, indent=1) + "\n")
    draw(found, DOCS / "networks.png")


if __name__ == "__main__":
    main()
