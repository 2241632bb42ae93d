"""The folder that a run leaves."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pursuitnet.networks import Network
from pursuitnet.program.factories import device_of
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import Record, RunFolder
from pursuitnet.program.sharing.loading import Trained, pretrained_hint, shipped_with, trained
from pursuitnet.program.sharing.weights import pack
from pursuitnet.program.versions import versions

if TYPE_CHECKING:
    from pursuitnet.program.train.images import Images


def load_run(folder: Path, data_dir: Path | None = None, device: str = "auto") -> tuple[Recipe, Network]:
    """Return the recipe and the trained network of a run folder, in evaluation mode.

    Args:
        folder: as ``train`` has left it.
        data_dir: where its data set is now; None for where it was.
        device: where the network goes, and what the recipe says then; it is not that of the training.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run.
        ValueError: if a file in it is damaged.
    """
    recipe, about = trained_run(folder, data_dir, device)
    return recipe, about.network


def trained_run(folder: Path, data_dir: Path | None = None, device: str = "auto") -> tuple[Recipe, Trained]:
    """Return what ``load_run`` does, and what the weights say besides; it raises the same.

    The name of a pretrained network can stand in the place of a folder; its recipe is that in its weights.
    """
    if not folder.exists() and not shipped_with(folder):
        raise FileNotFoundError(f"{folder} is missing and holds no run; name a run folder{pretrained_hint()}")
    given = None if shipped_with(folder) else read_recipe(folder)
    about = trained(folder, device_of(Recipe(device=device)))
    recipe = replace(given or about.recipe, device=device)
    recipe = recipe if data_dir is None else replace(recipe, data_dir=data_dir)
    if changed := recipe.differs(about.recipe):
        raise ValueError(
            f"{RunFolder(folder).recipe} has been changed: it is not what the weights were trained by "
            f"({', '.join(f'{name} = {getattr(about.recipe, name)!r}' for name in changed)})"
        )
    return recipe, about


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe that a run folder was made from."""
    return RunFolder(folder).read_recipe()


def records(folder: Path) -> list[Record]:
    """Return every epoch's record; see ``RunFolder.read_epochs``."""
    return RunFolder(folder).read_epochs()


def last_record(folder: Path) -> Record:
    """Return the last epoch's record."""
    return records(folder)[-1]


def finish(folder: Path, recipe: Recipe, model: Network, images: "Images", about: Record) -> None:
    """Leave the weights, with all that is needed to use them, and the record of the whole run.

    Args:
        folder: the run's.
        recipe: what was trained.
        model: the network.
        images: what it was trained on: their classes, mean, std and identity go with the weights.
        about: what else is known of the run.
    """
    needed = {
        "recipe": recipe.to_json(),
        "classes": images.identity.classes,
        "mean": images.mean.tolist(),
        "std": images.std.tolist(),
        "data": images.identity.to_json(),
        **({"image_size": list(images.test[0].shape[2:])} if recipe.task == "classify" else {}),
        **images.more,
    }
    run = RunFolder(folder)
    run.write(run.weights, pack(model.state_dict(), needed))
    kept = ("device", "processes", "parameters", "flops_per_image", "images")
    epochs = run.read_epochs()
    said = {
        "precision": number_formats(epochs, about["precision"]),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
    }
    record = {**versions(), **{name: about[name] for name in kept}, **said, "data": needed["data"]}
    run.write(run.record, json.dumps(record, indent=2) + "\n")


def number_formats(epochs: Sequence[Record], last: str) -> str:
    """Return the number format of a run, or all of them in order, of one that went on on another device.

    Args:
        epochs: their records; those of older versions do not say it.
        last: the number format of now.
    """
    return ", ".join(dict.fromkeys([*(epoch.get("precision", last) for epoch in epochs), last]))


@torch.no_grad()
def flops_per_image(model: Network, images: Tensor) -> int:
    """Return the floating-point operations of a forward pass, a multiplication and an addition counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // len(images)
