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
    """Train a recipe and write a run folder; return the last epoch's record.

    Under torchrun or srun each process trains on its own device, and the first one writes.

    Args:
        recipe: what to train.
        folder: the run folder, ~ for the home directory: recipe.json, metrics.jsonl, checkpoint.pt and the previous
            one, model.safetensors, record.json. Unless ``resume`` continues the run in it, it must not exist, or hold
            only what a run leaves that was killed before its first checkpoint.
        callback: called at the begin of training, after every step and after every epoch.
        data: images to train and to test on instead of those that the recipe names; ``recipe.data`` is then "given":
            (train_images, train_labels, test_images, test_labels) as tensors or arrays, images (N, C, H, W) or
            (N, H, W) in uint8, or floats in [0, 1], labels (N,) whole numbers from 0, or names; or (train, test), each
            a torch ``Dataset`` of (image, label) or a pair (images, labels); or one of these alone, of which every
            fifth image is for testing. The items of a Dataset are read again for every batch, by ``recipe.workers``
            processes, with the random numbers of its transforms drawn from the seed. To resume, pass the same data.
        classes: names of the classes by label, for data passed in here.
        augment: takes a batch (B, C, H, W) of training images and returns one of the same kind; it is applied after
            the recipe's own shifts and flips. Its random numbers from the global generators are drawn from the seed.
        resume: continue after the last checkpoint, or begin if there is none yet; on a CPU the result is bit for bit
            the same as without the interruption.
        every: seconds between two checkpoints within an epoch; one is written after every epoch too, and at every stop
            by a signal.

    Raises:
        ConnectionError: if another process of the run has died.
        FileExistsError: if the folder holds something and resume is False.
        FileNotFoundError: if there is nothing to resume.
        FloatingPointError: if the loss is not finite or explodes; the last checkpoint is from before.
        TypeError, ValueError: if the data do not have one of these forms.
        OSError: if the folder cannot be written to, which is tried before the first step.
        StoppedError: after SIGINT or SIGTERM; the step is finished and saved.
        LockedError: if another process is training this run.
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
    data_set = None if data is None else dataset(data, classes, recipe.workers)
    recipe = recipe if data_set is None else replace(recipe, data=GIVEN, data_dir=None)
    with stop_requests() as requests, process_group(device_of(recipe)) as group:
        callback = NoOpCallback() if callback is None or not group.first else callback
        trainer = trainer_of(recipe, group, data_set, augment, fresh=not started)
        manager = CheckpointManager(folder, trainer, every)
        with run_lock(folder) if group.first else nullcontext():
            if group.first and checkpoints.has_no_checkpoint_yet(folder) == started:
                raise LockedError(f"{folder} has just been started by another process")
            return _train(manager, callback, started, requests)


def _train(manager: CheckpointManager, callback: Callback, resumes: bool, requests: list[int]) -> Record:
    trainer, folder = manager.trainer, manager.folder.path
    recipe, group = trainer.recipe, trainer.group
    done, progress = manager.reopen() if resumes else manager.open()
    about, record = _description(trainer, folder), Record()
    with running(folder, StoppedError, device=about["device"], commit=commit() or "") if group.first else nullcontext():
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
    start = time.perf_counter()
    try:
        trained = trainer.epoch(epoch, callback, progress, partial(manager.on_step_end, epoch, requests))
        trainer.check_state(f"epoch {epoch}")
        measured = _measure_splits(trainer)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}. The last good checkpoint is {manager.status()}") from error
    seconds = time.perf_counter() - start
    return {"epoch": epoch, **trained, **measured, "seconds": seconds, "precision": precision_name(trainer.precision)}


def _measure_splits(trainer: Trainer) -> Record:
    """Return loss and accuracy on the validation images, if there are any, and on the test images.

    Raises:
        FloatingPointError: if a loss is not finite.
    """
    measured: Record = {}
    for name in ("val", "test"):
        measured |= trainer.measure(name)
        if not math.isfinite(measured.get(f"{name}_loss", 0.0)):
            raise FloatingPointError(f"the loss on the {name} images is {measured[f'{name}_loss']:.4g}")
    return measured


def _description(trainer: Trainer, folder: Path) -> Record:
    """Return what callbacks and the record need to know about a run before its first step."""
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
