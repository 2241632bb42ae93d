"""MSD-CSC beside MSDNet with as many parameters, on few images with labels. Trains what is missing, prints the table.

    python experiments/segment.py --data-dir DIR [--depth 12] [--width 2] [--epochs 8] [--seeds 3] [--out DIR]

DIR holds images/ and targets/ with equal names; every sixth pair is tested on (see ``pursuitnet train --task
segment``). The Dice coefficient is that of each label over all pixels of the test images, after the last epoch. Runs
are kept in --out, so that the script may be stopped and started again; --record PATH writes all epochs to a JSON file,
as experiments/results/segment.json was.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import pursuitnet as pn
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.statistics import Difference
from pursuitnet.program.run_folder import RunFolder

RECORD = Path(__file__).parent / "results" / "segment.json"
NETWORKS = {
    "MSDNet": ("msdnet_{depth}", {}),
    "MSD-CSC, unfolding 0": ("msd_csc_{depth}", {"unfolding": 0}),
    "MSD-CSC, unfolding 1": ("msd_csc_{depth}", {"unfolding": 1}),
}


def run(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return parameters and the metrics after the last epoch of a run, which is trained if it has not ended."""
    kept = RunFolder(folder)
    if not kept.weights.exists():
        pn.train(recipe, folder, resume=kept.checkpoint.exists())
    return {**kept.read_record(), **kept.read_epochs()[-1]}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table as Markdown: the mean of each network, and its difference from the first, paired by seed."""
    lines = [
        "| network | parameters | Dice (mean) | Dice of each label | difference from MSDNet | 95 % interval | n |",
        "|---|---|---|---|---|---|---|",
    ]
    reference = [one["test_dice"] for one in next(iter(results.values()))]
    for name, runs in results.items():
        scores = [one["test_dice"] for one in runs]
        each = zip(*(one["test_dice_of_classes"] for one in runs), strict=True)
        labels = ", ".join(f"{statistics.mean(values):.4f}" for values in each)
        compared = "– | –"
        if name != next(iter(results)) and len(scores) > 1:
            difference = Difference(tuple(a - b for a, b in zip(scores, reference, strict=True)))
            low, high = difference.interval()
            compared = f"{difference.mean:+.4f} | {low:+.4f} to {high:+.4f}"
        mean, parameters = statistics.mean(scores), runs[0]["parameters"]
        lines.append(f"| {name} | {parameters:,} | {mean:.4f} | {labels} | {compared} | {len(scores)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of images/ and targets/")
    for name, value in (("depth", 12), ("width", 2), ("epochs", 8), ("seeds", 3), ("patch", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=Path("runs", "segment"))
    parser.add_argument("--record", type=Path, help="JSON file to write the results to")
    given = parser.parse_args()
    ended: dict[str, list[dict[str, Any]]] = {name: [] for name in NETWORKS}
    for seed in range(given.seeds):
        for name, (model, choices) in NETWORKS.items():
            recipe = Recipe(
                task="segment", data="images", data_dir=given.data_dir, model=model.format(depth=given.depth),
                width=given.width, epochs=given.epochs, patch=given.patch, batch_size=16, seed=seed, device="cpu",
                schedule="onecycle", **choices,
            )  # fmt: skip
            folder = given.out / f"{recipe.model}-{recipe.unfolding}-{seed}"
            ended[name].append(run(recipe, folder))
            print(f"{name}, seed {seed}: {ended[name][-1]['test_dice']:.4f}", flush=True)
    print(table(ended))
    if given.record:
        given.record.write_text(json.dumps(ended, indent=1) + "\n", encoding="utf-8")
