"""A network, its data and its optimizer, and what an epoch does to them."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from pursuitnet import data
from pursuitnet.data.progress import Advance, nothing
from pursuitnet.layer import PursuitLayer
from pursuitnet.networks import Network
from pursuitnet.program.callbacks.base import Callback, NoOpCallback
from pursuitnet.program.factories import device_of, model_of
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train.cuda_graph import GraphedStep
from pursuitnet.program.train.given import Augment, name_of
from pursuitnet.program.train.images import Images, Split, batches, images_of, loss_weights, steps_of
from pursuitnet.program.train.initial import load_initial_dictionary, load_initial_weights
from pursuitnet.program.train.optimizer import learning_rate, optimizer_of
from pursuitnet.program.train.process_group import SINGLE_PROCESS, ProcessGroup
from pursuitnet.program.train.stopwatch import Stopwatch
from pursuitnet.prox.norms import synchronize
from pursuitnet.prox.step_size import FreeStep

EXPLODED = 100.0
"""A loss of this many times that of guessing stops the run."""


CHECK_EVERY = {"cpu": 1}
"""Steps between two checks of the loss, by type of device; 50 on others, since each check waits for the device."""


class EpochProgress(NamedTuple):
    """Progress of an epoch: the steps taken, the sum of the losses and the number of images."""

    steps: int
    total: Tensor
    images: int


class Trainer:
    """A network, its data and its optimizer on one device, as one of a group of processes.

    Args:
        recipe: what to train.
        group: the processes that share each batch; the network and the data are in all of them.
        dataset: to train on, if it is passed in from Python.
        augment: applied to each batch after the recipe's shifts and flips.
        fresh: load the initial weights that the recipe names; not needed if a checkpoint is restored.
    """

    def __init__(
        self,
        recipe: Recipe,
        group: ProcessGroup = SINGLE_PROCESS,
        dataset: data.Dataset | None = None,
        augment: Augment | None = None,
        fresh: bool = True,
    ) -> None:
        recipe, self.augment = recipe.located(), augment
        self.recipe, self.group, self.device = recipe, group, device_of(recipe, group.local)
        if recipe.batch_size < 2 * group.size:
            raise ValueError(
                f"batch_size is {recipe.batch_size}; expected at least two for each of {group.size} processes"
            )
        self._open(dataset, fresh)
        if recipe.init_dictionary is not None and fresh:
            load_initial_dictionary(recipe.init_dictionary, self.model)
        if not self.steps:
            raise ValueError(f"{len(self.images.train[1])} training images are too few for {group.size} processes")
        self.model.set_grad_checkpointing(recipe.grad_checkpointing)
        if recipe.sync_norm and group.size > 1:
            synchronize(self.model)
        if recipe.compile:
            self.model.compile(mode="reduce-overhead" if recipe.cuda_graphs else "default")
        self.optimizer = optimizer_of(recipe, self.model)
        self.precision = precision_of(recipe, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)
        graphed = recipe.cuda_graphs is not False and not recipe.compile and self.device.type == "cuda"
        self.graphed = GraphedStep(self.model, self._backward) if graphed and self._can_capture() else None

    def _open(self, dataset: data.Dataset | None, fresh: bool) -> None:
        """Read the data set and create the network, if ``fresh`` with the initial weights that the recipe names."""
        self.images: Images = images_of(self.recipe, self.device, dataset)
        self.steps = steps_of(self.images, self.recipe, self.group)
        self.model: Network = model_of(self.recipe, self.device, dataset)
        if self.recipe.init is not None and fresh:
            self._load_initial_weights(self.recipe.init)
        self.model.features.requires_grad_(not self.recipe.freeze_backbone)
        self.weights = loss_weights(self.recipe, self.images.train[1], len(self.images.identity.classes))
        self.guess = math.log(max(2, self.model.num_classes))  # the loss of guessing

    def _can_capture(self) -> bool:
        """Return whether a step can be captured: it is one function of images and labels, on one device."""
        return self.group.size == 1 and self.recipe.unfolding != "solved"  # whose number of steps is read back

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Any, Tensor, int]]:
        """Yield the batches of an epoch after the first ``skip``: inputs, targets, and the size of the whole batch."""
        return batches(self.recipe, epoch, self.images, skip, self.group, self.augment)

    def _load_initial_weights(self, name: str) -> None:
        """Take over the weights of another run, and its normalization."""
        classes = self.images.identity.classes
        source = load_initial_weights(name, self.model, self.recipe, classes, len(self.images.mean))
        mean, std = source.mean.to(self.device), source.std.to(self.device)
        self.images = replace(self.images, mean=mean, std=std)

    def state(self) -> dict[str, Any]:
        """Return everything that changes in training, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "data": self.images.data_state(),
            "augment": name_of(self.augment),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Raises:
            ValueError: if it is of another network or optimizer, or the images are not those it was trained on.
        """
        self.images = self.images.resumed(state.get("data"), self.recipe)
        if (was := state.get("augment")) != (now := name_of(self.augment)):
            raise ValueError(
                f"the run was started with augment = {was} and resumed with augment = {now}; expected the same"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [""])[-1].strip()
            raise ValueError(
                f"the checkpoint holds weights of another network than {self.recipe.model}: {reason:.200}"
            ) from error

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context of the forward pass."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32)

    def epoch(
        self,
        number: int,
        callback: Callback | None = None,
        progress: EpochProgress | None = None,
        after_step: Callable[[EpochProgress, Callable[[], None]], None] | None = None,
    ) -> dict[str, float]:
        """Train for one epoch; return its training loss, its learning rate, its speed and the parts of its time.

        Args:
            number: of the epoch, counted from 1.
            callback: its ``on_step_end`` is called after every step.
            progress: where to continue, if the epoch was interrupted.
            after_step: called after every step with the epoch's progress and a function that checks the loss, which
                raises as this does.

        Raises:
            FloatingPointError: if the loss is not finite, or a hundred times that of guessing.
        """
        callback, network = NoOpCallback() if callback is None else callback, _parallel(self.model, self.group).train()
        self.model.features.train(not self.recipe.freeze_backbone)  # else its running statistics would change
        progress = EpochProgress(0, torch.zeros((), device=self.device), 0) if progress is None else progress
        clock, worst = Stopwatch(self.device), torch.zeros((), device=self.device)
        steps, check_every = self.steps, CHECK_EVERY.get(self.device.type, 50)
        parts = self.batches(number, progress.steps)
        for step, (images, labels, count) in enumerate(clock.timed("data", parts), progress.steps + 1):
            self._set_rate(number - 1 + step / steps)
            loss = self._gradients(network, images, labels, count, clock)
            worst = torch.maximum(worst, loss)
            check = partial(self.check, worst, number, step)
            if step % check_every == 0 or step == steps:
                check()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            clock.lap("optimizer", count)
            progress = EpochProgress(step, progress.total + loss * count, progress.images + count)
            callback.on_step_end(number, step, steps)
            if after_step is not None:
                after_step(progress, check)
        return {
            "train_loss": float(progress.total) / progress.images,
            "lr": self.optimizer.param_groups[0]["lr"],
            **clock.report(),
        }

    def _set_rate(self, epochs: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(self.recipe, epochs)

    def _gradients(self, network: nn.Module, images: Any, labels: Tensor, count: int, clock: Stopwatch) -> Tensor:
        """Compute the gradients of the mean loss over the whole batch, and return that loss."""
        if self.graphed is not None:
            loss = self.graphed(images, labels, self.recipe.batch_size)
            clock.lap("graph")
            return loss
        self.optimizer.zero_grad()
        if self.recipe.compile and self.recipe.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            loss = self._loss(network, images, labels)
        except ValueError:  # solved layers refuse weights that are not finite, of which others return NaN
            self.check_state("the last step")
            raise
        clock.lap("forward")
        share = len(labels) * self.group.size / count  # gradients are averaged over processes, whose shares may differ
        self.scaler.scale(loss * share).backward()
        clock.lap("backward")
        return self.group.sum(loss.detach() * share) / self.group.size

    def _loss(self, network: nn.Module, images: Any, labels: Tensor) -> Tensor:
        with self.autocast():
            logits = network(images)
        return loss_of(logits.float(), labels, self.recipe, self.weights)

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of a batch to the parameters and return its loss."""
        loss = self._loss(self.model, images, labels)
        self.scaler.scale(loss).backward()
        return loss.detach()

    def check(self, worst: Tensor, epoch: int, step: int) -> None:
        """Raise FloatingPointError if the loss is not finite, or far above that of guessing."""
        limit = EXPLODED * self.guess
        if not float(worst) < limit:  # NaN is not
            problem = f"the loss is {float(worst):.4g}" + (f", above {limit:.3g}" if worst > limit else "")
            raise FloatingPointError(f"{problem} in epoch {epoch}, step {step}; {diverged_layer(self.model)}")

    def check_state(self, where: str) -> None:
        """Raise FloatingPointError if a weight or a statistic of the network is not finite, so that it is not saved.

        The loss of a step is that of the weights before the step, so it does not show what the last step did.
        """
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack([value.isfinite().all() for value in values]).all()):
            raise FloatingPointError(f"weights are no longer finite after {where}; {diverged_layer(self.model)}")

    def sample(self) -> Tensor:
        """Return two images, or one, as input of the network."""
        return self.images.prepared(self.images.test[0][:2])

    def measure(self, name: str) -> dict[str, Any]:
        """Return loss and metrics of a split, "val" or "test", for the epoch's record; nothing if it is empty."""
        split: Split = getattr(self.images, name)
        if not len(split[1]):
            return {}
        loss, accuracy = self.loss_and_accuracy(split)
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def loss_and_accuracy(self, split: Split) -> tuple[float, float]:
        """Return mean loss and accuracy as a fraction; each process takes its share of the images."""
        share = slice(self.group.rank, None, self.group.size)
        pixels, labels = split[0][share], split[1][share]
        logits = logits_of(self.model, pixels, self.images.prepared, 500 if self.device.type == "cpu" else 2_000)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        loss, right = self.group.sum(torch.stack([loss, num_correct(logits, labels).to(loss.dtype)]))
        return float(loss) / len(split[1]), int(right) / len(split[1])


