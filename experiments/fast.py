"""The recipe "fast" on the whole of CIFAR-10: accuracy of the last epoch, and speed.

    python experiments/fast.py --data-dir DIR [--epochs 30] [--seed 0] [--only TEXT] [--speed] [--table]
                                [--out experiments/results/fast]

Every network is one cell of a ledger, by default that of docs/training.md in experiments/results/fast/; only missing
cells are run, and an interrupted run is resumed. With --table the ledger is printed, with cells of all machines.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from pursuitnet.program import train
from pursuitnet.program.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "fast"
CELLS = {
    "resnet_20": Recipe.named("fast"),
    "res_csc_20": Recipe.named("fast"),
    "msd_csc_6, unfolding 0": replace(Recipe.named("fast"), model="msd_csc_6", unfolding=0),
    "msd_csc_6, unfolding 1": replace(Recipe.named("fast"), model="msd_csc_6", unfolding=1),
    "msd_csc_6, unfolding 2": replace(Recipe.named("fast"), model="msd_csc_6", unfolding=2),
}
CELLS["resnet_20"] = replace(CELLS["resnet_20"], model="resnet_20")


class EpochPrinter(train.NoOpCallback):
    """Prints the record of each epoch when it ends."""

    def on_epoch_end(self, record: train.Record) -> None:
        print(json.dumps(record), flush=True)


def run(name: str, recipe: Recipe, runs: Path, ledger: Path) -> None:
    """Train one cell, unless the ledger has it."""
    cell = f"{name.replace(', ', '-').replace(' ', '')}-epochs{recipe.epochs}-seed{recipe.seed}"
    path, folder = ledger / f"{cell}.json", runs / cell
    if path.exists():
        return
    train.train(recipe, folder, EpochPrinter(), resume=folder.exists())
    about = json.loads((folder / "record.json").read_text())
    here = (
        torch.cuda.get_device_name() if about["device"].startswith("cuda") else f"{torch.get_num_threads()} CPU threads"
    )
    content = {
        "name": name,
        "machine": here,
        **about,
        "recipe": {**recipe.to_json(), "data_dir": None},
        "epochs": train.records(folder),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def speeds(data_dir: Path) -> str:
    """Return images a second of the second of two short epochs of every network, and where the time went."""
    names = ("images_per_second", "data", "forward", "backward", "optimizer", "peak_memory_mb")
    lines = [f"| network | {' | '.join(names)} |", "|---" * 7 + "|"]
    for name, recipe in CELLS.items():
        trainer = train.Trainer(replace(recipe, data_dir=data_dir, train_images=2_560, epochs=2))
        record = [trainer.epoch(epoch) for epoch in (1, 2)][-1]
        lines.append(f"| {name} | {' | '.join(f'{record[n]:g}' for n in names)} |")
    return "\n".join(lines)


def table(ledger: Path = RESULTS) -> str:
    """Return a ledger as a table, the last epoch of every cell."""
    lines = [
        "| network | epochs | seed | test accuracy | training loss | images per second | wall time | on |",
        "|---" * 8 + "|",
    ]
    for path in sorted(ledger.glob("*.json")):
        cell = json.loads(path.read_text())
        last, recipe = cell["epochs"][-1], cell["recipe"]
        numbers = f"{100 * last['test_accuracy']:.2f} % | {last['train_loss']:.3f} | {last['images_per_second']:.0f}"
        where = f"{cell['seconds'] / 60:.0f} min | {cell['machine']}"
        lines.append(f"| {cell['name']} | {recipe['epochs']} | {recipe['seed']} | {numbers} | {where} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that contains cifar-10-batches-bin")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the ledger; by default that of docs/training.md")
    parser.add_argument("--runs", type=Path, default=Path("runs", "fast"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--speed", action="store_true", help="only measure, on an epoch of 2,560 images")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.data_dir is None and not arguments.table:
        parser.error("--data-dir is missing: the folder of CIFAR-10; or --table for the results so far")
    if arguments.speed:
        print(speeds(arguments.data_dir))
    elif not arguments.table:
        for name, recipe in CELLS.items():
            if arguments.only not in name:
                continue
            own = replace(recipe, data_dir=arguments.data_dir, epochs=arguments.epochs, seed=arguments.seed)
            run(name, own, arguments.runs, arguments.out)
    if not arguments.speed:
        print(table(arguments.out))
