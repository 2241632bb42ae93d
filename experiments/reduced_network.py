"""The reduced pursuit in a network: MSD-CSC with the identity part solved for in every step, instead of a step on it.

    python experiments/reduced_network.py --data-dir DIR [--seeds 3] [--table]
                                           [--out experiments/results/reduced_network.json]

For given γ₂ the best identity part is γ₁ = P_β₁(x − Dγ₂); the remaining residual is clipped at β₁, followed by a step
on γ₂ alone, with L = λmax(DᵀD) instead of 1 + λmax(DᵀD). The optimum is that of Algorithm 2, and it takes fewer steps
(docs/solving.md). Here both are used in msd_csc_6, trained like the small scale of docs/reproduction.md, with the
paper's batch normalization: β₁ is in units of the root mean square of the signal, and the code is normalized as
Algorithm 2's. Every run is a cell of one file, by default that of docs/speed.md; an existing cell is not run again.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pursuitnet import PursuitLayer, Threshold
from pursuitnet.dictionaries import Code, WithIdentity
from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce import cells_of
from pursuitnet.prox.norms import frozen_running_stats

RESULTS = Path(__file__).parent / "results" / "reduced_network.json"
CELLS = [
    (0, None),
    (1, None),
    (2, None),
    *((unfolding, penalty) for penalty in (0.01, 1.0) for unfolding in (0, 1, 2)),
]
"""Unfolding, and β₁ at the start of the reduced pursuit; None for Algorithm 2."""


class ReducedLayer(PursuitLayer):
    """A layer of [I D] that solves for the identity part: P_θ on the atoms only, and S⁺ on what they leave."""

    def forward_parts(self, x: Tensor, previous: Tensor | None = None) -> Code:
        D, threshold = self.dictionary.dictionary, self.threshold
        c = self.step()[0]
        wide = (-1, *[1] * (x.dim() - 2))
        size = x.square().mean(dim=[i for i in range(x.dim()) if i != 1]).sqrt().view(wide)
        cut = threshold.identity_penalty.view(wide) * size
        atoms: Tensor | None = None
        for step in range(self.unfolding + 1):
            left = x if atoms is None else x - D.synthesize(atoms, x.shape)
            follow = D.analyze(torch.minimum(left, cut))
            atoms = one_part(threshold, -1, atoms, c * follow, c, step)
        return one_part(threshold, -2, None, x - D.synthesize(atoms, x.shape), 1.0, self.unfolding), atoms

    @torch.no_grad()
    def update_lipschitz(self) -> None:
        dictionary = self.dictionary
        assert isinstance(dictionary, WithIdentity)
        self.step.update_lipschitz(dictionary.dictionary.lipschitz_bound())


def one_part(
    threshold: Threshold, part: int, anchor: Tensor | None, update: Tensor, c: Tensor | float, step: int
) -> Tensor:
    """Return P_θ(anchor + update) for one part of a code."""
    z = threshold.norms.normalized_sum(part, step, anchor, update, None)
    return threshold.prox(part, z, threshold.theta(part, c, step))


def recipe_of(unfolding: int, seed: int, data_dir: Path) -> Recipe:
    """Return the small scale of msd_csc_6 at an unfolding."""
    cell = next(c for c in cells_of("table3", "small") if c.recipe.model == "msd_csc_6" and c.unfolding == 1)
    return replace(cell.recipe, data="cifar10", unfolding=unfolding, seed=seed, data_dir=data_dir)


def run(unfolding: int, penalty: float | None, seed: int, data_dir: Path) -> dict[str, object]:
    """Train one network and return its record."""
    recipe = recipe_of(unfolding, seed, data_dir)
    trainer = train.Trainer(recipe)
    if penalty is not None:
        for layer in trainer.model.pursuits():
            layer.__class__ = ReducedLayer
            torch.nn.init.constant_(layer.threshold.identity_weight, penalty)
    epochs = [trainer.epoch(epoch) for epoch in range(1, recipe.epochs + 1)]
    accuracy = trainer.loss_and_accuracy(trainer.images.test)[1]
    by_batch = accuracy_by_batch(trainer)
    about = {"unfolding": unfolding, "penalty": penalty, "seed": seed, "commit": train.commit()}
    return {
        **about,
        "torch": torch.__version__,
        "test_accuracy": accuracy,
        "test_accuracy_by_batch": by_batch,
        "train_loss": epochs[-1]["train_loss"],
        "images_per_second": epochs[-1]["images_per_second"],
    }


@torch.no_grad()
def accuracy_by_batch(trainer: train.Trainer, size: int = 100) -> float:
    """Return the test accuracy where every batch is normalized by its own statistics, as in training."""
    model, (images, labels) = trainer.model.train(), trainer.images.test
    with frozen_running_stats(model):
        predicted = torch.cat([model(trainer.images.prepared(part)).argmax(dim=1) for part in images.split(size)])
    return float((predicted == labels).double().mean())


def mean_and_deviation(values: list[float]) -> str:
    """Return mean and, of more than one, standard deviation."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def table(records: list[dict[str, object]]) -> str:
    """Return accuracy and loss of every cell."""
    head = ("pursuit", "unfolding", "n", "test accuracy", "normalized by batch", "training loss")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for unfolding, penalty in CELLS:
        matching = [r for r in records if (r["unfolding"], r["penalty"]) == (unfolding, penalty)]
        name = "Algorithm 2" if penalty is None else f"reduced, β₁ = {penalty:g} at the start"
        numbers = "not run | – | –"
        if matching:
            each = [[100 * r[key] for r in matching] for key in ("test_accuracy", "test_accuracy_by_batch")]
            loss = statistics.mean(r["train_loss"] for r in matching)
            numbers = f"{' | '.join(map(mean_and_deviation, each))} | {loss:.3f}"
        lines.append(f"| {name} | {unfolding} | {len(matching)} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the record; by default that of docs/speed.md")
    arguments = parser.parse_args()
    records = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    if not arguments.table and arguments.data_dir is None:
        parser.error("--data-dir is missing: the folder of CIFAR-10")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds if not arguments.table else 0):
        for unfolding, penalty in CELLS:
            if (unfolding, penalty, seed) not in {(r["unfolding"], r["penalty"], r["seed"]) for r in records}:
                records.append(run(unfolding, penalty, seed, arguments.data_dir))
                print(json.dumps(records[-1]), flush=True)
                arguments.out.write_text(json.dumps(records, indent=1) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
