"""Do networks of hundreds of layers start to learn? Gradient norms by depth, and the first training steps.

    python experiments/depth.py

Digits, batch 64, SGD with lr 0.05 and momentum 0.9, the same seed for all. Writes docs/depth.png and
experiments/results/depth.json, and prints the table of docs/depth.md.
"""

import json
from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from pursuitnet import train
from pursuitnet.recipe import Recipe

ROOT = Path(__file__).parents[1]
FAMILIES = {"plain": "#c2410c", "res_csc_simplified": "#a16207", "resnet": "#1d4ed8", "res_csc": "#047857"}
DEPTHS, STEPS = (110, 218), 30


def measure(name: str) -> dict[str, list[float]]:
    """Return the gradient norm of every layer before the first step, and the loss before every step."""
    recipe = Recipe(model=name, epochs=2, lr=0.05)
    images, model = train.images_of(recipe), train.model_of(recipe)
    optimiser = train.optimiser_of(recipe, model)
    norms: list[float] = []
    losses: list[float] = []
    batches = (batch for epoch in (1, 2) for batch in train.batches(recipe, epoch, images))
    for pixels, labels, _ in islice(batches, STEPS):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        norms = norms or [float(layer.dictionary.weight.grad.norm()) for layer in model.pursuits()]
        optimiser.step()
        losses.append(loss.item())
    return {"gradient_norms": norms, "losses": losses}


def draw(results: dict[str, dict[str, list[float]]]) -> None:
    """Draw gradient norms above, losses below, a column a depth."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, len(DEPTHS), sharey="row")
    for column, depth in enumerate(DEPTHS):
        for family, colour in FAMILIES.items():
            found = results[f"{family}_{depth}"]
            axes[0, column].semilogy(found["gradient_norms"], color=colour, label=family, lw=1.2)
            axes[1, column].plot(found["losses"], color=colour, label=family, lw=1.5)
        axes[0, column].set(title=f"{depth} layers", xlabel="layer, from the image to the head")
        axes[1, column].set(xlabel="training step", ylim=(0, 3))
        axes[1, column].axhline(2.303, color="0.6", lw=0.8, ls=":")
    axes[0, 0].set_ylabel("gradient norm before the first step")
    axes[1, 0].set_ylabel("training loss (dotted: chance)")
    axes[0, 0].legend(frameon=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "depth.png", dpi=110)


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| network | gradient norm, second layer / last layer | loss, mean of the last 5 of 30 steps |",
        "|---|---|---|",
    ]
    for name, found in results.items():
        norms, losses = found["gradient_norms"], found["losses"]
        lines.append(f"| {name} | {norms[1] / norms[-1]:.3g} | {sum(losses[-5:]) / 5:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = {}
    for depth in DEPTHS:
        for family in FAMILIES:
            found[f"{family}_{depth}"] = measure(f"{family}_{depth}")
            print(f"{family}_{depth}", found[f"{family}_{depth}"]["losses"][-1], flush=True)
    (ROOT / "experiments" / "results").mkdir(exist_ok=True)
    finite = {n: {k: [v if v == v else None for v in vs] for k, vs in r.items()} for n, r in found.items()}
    about = {"torch": torch.__version__, "commit": train.commit(), "results": finite}
    (ROOT / "experiments" / "results" / "depth.json").write_text(json.dumps(about) + "\n")
    (ROOT / "docs").mkdir(exist_ok=True)
    draw(found)
    print(table(found))
