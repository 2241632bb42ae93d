"""pursuitnet train."""

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from pursuitnet.program.recipe import Recipe
from pursuitnet.program.writable import check_folder

if TYPE_CHECKING:
    from pursuitnet.program.train import Record


def train(
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),
    *,
    recipe: str | None = None,
    out: Path | None = None,
    resume: bool = False,
    download: bool = False,
    tensorboard: bool = False,
) -> None:
    """Train a network and leave a run folder with recipe, metrics, weights and report.html.

    Under torchrun, or SLURM's srun, every process trains on its own device and takes its share of each batch.

    Args:
        settings: what to train.
        recipe: Named recipe (residual, residual_deep and msd are the paper's, fast is ours) or a TOML or YAML file of
            the options below; an option that is given wins.
        out: The run folder; by default a new one below runs/.
        resume: Continue the run in --out after its last checkpoint, with the recipe it was started with.
        download: Fetch what is missing of the data set from its official place, into --data-dir or the user's cache.
        tensorboard: Write every epoch's numbers for TensorBoard too, into the run folder's tensorboard/.
    """
    from pursuitnet.program import callbacks, report
    from pursuitnet.program import train as training
    from pursuitnet.program.train import StoppedError

    if resume:
        if out is None:
            raise ValueError("--resume continues a run: name its folder with --out")
        settings = training.read_recipe(out).resumed_with(settings)
    folder = _free_folder(settings) if out is None else out
    check_folder(folder)
    if download:
        _fetch(settings)
    callback = callbacks.of_program(terminal=sys.stdout.isatty(), tensorboard=tensorboard)
    began = time.perf_counter()
    try:
        with closing(callback):
            last = training.train(settings, folder, callback, resume=resume)
    except StoppedError as stop:
        print(f"pursuitnet: {stop}", file=sys.stderr)
        sys.exit(128 + stop.signal)
    if not training.group_of(os.environ).first:
        return
    took = f"on test images, after epoch {last['epoch']}, in {time.perf_counter() - began:.0f} s"
    if settings.task != "classify":
        print(f"{_of_images(last)} {took}\n{report.write_images(folder)}")
        return
    print(f"accuracy {_percent(last)} {took}")
    print(f"{report.write(folder, settings.data_dir, settings.device)}")


def _fetch(recipe: Recipe) -> None:
    """Fetch what is missing of a recipe's data set."""
    from pursuitnet import data

    for split in data.SPLITS:
        data.load(**recipe.images(), split=split, download=True)


def _free_folder(recipe: Recipe) -> Path:
    """Return the first of runs/NAME, runs/NAME-2, runs/NAME-3, … that does not exist."""
    name = f"{recipe.data}-{recipe.model}-seed{recipe.seed}"
    number = 1
    while (folder := Path("runs", name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _percent(record: "Record") -> str:
    return f"{100 * record['test_accuracy']:.2f} %"


def _of_images(record: "Record") -> str:
    return f"Dice {record['test_dice']:.4f}" if "test_dice" in record else f"PSNR {record['test_psnr']:.2f} dB"