def loss_of(logits: Tensor, labels: Tensor, recipe: Recipe, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss of logits (N, classes): cross-entropy, with the recipe's margin and temperature T.

    It is T·CE((logits − margin·e_y)/T), small only if the logit of the true class y leads by more than the margin.
    """
    if recipe.margin:
        logits = logits - recipe.margin * F.one_hot(labels, logits.shape[1])
    T = recipe.temperature
    scaled, smooth = logits if T == 1 else logits / T, recipe.label_smoothing
    if weights is None:
        loss = F.cross_entropy(scaled, labels, label_smoothing=smooth)
    else:  # not divided by the batch's weights, so that an image counts the same in every batch
        loss = F.cross_entropy(scaled, labels, weights, reduction="sum", label_smoothing=smooth) / len(labels)
    return loss if T == 1 else T * loss


def logits_of(
    model: nn.Module,
    images: data.Pixels,
    prepare: Callable[[Tensor], Tensor] | None = None,
    size: int = 500,
    advance: Advance = nothing,
) -> Tensor:
    """Return the logits (N, classes) in evaluation mode and full precision.

    Args:
        model: the network.
        images: (N, C, H, W).
        prepare: turns a batch of images into input of the network; None if they are that already.
        size: images per batch.
        advance: called with the number of images of each batch that is done.
    """
    model.eval()
    logits = []
    with torch.inference_mode():
        for part in images.split(size):
            # copied, since a CUDA graph overwrites its output at the next call
            logits.append(model(prepare(part) if prepare else part).clone())
            advance(len(part))
    return torch.cat(logits)


def evaluate_split(model: nn.Module, images: Images, split: Split, size: int = 500) -> tuple[float, float, Tensor]:
    """Return mean loss, accuracy as a fraction, and the predicted labels (N,)."""
    logits = logits_of(model, split[0], images.prepared, size)
    loss = float(F.cross_entropy(logits, split[1], reduction="sum")) / len(logits)
    return loss, accuracy(logits, split[1]), logits.argmax(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose largest logit is that of their label: (N, classes), (N,) → 0 to 1."""
    return int(num_correct(logits, labels)) / len(labels)


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of images whose largest logit is that of their label; of equal logits the first counts."""
    return (logits.argmax(dim=1) == labels).sum()


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the number format of convolutions on a device."""
    if recipe.precision != "auto":
        return getattr(torch, recipe.precision)
    if recipe.task != "classify":  # images have more levels than bfloat16 resolves
        return torch.float32
    good = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if good else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Return the name of a number format in recipes and records."""
    return str(precision).removeprefix("torch.")


@torch.no_grad()
def diverged_layer(model: nn.Module) -> str:
    """Return a description of the first layer that has left its bounds, for an error message."""
    for name, layer in model.named_modules():
        if isinstance(layer, PursuitLayer):
            c, weight = (float(w) for w in layer.step())
            L = float(layer.dictionary.lipschitz_bound())
            if not math.isfinite(L) or not math.isfinite(c * weight):
                values = f"λmax at most {L:.3g}, step {c:.3g}, weight of the model {weight:.3g}"
                return f"the first layer that is not finite is {name}: {values}"
            if isinstance(layer.step, FreeStep) and not 0 < c * L <= 1:
                return f"{name} has left (0, 1/L]: c = {c:.3g}, c·L = {c * L:.3g}; lower --lr, or use --step bounded"
    return "every step is within its bound and every filter finite: lower --lr or lengthen --warmup"


def _parallel(model: nn.Module, group: ProcessGroup) -> nn.Module:
    """Return the network, with its gradients averaged over the processes if there are several.

    It is wrapped again in every epoch, so that no wrapper is left when the process group ends.
    """
    return model if group.size == 1 else DistributedDataParallel(model)
