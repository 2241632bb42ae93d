"""Read a finished run, and write the last files of one."""

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
        folder: as written by ``train``.
        data_dir: where its data set is now; None if it has not moved.
        device: of the network and of the returned recipe; it need not be that of the training.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run.
        ValueError: if a file in it is damaged.
    """
    recipe, loaded = trained_run(folder, data_dir, device)
    return recipe, loaded.network


def trained_run(folder: Path, data_dir: Path | None = None, device: str = "auto") -> tuple[Recipe, Trained]:
    """Return the recipe of a run and everything stored with its weights; raises as ``load_run`` does.

    The name of a pretrained network can be given instead of a folder; its recipe is the one in its weights.
    """
    if not folder.exists() and not shipped_with(folder):
        raise FileNotFoundError(f"{folder} does not exist; name a run folder{pretrained_hint()}")
    in_folder = None if shipped_with(folder) else read_recipe(folder)
    loaded = trained(folder, device_of(Recipe(device=device)))
    recipe = replace(in_folder or loaded.recipe, device=device)
    recipe = recipe if data_dir is None else replace(recipe, data_dir=data_dir)
    if changed := recipe.differs(loaded.recipe):
        raise ValueError(
            f"{RunFolder(folder).recipe} has been changed: it is not what the weights were trained by "
            f"({', '.join(f'{name} = {getattr(loaded.recipe, name)!r}' for name in changed)})"
        )
    return recipe, loaded


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe of a run folder."""
    return RunFolder(folder).read_recipe()


def records(folder: Path) -> list[Record]:
    """Return every epoch's record; see ``RunFolder.read_epochs``."""
    return RunFolder(folder).read_epochs()


def last_record(folder: Path) -> Record:
    """Return the last epoch's record."""
    return records(folder)[-1]


def finish(folder: Path, recipe: Recipe, model: Network, images: "Images", about: Record) -> None:
    """Write the weights, with everything needed to use them, and the record of the whole run.

    Args:
        folder: the run folder.
        recipe: of the run.
        model: the network.
        images: that it was trained on: their classes, mean, std and identity are stored with the weights.
        about: more about the run: device, processes, parameters, FLOPs, number of images, precision.
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
    summary = {
        "precision": number_formats(epochs, about["precision"]),
        "seconds": sum(epoch["seconds"] for epoch in epochs),
    }
    record = {**versions(), **{name: about[name] for name in kept}, **summary, "data": needed["data"]}
    run.write(run.record, json.dumps(record, indent=2) + "\n")


def number_formats(epochs: Sequence[Record], last: str) -> str:
    """Return the number format of a run, or all of them in order if it was continued on another device.

    Args:
        epochs: their records; those of older versions do not have it.
        last: the current number format.
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
