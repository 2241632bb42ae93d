"""Layers that are solved, beside layers of one to three steps: accuracy, cost, other numbers of steps, noise.

    python experiments/solved.py [--epochs 6] [--seeds 3] [--width 8] [--only TEXT] [--out runs/solved]
    python experiments/solved.py --table

The digits, by Adam at 0.01, without batch normalization in every row but those that say so, since an optimum has none.
``res_csc_8`` cannot be solved by its recipe: an optimum does not depend on where its steps start, so that the four
starts would be one network. Here its layers are replaced by solved ones, which is what all four would become. Its
further steps, which the paper does not have, are steps of Eq. 1 after that of Eq. 5.

Noise is Gaussian, on images in [0, 1]. All β are then multiplied by the factor at which the layers reconstruct their
noisy input as well as they did clean training images (``evaluate --adapt reconstruction``); no label is used.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pursuitnet as pn
from pursuitnet.multilayer import with_unfolding
from pursuitnet.networks.choices import scale_filters
from pursuitnet.networks.dense import SOLVED_RIDGE
from pursuitnet.program.evaluation.adaptation import Adaptation
from pursuitnet.program.evaluation.settings import penalties, with_thresholds
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train.optimizer import optimizer_of
from pursuitnet.program.train.trainer import Trainer, accuracy, logits_of

OUT = Path("runs", "solved")
BASE = Recipe(optimizer="adam", lr=0.01, weight_decay=0.0, batch_size=64)
STEPS = (0, 1, 2, 4, 16, 64)
"""Numbers of steps after the first at test time."""
SIGMAS = (0.1, 0.2, 0.3)
"""Standard deviations of the noise, of images in [0, 1]."""
CLEAN = 64
"""Training images that show how well the layers reconstruct clean images, and noisy images that are compared."""


def rows(epochs: int, width: int) -> Iterator[tuple[str, Recipe, int | str]]:
    """Yield the name of each network, its recipe, and the number of steps after the first, or "solved"."""
    base = replace(BASE, epochs=epochs, width=width)
    for unfolding in (0, 1, 2):
        yield f"msd_csc_3, batch norm, {unfolding}", replace(base, model="msd_csc_3", unfolding=unfolding), unfolding
    for unfolding in (0, 1, 2, "solved"):
        recipe = replace(base, model="msd_csc_3", norm="none", unfolding=unfolding)
        yield f"msd_csc_3, {unfolding}", recipe, unfolding
    residual = replace(base, model="res_csc_8")
    for unfolding in (0, 1, 2):
        yield f"res_csc_8, batch norm, {unfolding}", residual, unfolding
    for unfolding in (0, "solved"):
        yield f"res_csc_8, {unfolding}", replace(residual, norm="none"), unfolding


def trainer_of(recipe: Recipe, unfolding: int | str) -> Trainer:
    """Return the trainer of a row; residual networks, which have no choice of steps, are changed here."""
    trainer = Trainer(recipe)
    if recipe.model != "res_csc_8" or not unfolding:
        return trainer
    for block in [module for module in trainer.model.modules() if isinstance(module, nn.Module)]:
        for name, layer in list(block.named_children()):
            if isinstance(layer, pn.PursuitLayer):
                setattr(block, name, _solved(layer) if unfolding == "solved" else _longer(layer, int(unfolding)))
    trainer.optimizer = optimizer_of(recipe, trainer.model)
    return trainer


def _longer(layer: pn.PursuitLayer, unfolding: int) -> pn.PursuitLayer:
    """Return a layer with further steps, each with batch statistics of its own."""
    layer.unfolding = unfolding
    layer.threshold.extend(unfolding + 1)
    return layer


def _solved(layer: pn.PursuitLayer) -> pn.PursuitLayer:
    """Return a solved layer with the filters of this one, scaled to λmax(DᵀD) ≤ 1."""
    dictionary = layer.dictionary
    if isinstance(dictionary, pn.ConvDictionary):
        scale_filters(dictionary)
    threshold = pn.Threshold(dictionary.code_channels, 0.01, ridge=SOLVED_RIDGE)
    return pn.PursuitLayer(dictionary, unfolding="solved", threshold=threshold)


def measure(name: str, recipe: Recipe, unfolding: int | str) -> dict[str, Any]:
    """Train one network; return its accuracy, CPU seconds a step, and accuracy at other steps and under noise."""
    torch.manual_seed(recipe.seed)
    trainer, began = trainer_of(recipe, unfolding), time.process_time()
    for epoch in range(1, recipe.epochs + 1):
        loss = trainer.epoch(epoch)["train_loss"]
    seconds = time.process_time() - began
    model = trainer.model.eval()
    return {
        "name": name,
        "recipe": recipe.to_json(),
        "train_loss": loss,
        "cpu_seconds_per_step": seconds / (recipe.epochs * trainer.steps),
        "accuracy": _accuracy(trainer, trainer.images.test[0]),
        "at_steps": {str(steps): _at_steps(trainer, model, steps) for steps in STEPS},
        "noise": [_under_noise(trainer, sigma) for sigma in SIGMAS],
    }


def _accuracy(trainer: Trainer, images: Tensor) -> float:
    """Return the accuracy on test images, uint8 or float32 in [0, 1]."""
    return accuracy(logits_of(trainer.model, images, trainer.images.prepared), trainer.images.test[1])


def _at_steps(trainer: Trainer, model: nn.Module, steps: int) -> float:
    with with_unfolding(model, steps):
        return _accuracy(trainer, trainer.images.test[0])


def _under_noise(trainer: Trainer, sigma: float) -> dict[str, float | None]:
    """Return the accuracy under noise with β as trained, and with β scaled without labels, and its factor."""
    images = trainer.images.test[0].float() / 255
    draws = torch.Generator().manual_seed(0)
    noisy = (images + sigma * torch.randn(images.shape, generator=draws)).clamp(0, 1)
    result = {"sigma": sigma, "as_trained": _accuracy(trainer, noisy), "scaled": None, "factor": None}
    if not penalties(trainer.model):
        return result
    clean = trainer.images.train[0][:CLEAN]
    factor = Adaptation.to(clean, trainer.model, trainer.images.prepared, "reconstruction").factor(noisy[:CLEAN])
    with with_thresholds(trainer.model, factor):
        return result | {"scaled": _accuracy(trainer, noisy), "factor": factor}


def table(out: Path) -> str:
    """Return the results as Markdown, from the files alone."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_name.setdefault(record["name"], []).append(record)
    titles = ["network, steps after the first", "n", "accuracy", "time a step", *(f"at {k}" for k in STEPS)]
    titles += [f"σ {sigma}, β as trained → scaled" for sigma in SIGMAS]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, _, _ in rows(1, 1):
        if runs := by_name.get(name):
            lines.append(f"| {name} | {len(runs)} | {' | '.join(_cells(runs, by_name))} |")
    return "\n".join(lines)


