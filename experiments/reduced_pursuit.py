"""How far is a code from the optimum after k steps: Algorithm 2, Algorithm 3, and the reduced pursuit?

    python experiments/reduced_pursuit.py [--out runs/reduced_pursuit] [--record]

One step costs one convolution and one transposed convolution in all of them. Every pursuit starts at zero, on [I Fᵀ]
with Γ ≥ 0 and one β for both parts; the dictionaries are the first two layers of MSD-CSC, random and after a short
training on the digits (with atoms of norm 1 and as trained), the signals are the inputs of these layers for 64 test
images. Prints the table of docs/solving.md and writes reduced_pursuit.json and reduced_pursuit.png to --out; with
--record to experiments/results/ and docs/, where the page shows them.
"""

import argparse
import copy
import json
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

import pursuitnet as pn
from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.trace import trace_layers

HERE = Path(__file__).parent
RECORD, PICTURE = HERE / "results" / "reduced_pursuit.json", HERE.parent / "docs" / "reduced_pursuit.png"
RECIPE = Recipe(epochs=5)
STEPS = 50
BETAS = (0.01, 0.1, 0.3)
PURSUITS = {
    "Algorithm 2 (ISTA)": pn.ISTA(),
    "Algorithm 3 (FISTA)": pn.FISTA(),
    "reduced, ISTA": pn.ReducedSolver(pn.ISTA()),
    "reduced, FISTA": pn.ReducedSolver(pn.FISTA()),
}


def problems() -> dict[str, tuple[Tensor, pn.Dictionary]]:
    """Return signals and dictionaries by name, in double precision."""
    trainer = train.Trainer(RECIPE)
    images, model = trainer.images, trainer.model
    some, dictionaries = images.prepared(images.test[0][:64]), {}
    for state in ("random", "trained"):
        if state == "trained":
            for epoch in range(1, RECIPE.epochs + 1):
                trainer.epoch(epoch)
        for number, traces in enumerate(trace_layers(model.eval(), some)[:2], 1):
            dictionary = copy.deepcopy(traces.layer.dictionary).double().requires_grad_(False)
            signal = traces.signals[0].double()
            if state == "trained":
                dictionaries[f"layer {number}, trained, as it is"] = (signal, dictionary)
            dictionaries[f"layer {number}, {state}, unit atoms"] = (signal, unit(dictionary))
    return dict(sorted(dictionaries.items()))


def unit(dictionary: pn.WithIdentity) -> pn.WithIdentity:
    """Return a copy whose atoms have length 1, as the columns of I have."""
    copied = copy.deepcopy(dictionary)
    weight = copied.dictionary.weight
    weight.div_(weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    return copied


def curves(x: Tensor, D: pn.Dictionary, share: float) -> dict[str, list[float]]:
    """Return the median relative distance of the objective from the minimum after 0, 1, …, STEPS steps."""
    used = x.flatten(1).norm(dim=1) > 0
    x = x[used]
    beta = share * D.analyze(x).abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    best = pn.solve(x, D, beta, pn.ReducedSolver(), True, max_steps=20_000, tol=1e-9)
    assert best.converged, best.gap.max()
    assert 0 < (best.code != 0).double().mean() < 1
    distances = {}
    for name, solver in PURSUITS.items():
        run = pn.solve(x, D, beta, solver, True, max_steps=STEPS, tol=0, trace=True, restart=False)
        distances[name] = (run.objectives / best.objective - 1).clamp(min=1e-10).median(1).values.tolist()
    return distances


def picture(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw one panel for each dictionary and β."""
    names = list(dict.fromkeys(key.split(", β")[0] for key in results))
    figure = Figure(figsize=(9, 13), layout="constrained")
    panels = figure.subplots(len(names), len(BETAS), sharex=True, sharey=True)
    for panel, (key, by_name) in zip(panels.flat, results.items(), strict=True):
        for (name, curve), style in zip(by_name.items(), ("C0-", "C0--", "C3-", "C3--"), strict=True):
            panel.semilogy(curve, style, lw=1.5, label=name)
        panel.set_title(key, fontsize=9)
        panel.set_ylim(1e-10, None)
    figure.supxlabel("steps, each one convolution and one transposed convolution", fontsize=9)
    figure.supylabel("relative distance of the objective from the minimum (median of 64 images)", fontsize=9)
    panels[0, 0].legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=130)


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the distances after some steps as Markdown."""
    lines = ["| after 1 / 3 / 10 / 50 steps | " + " | ".join(PURSUITS) + " |", "|" + "---|" * 5]
    for key, by_name in results.items():
        cells = [" / ".join(f"{c[k]:.0e}" for k in (1, 3, 10, 50)) for c in by_name.values()]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and leave numbers, picture and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs", "reduced_pursuit"), help="folder for numbers and picture"
    )
    parser.add_argument("--record", action="store_true", help="write the page's own record and picture instead")
    arguments = parser.parse_args()
    results = {
        f"{name}, β = {share}·max": curves(x, D, share) for name, (x, D) in problems().items() for share in BETAS
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    rounded = {key: {n: [float(f"{v:.3e}") for v in c] for n, c in by_name.items()} for key, by_name in results.items()}
    numbers = RECORD if arguments.record else arguments.out / RECORD.name
    numbers.write_text(json.dumps(rounded, ensure_ascii=False, indent=0) + "\n")
    picture(results, PICTURE if arguments.record else arguments.out / PICTURE.name)
    print(table(results))


if __name__ == "__main__":
    main()
