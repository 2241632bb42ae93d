"""A certified network on the digits: accuracy, certified accuracy, and attacks that fail inside the radius.

    python experiments/certified.py [--epochs 60] [--seeds 1] [--attacks 100] [--out runs/certified]

About 45 seconds of one core per seed. Images have zero mean and unit norm, as in Sulam et al. (2020), whose supervised
sparse coding certifies 60 % of MNIST at 0.064.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pursuitnet as pn
from pursuitnet.networks.certified import UnitNorm
from pursuitnet.program.evaluation.certification import RADII, certification
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train.trainer import Trainer

DIGITS = Recipe(
    data="digits", model="certified_6", width=4, unit_norm=True, epochs=60, batch_size=128,
    lr=1.0, weight_decay=0.0, margin=0.15, temperature=0.03,
)  # fmt: skip


def attack(model: pn.Network, x: Tensor, labels: Tensor, radii: Tensor, steps: int = 100) -> Tensor:
    """Return which labels (B,) projected gradient descent changes within the radius of each image.

    Normalized steps towards every other class in turn, each from a random point of the ball.
    """
    changed = torch.zeros(len(x), dtype=torch.bool)
    most = radii.view(-1, 1, 1, 1)
    for target in range(model.num_classes):
        delta = torch.randn_like(x)
        for step in range(steps):
            size = delta.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
            delta = (delta * (most / size).clamp(max=1)).requires_grad_()
            logits = model(x + delta)
            changed |= logits.argmax(dim=1) != labels
            ahead = logits.gather(1, labels[:, None])[:, 0] - logits[:, target]
            slope = torch.autograd.grad(ahead.sum(), delta)[0]
            size = slope.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
            delta = (delta - 2 * most * (1 - step / steps) * slope / size).detach()
    return changed


def measure(recipe: Recipe, attacks: int) -> dict[str, Any]:
    """Train one network; return its certified accuracy, and how many attacks inside and outside a radius succeed."""
    trainer, began = Trainer(recipe), time.process_time()
    for epoch in range(1, recipe.epochs + 1):
        trainer.epoch(epoch)
    seconds = time.process_time() - began
    model, images = trainer.model.eval(), trainer.images
    certified = certification(model, *images.test, images.prepared, images.std)
    x = UnitNorm()(images.prepared(images.test[0][:attacks]).double())
    labels, radii = pn.certify(model, x)
    exact = model.double()
    inside, outside = (int(attack(exact, x, labels, radii * share).sum()) for share in (0.999, 3.0))
    return {
        "recipe": recipe.to_json(),
        "cpu_seconds": round(seconds, 1),
        "accuracy": {f"{radius:.4g}": share for radius, share in certified.accuracy},
        "attacked": len(x),
        "changed_inside": inside,
        "changed_at_three_radii": outside,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Return the results as Markdown, one line a seed."""
    names = [f"{radius:.3g}" for radius in RADII]
    lines = [
        f"| seed | {' | '.join(names)} | CPU seconds | changed inside, at 3 radii |",
        "|---" * (len(names) + 3) + "|",
    ]
    for record in records:
        shares = " | ".join(f"{100 * share:.1f}" for share in record["accuracy"].values())
        changed = f"{record['changed_inside']}, {record['changed_at_three_radii']} of {record['attacked']}"
        lines.append(f"| {record['recipe']['seed']} | {shares} | {record['cpu_seconds']:.0f} | {changed} |")
    return "\n".join(lines)


def main() -> None:
    """Train, certify, attack; print the table and leave the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=DIGITS.epochs)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--attacks", type=int, default=100, help="test images to attack, 100 steps for each class")
    parser.add_argument("--out", type=Path, default=Path("runs", "certified"), help="folder for the numbers")
    arguments = parser.parse_args()
    records = [
        measure(replace(DIGITS, epochs=arguments.epochs, seed=seed), arguments.attacks)
        for seed in range(arguments.seeds)
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "certified.json").write_text(json.dumps(records, indent=1) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