def _cells(runs: list[dict[str, Any]], by_name: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield _mean([100 * run["accuracy"] for run in runs])
    first = by_name.get(f"{runs[0]['name'].split(',')[0]}, batch norm, 0", runs)
    median = [statistics.median(run["cpu_seconds_per_step"] for run in each) for each in (runs, first)]
    yield f"{median[0] / median[1]:.1f}"
    for steps in STEPS:
        yield f"{statistics.mean(100 * run['at_steps'][str(steps)] for run in runs):.1f}"
    for noise in zip(*(run["noise"] for run in runs), strict=True):
        trained = statistics.mean(100 * each["as_trained"] for each in noise)
        scaled = [100 * each["scaled"] for each in noise if each["scaled"] is not None]
        yield f"{trained:.1f} → {statistics.mean(scaled):.1f}" if scaled else f"{trained:.1f} → –"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--only", default="", help="only the networks whose name contains this text")
    parser.add_argument("--table", action="store_true", help="only the table of the runs that are there")
    parser.add_argument("--out", type=Path, default=OUT, help="one file for each network and seed; none is run twice")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if arguments.table else arguments.seeds):
        for name, recipe, unfolding in rows(arguments.epochs, arguments.width):
            path = arguments.out / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}.json"
            if arguments.only in name and not path.exists():
                path.write_text(json.dumps(measure(name, replace(recipe, seed=seed), unfolding), indent=1) + "\n")
                print(f"{name}, seed {seed}: done", flush=True)
    print(table(arguments.out))


if __name__ == "__main__":
    main()
