"""What to run: cells chosen by expressions, the runs that are not in the ledger, and how long they will take."""

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.reproduce.cells import Cell
from pursuitnet.program.reproduce.ledger import Entry, Ledger, checksum, key
from pursuitnet.program.train import dataset_of, device_of, model_of
from pursuitnet.utils.nearest import did_you_mean

SHALLOW = 20
"""Networks of more layers are run after all others have all their seeds."""


@dataclass(frozen=True)
class PlannedRun:
    """A cell with a seed, and the name of its record."""

    cell: Cell
    recipe: Recipe
    key: str


def filter_cells(cells: Sequence[Cell], expressions: Sequence[str]) -> list[Cell]:
    """Return the cells that match an expression, such as "msd_csc_12, cifar10, unfolding=2".

    All its conditions must hold: a data set, a network, the beginning of a network's name, or field=value of the
    recipe. A cell is returned if any of several expressions matches.

    Raises:
        ValueError: if a condition holds for no cell; the message lists what exists.
    """
    if not expressions:
        return list(cells)
    tests = [[_condition(part.strip(), cells) for part in text.split(",") if part.strip()] for text in expressions]
    matching = [cell for cell in cells if any(all(cell in holds for holds in test) for test in tests)]
    if not matching:
        raise ValueError(f"no cell matches {' or '.join(map(repr, expressions))}")
    return matching


def _condition(text: str, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells for which one condition holds."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if equals:
        names = [f.name for f in fields(Recipe)]
        if name not in names:
            raise ValueError(f"{text!r} asks for {name}{did_you_mean(name, names, '; no recipe has it')}")
        matching = [cell for cell in cells if _text(getattr(cell.recipe, name)) == value]
        exist = sorted({_text(getattr(cell.recipe, name)) for cell in cells})
    else:
        matching = [c for c in cells if name in (c.recipe.data, c.recipe.model, re.sub(r"_\d+$", "", c.recipe.model))]
        exist = sorted({c.recipe.data for c in cells} | {c.recipe.model for c in cells})
    if not matching:
        raise ValueError(f"{text!r} holds for no cell; there are {', '.join(exist)}")
    return matching


def _text(value: object) -> str:
    return "none" if value is None else str(value)


def planned_runs(
    cells: Iterable[Cell], seeds: int | None, data_dir: Path | None, device: str = "auto"
) -> list[PlannedRun]:
    """Return every cell with seeds 0, 1, …: shallow networks first, and of these the first seed of all cells.

    Args:
        cells: of a table.
        seeds: number of runs of each; None for the number of each cell.
        data_dir: folder of the data sets.
        device: of each run.
    """
    pairs = [(cell, seed) for cell in cells for seed in range(cell.seeds if seeds is None else seeds)]
    planned = []
    for cell, seed in sorted(pairs, key=lambda pair: (pair[0].layers > SHALLOW, pair[1])):
        recipe = replace(cell.recipe, seed=seed, data_dir=data_dir, device=device)
        planned.append(PlannedRun(cell, recipe, key(recipe, checksum(recipe.data, data_dir))))
    return planned


def missing(planned: Iterable[PlannedRun], ledger: Ledger) -> list[PlannedRun]:
    """Return the runs that are not in the ledger."""
    return [run for run in planned if run.key not in ledger]


def hours(planned: Iterable[PlannedRun], entries: Iterable[Entry], machine: str) -> float:
    """Return an estimate of the hours that runs take one after another on this machine.

    The speed of a network is taken from its records on the same machine, or else measured here.

    Args:
        planned: the runs.
        entries: of the ledger.
        machine: name of this machine in records.
    """
    known = {
        network(Recipe.from_json(entry["recipe"])): statistics.median(e["images_per_second"] for e in entry["epochs"])
        for entry in entries
        if entry["machine"] == machine and entry["epochs"]
    }
    total = 0.0
    for run in planned:
        name = network(run.recipe)
        if name not in known:
            known[name] = measure_speed(run.recipe)
        trained, tested = SIZES[run.recipe.data]
        trained, tested = (
            min(run.recipe.train_images or trained, trained),
            min(run.recipe.test_images or tested, tested),
        )
        total += run.recipe.epochs * (trained + tested / 3) / known[name]  # a backward pass costs two forward passes
    return total / 3600


def network(recipe: Recipe) -> tuple[object, ...]:
    """Return the settings that the speed of a run depends on."""
    return (recipe.model, *sorted((name, str(value)) for name, value in recipe.choices().items()), recipe.precision)


def measure_speed(recipe: Recipe, images: int = 32) -> float:
    """Return the images per second of a training step on random images."""
    device = device_of(recipe)
    model = model_of(recipe, device).train()
    dataset = dataset_of(recipe)
    x = torch.rand(images, dataset.in_chans, *dataset.image_size, device=device)
    labels = torch.zeros(images, dtype=torch.long, device=device)
    seconds = []
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        F.cross_entropy(model(x), labels).backward()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return images / min(seconds)


SIZES = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "svhn": (73_257, 26_032), "digits": (1_437, 360)}
"""Numbers of training and test images."""
