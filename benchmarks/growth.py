"""How the cost of MSD-CSC grows: time with the unfolding, memory with depth and unfolding.

    python benchmarks/growth.py [--depth 12] [--width 32] [--batch 32] [--rounds 3] [--steps 3] [--threads 2]
                                [--device cpu] [--out runs/growth] [--record]

Time: a training step and an inference at unfolding 0 to 8, each in a separate process, in turn in every round,
medians; the slope of the line through them is compared with one convolution and one transposed convolution in every
layer (their own forward and backward pass, on the same shapes, in the same rounds). Memory: the peak of one training
step above the start, each in a separate process, with and without checkpointing, and of an inference. Writes JSON and
a picture to --out; with --record to benchmarks/results/ and docs/, where the page docs/speed.md shows them.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import measure
import records
import torch
from matplotlib.figure import Figure
from measure import Step
from torch import Tensor, nn

import pursuitnet as pn

TIMED = (0, 1, 2, 4, 8)
DEPTHS = (6, 12, 24, 48)
UNFOLDINGS = (0, 1, 2, 4, 8, 16)
KINDS = ("kept", "checkpointed", "recursively", "inference")


def step_of(arguments: argparse.Namespace, depth: int, unfolding: int, kind: str) -> Step:
    """Return a step of MSD-CSC as it is trained, normalized, or an inference."""
    torch.manual_seed(0)
    model = pn.create_model(f"msd_csc_{depth}", width=arguments.width, unfolding=unfolding)
    again = kind in ("checkpointed", "recursively")
    return Step(model, kind != "inference", again, kind == "recursively", layout=torch.channels_last)


class Convolutions(nn.Module):
    """One convolution and one transposed convolution of every layer of a network, and nothing else.

    Called with images, it runs the network once to learn the signals of its layers, and from then on the
    convolutions alone, in training with their backward pass.
    """

    def __init__(self, model: pn.Network) -> None:
        super().__init__()
        self.model = model
        self.pairs: list[tuple[pn.PursuitLayer, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        if not self.pairs:
            note = lambda layer, inputs: self.pairs.append((layer, inputs[0].detach()))  # noqa: E731
            hooks = [layer.register_forward_pre_hook(note) for layer in self.model.pursuits()]
            self.model(x)
            for hook in hooks:
                hook.remove()
        for layer, signal in self.pairs:
            D = layer.dictionary.dictionary
            back = D.synthesize(D.analyze(signal.requires_grad_(self.training)), signal.shape)
            if self.training:
                back.backward(signal.detach())
            D.weight.grad = signal.grad = None
        return torch.zeros(len(x), 2, requires_grad=self.training)  # for the loss of a step


def times(arguments: argparse.Namespace, argv: list[str], training: bool) -> dict[str, float]:
    """Return the median seconds of a step at every unfolding, and of the convolutions alone."""
    kind = "kept" if training else "inference"
    names = [*map(str, TIMED), "convolutions"]
    ask = lambda name: measure.alone(__file__, argv, "time", str(arguments.depth), name, kind)  # noqa: E731
    by_name = measure.in_rounds(names, arguments.rounds, ask)
    return {name: statistics.median(seconds) for name, seconds in by_name.items()}


def slope(seconds: dict[str, float]) -> float:
    """Return the seconds of one more unfolding: the slope of the least-squares line."""
    return statistics.linear_regression(TIMED, [seconds[str(u)] for u in TIMED]).slope


def peaks(arguments: argparse.Namespace, argv: list[str]) -> list[dict[str, Any]]:
    """Return the megabytes of every kind of step at every depth and at every unfolding."""
    rows = []
    cases = [(depth, 2) for depth in DEPTHS] + [(arguments.depth, u) for u in UNFOLDINGS]
    for depth, unfolding in dict.fromkeys(cases):
        for kind in KINDS:
            megabytes = measure.alone(__file__, argv, "peak", str(depth), str(unfolding), kind)
            row = {"depth": depth, "unfolding": unfolding, "kind": kind, "mb": megabytes}
            print(row, flush=True)
            rows.append(row)
    return rows


def one(arguments: argparse.Namespace) -> Any:
    """Return the one measurement that this process was started for."""
    what, depth, unfolding, kind = arguments.measure
    alone = unfolding == "convolutions"
    step = step_of(arguments, int(depth), 0 if alone else int(unfolding), kind)
    if alone:
        step = Step(Convolutions(step.model), step.training, layout=step.layout)
    if what == "peak":
        return measure.peak(step, arguments.batch, arguments.device)
    return measure.seconds(step, arguments.batch, arguments.device, arguments.steps)


def draw(results: dict[str, Any], depth: int, path: Path) -> None:
    """Draw time against unfolding, memory against depth, memory against unfolding."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    time, by_depth, by_unfolding = figure.subplots(1, 3)
    for what, color in (("training", "#1d4ed8"), ("inference", "#c2410c")):
        seconds = results[what]
        one = slope(seconds)
        label = f"{what}: {one / seconds['convolutions']:.2f} of the two convolutions a step"
        time.plot(TIMED, [seconds[str(u)] for u in TIMED], "o-", color=color, label=label)
    time.set(xlabel="unfolding", ylabel="seconds a batch", title=f"msd_csc_{depth}", ylim=(0, None))
    for axes, key, other, value in ((by_depth, "depth", "unfolding", 2), (by_unfolding, "unfolding", "depth", depth)):
        for kind, color in zip(KINDS, ("#8a8a8a", "#047857", "#1d4ed8", "#c2410c"), strict=True):
            rows = [r for r in results["peaks"] if r[other] == value and r["kind"] == kind]
            rows.sort(key=lambda row: row[key])
            axes.plot([r[key] for r in rows], [r["mb"] for r in rows], "o-", color=color, label=kind)
        axes.set(xlabel=key, ylabel="MB above the start", title=f"{other} {value}", xscale="symlog", yscale="log")
        axes.set_xticks(sorted({r[key] for r in results["peaks"] if r[other] == value}))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.minorticks_off()
    for axes in (time, by_depth, by_unfolding):
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"depth": 12, "width": 32, "batch": 32, "rounds": 3, "steps": 3, "threads": 2}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    records.add_out(parser, "growth")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(one(arguments)))
        return
    results: dict[str, Any] = {}
    for what in ("training", "inference"):
        results[what] = seconds = times(arguments, sys.argv[1:], what == "training")
        listed = ", ".join(f"{name}: {value:.3f} s" for name, value in seconds.items())
        of_both = slope(seconds) / seconds["convolutions"]
        print(f"{what}: {listed}; one more unfolding {of_both:.2f} of the convolutions", flush=True)
    results["peaks"] = peaks(arguments, sys.argv[1:])
    picture = records.write(arguments, "growth", {**measure.settings(arguments), **results}, arguments.device)
    draw(results, arguments.depth, picture)


if __name__ == "__main__":
    main()
