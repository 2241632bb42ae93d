"""Does a dictionary learned without labels help a network with few of them? Trains what is missing, prints the table.

    python experiments/learned_dictionaries.py --data-dir DIR [--labels 1000] [--seeds 5] [--epochs 30] [--out DIR]
                                               [--record PATH]

The first layer of a network begins with random filters, as always, or with filters that ``learn`` has found in 300
images of CIFAR-10 that are not among those with labels. Everything else is the same: labels, order, augmentation and
the other weights by the seed. The accuracy is that on all test images after the last epoch. Results are kept in
--out, one file for each run, so that the script may be stopped and started again; --record PATH writes all to a JSON
file, as experiments/results/learned_dictionaries.json was.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import pursuitnet as pn
from pursuitnet.networks.choices import begin_with
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.statistics import Difference
from pursuitnet.program.train.trainer import Trainer

NETWORKS = {"ml_csc": {}, "msd_csc_6": {"width": 12}}
UNLABELED = slice(40_000, 40_300)
OUT = Path("runs", "learned_dictionaries")
RECORD = Path(__file__).parent / "results" / "learned_dictionaries.json"


def learned(data_dir: Path, like: pn.ConvDictionary, seed: int) -> pn.ConvDictionary:
    """Return filters of the shape of another dictionary's, learned from images without labels."""
    pixels = pn.data.load("cifar10", data_dir, "train")[0][UNLABELED]
    x = pixels.float() / 255
    x = (x - x.mean((2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True).clamp(min=0.05)
    draws = torch.Generator().manual_seed(seed)
    weight = torch.randn(like.weight.shape, generator=draws)
    weight /= weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    start = pn.ConvDictionary(weight, stride=like.stride, padding=like.padding, dilation=like.dilation)
    return pn.learn(x, start, beta=1.0, online=True, batch_size=25, gap=0.05, seed=seed).dictionary


def run(recipe: Recipe, dictionary: str) -> dict[str, Any]:
    """Train a network with random or learned filters in its first layer; return what the table needs."""
    trainer = Trainer(recipe)
    if dictionary == "learned":
        first = trainer.model.pursuits()[0].dictionary
        own = first.dictionary if isinstance(first, pn.WithIdentity) else first
        begin_with(trainer.model, [learned(recipe.data_dir, own, recipe.seed)])
    for epoch in range(1, recipe.epochs + 1):
        trainer.epoch(epoch)
    accuracy = trainer.measure("test")["test_accuracy"]
    return {**recipe.to_json(), "data_dir": None, "dictionary": dictionary, "test_accuracy": accuracy}


def table(results: list[dict[str, Any]]) -> str:
    """Return the table as Markdown: mean accuracies, and the paired difference with its 95 % interval."""
    lines = [
        "| network | labels | random | learned | difference | 95 % interval | p | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network, labels in sorted({(r["model"], r["train_images"]) for r in results}):
        seeds: dict[int, dict[str, float]] = {}
        for r in results:
            if (r["model"], r["train_images"]) == (network, labels):
                seeds.setdefault(r["seed"], {})[r["dictionary"]] = 100 * r["test_accuracy"]
        pairs = [each for each in seeds.values() if len(each) == 2]
        if len(pairs) < 2:
            continue
        difference = Difference(tuple(p["learned"] - p["random"] for p in pairs))
        random, after = (sum(p[kind] for p in pairs) / len(pairs) for kind in ("random", "learned"))
        low, high = difference.interval()
        lines.append(
            f"| `{network}` | {labels:,} | {random:.2f} | {after:.2f} | {difference.mean:+.2f} "
            f"| {low:+.2f} to {high:+.2f} | {difference.p:.2g} | {difference.n} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the files of CIFAR-10")
    parser.add_argument("--labels", type=int, default=1000, help="number of training images with labels")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--only", choices=sorted(NETWORKS), help="one of the networks")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--record", type=Path, help="JSON file to write the runs to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for network, choices in NETWORKS.items():
            for dictionary in ("random", "learned"):
                file = arguments.out / f"{network}-{arguments.labels}-{arguments.epochs}-{dictionary}-{seed}.json"
                if file.exists() or arguments.only not in (None, network):
                    continue
                base = replace(Recipe.named("fast"), epochs=arguments.epochs, model=network, lr=0.05, warmup=3.0)
                recipe = replace(base, data_dir=arguments.data_dir, train_images=arguments.labels, seed=seed, **choices)
                file.write_text(json.dumps(run(recipe, dictionary)) + "\n")
                print(f"{file.stem}: done", flush=True)
    results = [json.loads(file.read_text()) for file in sorted(arguments.out.glob("*.json"))]
    if arguments.record:
        arguments.record.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
