"""From a recipe to a run folder: one loop, no global state, the last epoch reported."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet import __version__, checkpoints, data
from pursuitnet.keeper import Begun, Keeper, stop_requests
from pursuitnet.layer import PursuitLayer
from pursuitnet.networks import Network, create_model
from pursuitnet.recipe import Recipe
from pursuitnet.steps import FreeStep

Record = dict[str, Any]
"""What one line of metrics.jsonl holds."""


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


@dataclass(frozen=True)
class Images:
    """A data set on its device; ``mean`` and ``std`` (C,) bring [0, 1] to what the network expects."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    mean: Tensor
    std: Tensor

    def prepared(self, images: Tensor) -> Tensor:
        """Return float images (B, C, H, W) from uint8 ones."""
        unit = data.to_unit(images).sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1))
        return unit.contiguous(memory_format=torch.channels_last)


def images_of(recipe: Recipe) -> Images:
    """Read the recipe's data set onto its device."""
    device = device_of(recipe)
    train, test = (
        tuple(t.to(device) for t in data.load(recipe.data, recipe.data_dir, split)) for split in ("train", "test")
    )
    pixels, labels = train[0][: recipe.train_images], train[1][: recipe.train_images]
    if recipe.standardised:
        mean, std = data.channel_statistics(pixels)
    else:
        mean, std = torch.zeros(pixels.shape[1]), torch.ones(pixels.shape[1])
    return Images((pixels, labels), (test[0], test[1]), mean.to(device), std.clamp(min=1e-6).to(device))


def model_of(recipe: Recipe) -> Network:
    """Create the recipe's network from its seed; torch's global generator is left as it was."""
    about = data.info(recipe.data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = create_model(recipe.model, about.num_classes, about.in_chans, **recipe.choices())
    return model.to(device_of(recipe)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def device_of(recipe: Recipe) -> torch.device:
    """Return the device that the recipe names; "auto" takes the accelerator, if there is one."""
    if recipe.device != "auto":
        try:
            return torch.empty(0, device=recipe.device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device is {recipe.device!r}, which is not here: {str(error).splitlines()[0]}") from error
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


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
    _finish(folder, recipe, model, images)
    return record or last_record(folder)


def optimiser_of(recipe: Recipe, model: nn.Module) -> torch.optim.SGD:
    """Return SGD that decays filters and head, but no threshold, step or norm.

    A step c is one number for a whole layer and collects the gradients of all its pixels: it learns at a tenth of the
    rate, without which Res-CSC of 110 layers is slower to start than ResNet.
    """
    filters = [p for p in model.parameters() if p.dim() > 1]
    rows = [p for p in model.parameters() if p.dim() == 1]
    steps = [p for p in model.parameters() if p.dim() == 0]
    groups = [
        {"params": filters, "weight_decay": recipe.weight_decay, "scale": 1.0},
        {"params": rows, "weight_decay": 0.0, "scale": 1.0},
        {"params": steps, "weight_decay": 0.0, "scale": 0.1},
    ]
    groups = [group for group in groups if group["params"]]
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


def learning_rate(recipe: Recipe, epochs: float) -> float:
    """Return the learning rate after so many epochs, a fraction included."""
    peak = recipe.lr * min(1.0, epochs / recipe.warmup) if recipe.warmup else recipe.lr
    done = epochs / recipe.epochs
    if recipe.schedule == "cosine":
        return peak * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return peak * 0.1 ** ((done >= 0.5) + (done >= 0.75))


def batches(recipe: Recipe, epoch: int, images: Images, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the epoch's batches in their order, augmented; each hangs on the seed, the epoch and its number alone.

    Args:
        recipe: the run.
        epoch: counted from 1.
        images: the data set.
        skip: batches to leave out at the start.
    """
    pixels, labels = images.train
    seed = recipe.seed * 1_000_003 + epoch
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    for number, chosen in enumerate(order.split(recipe.batch_size)):
        if number < skip or len(chosen) == 1:  # a single image has no batch statistics
            continue
        batch = pixels[chosen]
        if recipe.augmented:
            batch = data.augment(batch, torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63))
        yield images.prepared(batch), labels[chosen]


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


def load_run(folder: Path) -> tuple[Recipe, Network]:
    """Return the recipe and the trained network of a run folder, in evaluation mode.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run.
        ValueError: if a file in it is damaged.
    """
    recipe, weights = read_recipe(folder), folder / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(
            f"{weights} is missing; the run has not finished: pursuitnet train --out {folder} --resume"
        )
    model = model_of(recipe)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{weights} is damaged or of another network: {str(error).splitlines()[0]}") from error
    return recipe, model.eval()


def read_recipe(folder: Path) -> Recipe:
    """Return the recipe that a run folder was made from."""
    path = folder / "recipe.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run: {path.name} is missing")
    try:
        return Recipe.from_json(json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def records(folder: Path) -> list[Record]:
    """Return every epoch's record."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_record(folder: Path) -> Record:
    """Return the last epoch's record."""
    return records(folder)[-1]


def _finish(folder: Path, recipe: Recipe, model: Network, images: Images) -> None:
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    content = save(weights, {"recipe": json.dumps(recipe.to_json())})
    checkpoints.replace(folder / "model.safetensors", content)
    about = {
        "pursuitnet": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "commit": commit(),
        "device": str(images.mean.device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "images": [len(images.train[1]), len(images.test[1])],
        "seconds": sum(record["seconds"] for record in records(folder)),
    }
    checkpoints.replace(folder / "record.json", (json.dumps(about, indent=2) + "\n").encode())


def commit() -> str | None:
    """Return the commit of the package's own checkout, with "+changes" where it has some; None outside of one."""
    commands = (
        ["git", "ls-files", "--error-unmatch", "__init__.py"],  # a checkout around an installed package is not its own
        ["git", "rev-parse", "HEAD"],
        ["git", "status", "--porcelain", "--", "."],
    )
    here = Path(__file__).parent
    try:
        said = [subprocess.run(c, cwd=here, capture_output=True, text=True, check=True).stdout for c in commands]
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[1].strip() + ("+changes" if said[2].strip() else "")
