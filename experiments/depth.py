"""Do networks of hundreds of layers start to learn? Gradient norms by depth, and the first training steps.

    python experiments/depth.py [--out runs/depth] [--record]

Digits, batch 64, SGD with lr 0.05 and momentum 0.9, the same seed for all. Prints the table of docs/depth.md and
writes depth.json and depth.png to --out; with --record to the files of the page, and the table into the page.
"""

import argparse
import json
import re
from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe

ROOT = Path(__file__).parents[1]
RECORD, PAGE = ROOT / "experiments" / "results" / "depth.json", ROOT / "docs" / "depth.md"
FAMILIES = {"plain": "#c2410c", "res_csc_simplified": "#a16207", "resnet": "#1d4ed8", "res_csc": "#047857"}
DEPTHS, STEPS = (110, 218), 30


def measure(name: str) -> dict[str, list[float]]:
    """Return the gradient norm of every layer before the first step, and the loss before every step."""
    recipe = Recipe(model=name, epochs=2, lr=0.05)
    images, model = train.images_of(recipe), train.model_of(recipe)
    optimizer = train.optimizer_of(recipe, model)
    norms: list[float] = []
    losses: list[float] = []
    batches = (batch for epoch in (1, 2) for batch in train.batches(recipe, epoch, images))
    for pixels, labels, _ in islice(batches, STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        norms = norms or [float(layer.dictionary.weight.grad.norm()) for layer in model.pursuits()]
        optimizer.step()
        losses.append(loss.item())
    return {"gradient_norms": norms, "losses": losses}


def draw(results: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw gradient norms above, losses below, a column a depth."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, len(DEPTHS), sharey="row")
    for column, depth in enumerate(DEPTHS):
        for family, color in FAMILIES.items():
            result = results[f"{family}_{depth}"]
            axes[0, column].semilogy(result["gradient_norms"], color=color, label=family, lw=1.2)
            axes[1, column].plot(
                [float("nan") if v is None else v for v in result["losses"]], color=color, label=family, lw=1.5
            )
        axes[0, column].set(title=f"{depth} layers", xlabel="layer, from the image to the head")
        axes[1, column].set(xlabel="training step", ylim=(0, 3))
        axes[1, column].axhline(2.303, color="0.6", lw=0.8, ls=":")
    axes[0, 0].set_ylabel("gradient norm before the first step")
    axes[1, 0].set_ylabel("training loss (dotted: chance)")
    axes[0, 0].legend(frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": ""})


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| network | gradient norm, second layer / last layer | loss, mean of the last 5 of 30 steps |",
        "|---|---|---|",
    ]
    for name, result in results.items():
        norms, last = result["gradient_norms"], result["losses"][-5:]
        loss = "not a number" if None in last else f"{sum(last) / 5:.2f}"
        lines.append(f"| {name} | {norms[1] / norms[-1]:.3g} | {loss} |")
    return "\n".join(lines)


def page(text: str, results: dict[str, dict[str, list[float]]]) -> str:
    """Return a page with its table made again."""
    return re.sub(r"\| network \|.*?(?=\n\n)", lambda _: table(results), text, count=1, flags=re.DOTALL)


def finite(numbers: dict[str, list[float]]) -> dict[str, list[float | None]]:
    """Return numbers with None for NaN, which JSON does not have."""
    return {key: [v if v == v else None for v in values] for key, values in numbers.items()}


def main() -> None:
    """Train all, print the table, leave numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs", "depth"), help="folder for numbers and picture")
    parser.add_argument("--record", action="store_true", help="write docs/depth.md, its picture and its record instead")
    arguments = parser.parse_args()
    results = {}
    for name in (f"{family}_{depth}" for depth in DEPTHS for family in FAMILIES):
        results[name] = finite(measure(name))
        print(name, results[name]["losses"][-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    numbers = RECORD if arguments.record else arguments.out / "depth.json"
    about = {"torch": torch.__version__, "commit": train.commit(), "results": results}
    numbers.write_text(json.dumps(about) + "\n")
    draw(results, PAGE.with_suffix(".png") if arguments.record else arguments.out / "depth.png")
    if arguments.record:
        PAGE.write_text(page(PAGE.read_text(), results))
    print(table(results))


if __name__ == "__main__":
    main()
