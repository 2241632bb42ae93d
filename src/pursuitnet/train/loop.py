"""From a recipe to a run folder: one loop, no global state, the last epoch reported."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.layer import PursuitLayer
from pursuitnet.recipe import Recipe
from pursuitnet.steps import FreeStep
from pursuitnet.train.images import Images, batches, images_of
from pursuitnet.train.keeper import Begun, Keeper, stop_requests
from pursuitnet.train.optimiser import learning_rate, optimiser_of
from pursuitnet.train.run import Record, device_of, finish, last_record, model_of


class Watcher(Protocol):
    """Something that wants to see a run go by."""

    def batch(self, epoch: int, step: int, steps: int) -> None:
        """A step has been taken."""

    def epoch(self, record: Record) -> None:
        """An epoch has ended."""


class Silent:
    """A watcher that looks away."""

    def batch(self, epoch: int, step: int, steps: int) -> None: ...

    def epoch(self, record: Record) -> None: ...


def train(
    recipe: Recipe, folder: Path, watch: Watcher | None = None, *, resume: bool = False, every: float = 60.0
) -> Record:
    """Run the recipe and leave a run folder; return the last epoch's record.

    Args:
        recipe: what to train.
        folder: where the run goes: recipe.json, metrics.jsonl, checkpoint.pt and the one before,
            model.safetensors, record.json. It must not exist, unless ``resume`` continues the run that it holds.
        watch: is told of every step and epoch.
        resume: continue after the last checkpoint; on a CPU the end is the same to the last bit as without the break.
        every: seconds between two checkpoints within an epoch; one follows every epoch, and every stop by a signal.

    Raises:
        FileExistsError: if the folder exists and resume is False.
        FileNotFoundError: if there is nothing to resume.
        FloatingPointError: if the loss is no longer finite; the last checkpoint is of before.
        OSError: if the folder cannot be written to, which is tried before the first step.
        StoppedError: if SIGINT or SIGTERM has come; the step is finished and kept.
    """
    watch = Silent() if watch is None else watch
    if folder.exists() and not resume:
        raise FileExistsError(f"{folder} exists; name another --out, or continue it with --resume")
    images, model = images_of(recipe), model_of(recipe)
    optimiser = optimiser_of(recipe, model)
    keeper = Keeper(folder, model, optimiser, every)
    done, begun = keeper.reopen(device_of(recipe)) if resume else keeper.open(recipe)
    record: Record = {}
    with stop_requests() as requests:
        for epoch in range(done + 1, recipe.epochs + 1):
            began = time.perf_counter()
            each = partial(keeper.between, epoch, requests)
            loss = train_epoch(recipe, epoch, model, optimiser, images, watch, begun, each)
            test_loss, test_accuracy, _ = evaluate(model, images, images.test)
            record = {
                "epoch": epoch,
                "train_loss": loss,
                "test_loss": test_loss,
                "test_accuracy": test_accuracy,
                "lr": optimiser.param_groups[0]["lr"],
                "seconds": time.perf_counter() - began,
            }
            keeper.after(epoch, record)
            watch.epoch(record)
            begun = None
    finish(folder, recipe, model, images.mean, images.std, [len(images.train[1]), len(images.test[1])])
    return record or last_record(folder)


def train_epoch(
    recipe: Recipe,
    epoch: int,
    model: nn.Module,
    optimiser: torch.optim.SGD,
    images: Images,
    watch: Watcher,
    begun: Begun | None = None,
    each: Callable[[Begun], None] | None = None,
) -> float:
    """Train for one epoch, counted from 1, and return the mean training loss.

    Args:
        recipe: the run.
        epoch: counted from 1.
        model: the network.
        optimiser: that of ``optimiser_of``.
        images: the data set.
        watch: is told of every step.
        begun: where the epoch was broken off, if it was.
        each: is called after every step with where the epoch stands.

    Raises:
        FloatingPointError: if the loss is no longer finite.
    """
    model.train()
    begun = Begun(0, torch.zeros((), device=images.mean.device), 0) if begun is None else begun
    steps = -(-len(images.train[1]) // recipe.batch_size)
    for step, (pixels, labels) in enumerate(batches(recipe, epoch, images, begun.steps), begun.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = group["scale"] * learning_rate(recipe, epoch - 1 + step / steps)
        optimiser.zero_grad()
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        begun = Begun(step, begun.total + loss.detach() * len(labels), begun.images + len(labels))
        if (loss.device.type == "cpu" or step % 50 == 0 or step == steps) and not begun.total.isfinite():
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} in epoch {epoch}, step {step}; {_blame(model)}"
            )
        optimiser.step()
        watch.batch(epoch, step, steps)
        if each is not None:
            each(begun)
    return float(begun.total) / begun.images


@torch.no_grad()
def _blame(model: nn.Module) -> str:
    """Return which layer has left its bounds, in words."""
    for name, layer in model.named_modules():
        if isinstance(layer, PursuitLayer):
            s, t = (float(w) for w in layer.step())
            L = float(layer.dictionary.lipschitz_bound())
            if not math.isfinite(L) or not math.isfinite(s + t):
                return f"the first layer that is not finite is {name}: λmax at most {L:.3g}, steps {s:.3g} and {t:.3g}"
            if isinstance(layer.step, FreeStep) and not 0 < s * L <= 1:
                return f"{name} has left (0, 1/L]: c = {s:.3g}, c·L = {s * L:.3g}; lower --lr, or use --step bounded"
    return "every step is within its bound and every filter finite: lower --lr or lengthen --warmup"


def evaluate(
    model: nn.Module, images: Images, split: tuple[Tensor, Tensor], size: int = 500
) -> tuple[float, float, Tensor]:
    """Return mean loss, accuracy as a fraction, and the predicted labels (N,)."""
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(images.prepared(part)) for part in split[0].split(size)])
        predicted = logits.argmax(dim=1)
        loss = float(F.cross_entropy(logits, split[1]))
        return loss, int((predicted == split[1]).sum()) / len(predicted), predicted
