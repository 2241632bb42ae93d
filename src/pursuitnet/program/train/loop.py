"""From a recipe to a run folder: one loop, no global state, the last epoch reported."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pursuitnet.program.callbacks.base import Callback, NoOpCallback
from pursuitnet.program.factories import device_of
from pursuitnet.program.lock import LockedError, check_free, run_lock
from pursuitnet.program.recipe import GIVEN, Recipe
from pursuitnet.program.run_folder import Record
from pursuitnet.program.runs import running
from pursuitnet.program.train import checkpoints
from pursuitnet.program.train.checkpoint_manager import CheckpointManager, StoppedError, stop_requests
from pursuitnet.program.train.given import Augment, dataset
from pursuitnet.program.train.process_group import group_of, process_group
from pursuitnet.program.train.run import finish, flops_per_image, last_record
from pursuitnet.program.train.tasks import trainer_of
from pursuitnet.program.train.trainer import EpochProgress, Trainer, precision_name
from pursuitnet.program.versions import commit
from pursuitnet.utils.paths import expanded


def train(
    recipe: Recipe,
    folder: str | Path,
    callback: Callback | None = None,
    *,
    data: Any = None,
    classes: Sequence[str] | None = None,
    augment: Augment | None = None,
    resume: bool = False,
    every: float = 60.0,
) -> Record:
    """Run the recipe and leave a run folder; return the last epoch's record.

    Under torchrun or srun each process trains on its own device, and the first one writes.

    Args:
        recipe: what to train.
        folder: where the run goes, ~ for the home: recipe.json, metrics.jsonl, checkpoint.pt and the one before,
            model.safetensors, record.json. It must not exist, or hold no more than a run that was cut off before its
            first checkpoint, unless ``resume`` continues the run that it holds.
        callback: is told of every step and epoch.
        data: images to train and to test on instead of those the recipe names, ``recipe.data`` is then "given":
            (train_images, train_labels, test_images, test_labels) as tensors or arrays, images (N, C, H, W) or
            (N, H, W) in uint8, or floats in [0, 1], labels (N,) whole numbers from 0, or names; or (train, test), each
            a torch ``Dataset`` of (image, label) or a pair (images, labels); or one of these alone, of which every
            fifth is for testing. The items of a Dataset are read anew for every batch, by ``recipe.workers``
            processes, with what its transforms draw drawn from the seed. To go on with a run, hand over the same.
        classes: their names by label, where the data are handed over.
        augment: takes a batch (B, C, H, W) of training images as they are and returns one of the same kind; it follows
            the recipe's own shifts and flips. What it draws from the global generators is drawn from the seed.
        resume: continue after the last checkpoint, or begin where there was none yet; on a CPU the end is the same to
            the last bit as without the break.
        every: seconds between two checkpoints within an epoch; one follows every epoch, and every stop by a signal.

    Raises:
        ConnectionError: if another process of the run has gone.
        FileExistsError: if the folder holds something and resume is False.
        FileNotFoundError: if there is nothing to resume.
        FloatingPointError: if the loss is no number or explodes; the last checkpoint is of before.
        TypeError, ValueError: if the data are not of such a form.
        OSError: if the folder cannot be written to, which is tried before the first step.
        StoppedError: if SIGINT or SIGTERM has come; the step is finished and kept.
        LockedError: if another process is at this run.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(
            f"recipe is {recipe!r:.50}; expected a Recipe, as Recipe(epochs=3), Recipe.named('residual') or "
            "Recipe.from_json(…) makes one"
        )
    folder = expanded(folder)
    if group_of(os.environ).first:
        check_free(folder)  # before anything is read
    started = not checkpoints.has_no_checkpoint_yet(folder)
    if started and not resume:
        raise FileExistsError(f"{folder} exists; name another --out, or continue it with --resume")
    if resume and not folder.exists():
        raise FileNotFoundError(f"{folder} holds nothing to resume; start it without --resume")
    given = None if data is None else dataset(data, classes, recipe.workers)
    recipe = recipe if given is None else replace(recipe, data=GIVEN, data_dir=None)
    with stop_requests() as requests, process_group(device_of(recipe)) as group:
        told = NoOpCallback() if callback is None or not group.first else callback
        trainer = trainer_of(recipe, group, given, augment, fresh=not started)
        manager = CheckpointManager(folder, trainer, every)
        with run_lock(folder) if group.first else nullcontext():
            if group.first and checkpoints.has_no_checkpoint_yet(folder) == started:
                raise LockedError(f"{folder} has been begun by another process in this very moment")
            return _run(manager, told, started, requests)


def _run(manager: CheckpointManager, callback: Callback, goes_on: bool, requests: list[int]) -> Record:
    trainer, folder = manager.trainer, manager.folder.path
    recipe, group = trainer.recipe, trainer.group
    done, progress = manager.reopen() if goes_on else manager.open()
    about, record = _about(trainer, folder), Record()
    said = {"device": about["device"], "commit": commit() or ""}
    with running(folder, StoppedError, **said) if group.first else nullcontext():
        callback.on_train_begin(about)
        for epoch in range(done + 1, recipe.epochs + 1):
            record = _epoch(trainer, manager, epoch, callback, progress, requests)
            callback.on_epoch_end(record)
            manager.on_epoch_end(epoch, record, requests)
            progress = None
        if group.first:
            finish(folder, recipe, trainer.model, trainer.images, about)
    return record or last_record(folder)


def _epoch(
    trainer: Trainer,
    manager: CheckpointManager,
    epoch: int,
    callback: Callback,
    progress: EpochProgress | None,
    requests: list[int],
) -> Record:
    began = time.perf_counter()
    try:
        trained = trainer.epoch(epoch, callback, progress, partial(manager.on_step_end, epoch, requests))
        trainer.check_state(f"epoch {epoch}")
        tested = _tested(trainer)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}. The last good checkpoint is {manager.status()}") from error
    seconds = time.perf_counter() - began
    return {"epoch": epoch, **trained, **tested, "seconds": seconds, "precision": precision_name(trainer.precision)}


def _tested(trainer: Trainer) -> Record:
    """Return loss and accuracy on the validation images, if there are any, and on the test images.

    Raises:
        FloatingPointError: if a loss is no number.
    """
    found: Record = {}
    for name in ("val", "test"):
        found |= trainer.measured(name)
        if not math.isfinite(found.get(f"{name}_loss", 0.0)):
            raise FloatingPointError(f"the loss on the {name} images is {found[f'{name}_loss']:.4g}")
    return found


def _about(trainer: Trainer, folder: Path) -> Record:
    """Return what is known of a run before its first step."""
    images = trainer.images
    return {
        "recipe": trainer.recipe.to_json(),
        "folder": str(folder),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "flops_per_image": flops_per_image(trainer.model, trainer.sample()),
        "device": str(trainer.device),
        "processes": trainer.group.size,
        "precision": precision_name(trainer.precision),
        "images": [len(images.train[1]), len(images.test[1])],
        "steps": trainer.steps,
    }
