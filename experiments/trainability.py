"""Does MSD-CSC train, and does unfolding help, on a fixed small budget? Runs what is missing, then prints the table.

    python experiments/trainability.py --data-dir DIR [--only TEXT] [--out experiments/results/trainability]

Depth 6, width 32, the first 10,000 training images of CIFAR-10, 8 epochs, batch 64, SGD with a cosine schedule, the
last epoch on all 10,000 test images; the candidates differ only in the named choices. Each run is one file of a ledger,
by default that of docs/trainability.md. Several processes may work at once: a run belongs to the one that starts it.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "trainability"
BUDGET = Recipe(data="cifar10", model="msd_csc_6", train_images=10_000, epochs=8, lr=0.1)
FULL: dict[str, dict[str, Any]] = {
    f"{norm}, {solver}, {unfolding}": {"norm": norm, "solver": solver, "unfolding": unfolding}
    for norm, solver, unfolding in (
        ("batch", "ista", 0),
        ("batch", "ista", 1),
        ("batch", "ista", 2),
        ("batch", "fista", 2),
        ("whole", "ista", 0),
        ("whole", "ista", 1),
    )
}
SCREENED: dict[str, dict[str, Any]] = {
    f"norm {norm}, step {step}, identity {identity}, unfolding {unfolding}": {
        "norm": norm,
        "step": step,
        "identity": identity,
        "unfolding": unfolding,
    }
    for norm, step, identity in (
        ("none", "bounded", "own"),
        ("features", "bounded", "own"),
        ("batch", "bounded", "own"),
        ("whole", "bounded", "own"),
        ("whole", "bounded", "signed"),
        ("batch", "free", "own"),
    )
    for unfolding in (0, 1)
}
SHORT = replace(BUDGET, train_images=3_000, epochs=4)


def cells() -> dict[str, Recipe]:
    """Return every run by its name: two kinds of norm at the full budget on two seeds, candidates at a short one."""
    full = {f"norm {name}, seed {s}": replace(BUDGET, seed=s, **kw) for s in (0, 1) for name, kw in FULL.items()}
    return full | {f"short: {name}": replace(SHORT, **kw) for name, kw in SCREENED.items()}


def run(name: str, recipe: Recipe, data_dir: Path, ledger: Path = RESULTS) -> None:
    """Train one cell and keep its record; do nothing if it was begun before."""
    path = ledger / f"{name.replace(': ', '-').replace(', ', '-').replace(' ', '')}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except FileExistsError:
        return
    here = replace(recipe, data_dir=data_dir)
    trainer, began = train.Trainer(here), time.perf_counter()
    losses = [trainer.epoch(e)["train_loss"] for e in range(1, recipe.epochs + 1)]
    loss, accuracy = trainer.loss_and_accuracy(trainer.images.test)
    record = {
        "name": name,
        "recipe": recipe.to_json(),
        "train_loss": losses,
        "test_loss": loss,
        "test_accuracy": accuracy,
        "steps": [round(float(layer.step()[0].detach()), 4) for layer in trainer.model.pursuits()],
        "seconds": round(time.perf_counter() - began),
        "torch": torch.__version__,
        "commit": train.commit(),
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: {losses[-1]:.3f} {accuracy:.4f} {record['seconds']} s", flush=True)


def table(ledger: Path = RESULTS) -> str:
    """Return the results as Markdown, from the files alone."""
    records = [json.loads(p.read_text()) for p in sorted(ledger.glob("*.json")) if p.stat().st_size]
    by_cell: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_cell.setdefault(record["name"].split(", seed")[0], []).append(record)
    lines = ["| run | n | training loss | test accuracy, last epoch |", "|---|---|---|---|"]
    for name in dict.fromkeys(n.split(", seed")[0] for n in cells()):
        runs = by_cell.get(name, [])
        loss, accuracy = (
            _mean([r["train_loss"][-1] for r in runs], 3),
            _mean([100 * r["test_accuracy"] for r in runs], 1),
        )
        lines.append(f"| {name} | {len(runs)} | {loss} | {accuracy} |")
    return "\n".join(lines)


def _mean(values: list[float], digits: int) -> str:
    if not values:
        return "not run"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, help="folder that contains cifar-10-batches-bin; without it, only the table"
    )
    parser.add_argument("--only", default="", help="only the runs whose name contains this text")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the ledger; by default that of docs/trainability.md")
    arguments = parser.parse_args()
    for name, recipe in cells().items():
        if arguments.data_dir and arguments.only in name:
            run(name, recipe, arguments.data_dir, arguments.out)
    print(table(arguments.out))
