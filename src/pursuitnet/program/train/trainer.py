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
from pursuitnet.program.train.given import Augment, described
from pursuitnet.program.train.images import Images, Split, batches, images_of, loss_weights, steps_of
from pursuitnet.program.train.initial import begin_with
from pursuitnet.program.train.optimizer import learning_rate, optimizer_of
from pursuitnet.program.train.process_group import SINGLE_PROCESS, ProcessGroup
from pursuitnet.program.train.stopwatch import Stopwatch
from pursuitnet.prox.norms import synchronize
from pursuitnet.prox.step_size import FreeStep

EXPLODED = 100.0
"""A loss of so many times that of guessing stops the run."""


LOOK = {"cpu": 1}
"""Steps between two looks at the loss, by the type of the device; elsewhere 50, as each waits for the device."""


class EpochProgress(NamedTuple):
    """An epoch that has begun: the steps it has taken, the sum of the losses and the number of their images."""

    steps: int
    total: Tensor
    images: int


class Trainer:
    """A network, its data and its optimizer on one device, as one of a group of processes.

    Args:
        recipe: what to train.
        group: the processes that share each batch; the network and the data are in all of them.
        dataset: what to train on, where it is handed over.
        augment: what is done to each batch besides the recipe's shifts and flips.
        fresh: begin with the weights that the recipe names, if it does; what is restored needs none.
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
        self.graphed = GraphedStep(self.model, self._backward) if graphed and self._plain() else None

    def _open(self, dataset: data.Dataset | None, fresh: bool) -> None:
        """Read the data set and make the network, with the weights that the recipe names if it is to begin."""
        self.images: Images = images_of(self.recipe, self.device, dataset)
        self.steps = steps_of(self.images, self.recipe, self.group)
        self.model: Network = model_of(self.recipe, self.device, dataset)
        if self.recipe.init is not None and fresh:
            self._begin(self.recipe.init)
        self.model.features.requires_grad_(not self.recipe.freeze_backbone)
        self.weights = loss_weights(self.recipe, self.images.train[1], len(self.images.identity.classes))
        self.guess = math.log(max(2, self.model.num_classes))  # the loss of guessing

    def _plain(self) -> bool:
        """Return whether a step is one function of images and labels, on one device."""
        return self.group.size == 1

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Any, Tensor, int]]:
        """Yield the batches of an epoch but the first so many: inputs, targets, and how many are in the whole batch."""
        return batches(self.recipe, epoch, self.images, skip, self.group, self.augment)

    def _begin(self, name: str) -> None:
        """Begin with the weights of another run, and with its normalization."""
        known = self.images.identity.classes
        about = begin_with(name, self.model, self.recipe, known, len(self.images.mean))
        mean, std = about.mean.to(self.device), about.std.to(self.device)
        self.images = replace(self.images, mean=mean, std=std)

    def state(self) -> dict[str, Any]:
        """Return all that changes in training, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "data": self.images.data_state(),
            "augment": described(self.augment),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: if it is that of another network or optimizer, or the images are not those it was trained on.
        """
        self.images = self.images.resumed(state.get("data"), self.recipe)
        if (was := state.get("augment")) != (now := described(self.augment)):
            raise ValueError(f"the run was started with augment = {was}, and is to go on with {now}; expected the same")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            which = (str(error).splitlines() or [""])[-1].strip()
            raise ValueError(
                f"the checkpoint holds weights of another network than {self.recipe.model}: {which:.200}"
            ) from error

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which the network computes."""
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32)

    def epoch(
        self,
        number: int,
        callback: Callback | None = None,
        progress: EpochProgress | None = None,
        each: Callable[[EpochProgress, Callable[[], None]], None] | None = None,
    ) -> dict[str, float]:
        """Train for one epoch; return its training loss, its rate and where the time went.

        Args:
            number: of the epoch, counted from 1.
            callback: is told of every step.
            progress: where the epoch was broken off, if it was.
            each: is called after every step with where the epoch stands, and with a check that raises as this does.

        Raises:
            FloatingPointError: if the loss is no number, or a hundred times that of guessing.
        """
        callback, network = NoOpCallback() if callback is None else callback, _parallel(self.model, self.group).train()
        self.model.features.train(not self.recipe.freeze_backbone)  # or its statistics would move
        progress = EpochProgress(0, torch.zeros((), device=self.device), 0) if progress is None else progress
        clock, worst = Stopwatch(self.device), torch.zeros((), device=self.device)
        steps, look = self.steps, LOOK.get(self.device.type, 50)
        parts = self.batches(number, progress.steps)
        for step, (images, labels, count) in enumerate(clock.timed("data", parts), progress.steps + 1):
            self._set_rate(number - 1 + step / steps)
            loss = self._gradients(network, images, labels, count, clock)
            worst = torch.maximum(worst, loss)
            check = partial(self.check, worst, number, step)
            if step % look == 0 or step == steps:
                check()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            clock.lap("optimizer", count)
            progress = EpochProgress(step, progress.total + loss * count, progress.images + count)
            callback.on_step_end(number, step, steps)
            if each is not None:
                each(progress, check)
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
        loss = self._loss(network, images, labels)
        clock.lap("forward")
        share = len(labels) * self.group.size / count  # the gradients are averaged over processes of unequal shares
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
        """Raise FloatingPointError if the loss is no number, or far above that of guessing."""
        limit = EXPLODED * self.guess
        if not float(worst) < limit:  # NaN is not
            what = f"the loss is {float(worst):.4g}" + (f", above {limit:.3g}" if worst > limit else "")
            raise FloatingPointError(f"{what} in epoch {epoch}, step {step}; {diverged_layer(self.model)}")

    def check_state(self, where: str) -> None:
        """Raise FloatingPointError if a weight or a statistic of the network is no number: it is not to be kept.

        The loss of a step is that of the weights before it, so that it does not tell of the last step.
        """
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack([value.isfinite().all() for value in values]).all()):
            raise FloatingPointError(f"weights are no longer finite after {where}; {diverged_layer(self.model)}")

    def sample(self) -> Tensor:
        """Return two images, or one, as the network takes them."""
        return self.images.prepared(self.images.test[0][:2])

    def measured(self, name: str) -> dict[str, Any]:
        """Return what an epoch's record says of a split, "val" or "test"; nothing where it is empty."""
        split: Split = getattr(self.images, name)
        if not len(split[1]):
            return {}
        loss, accuracy = self.evaluate(split)
        return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}

    def evaluate(self, split: Split) -> tuple[float, float]:
        """Return mean loss and accuracy as a fraction, each process taking its share of the images."""
        share = slice(self.group.rank, None, self.group.size)
        pixels, labels = split[0][share], split[1][share]
        logits = logits_of(self.model, pixels, self.images.prepared, 500 if self.device.type == "cpu" else 2_000)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        loss, right = self.group.sum(torch.stack([loss, num_correct(logits, labels).to(loss.dtype)]))
        return float(loss) / len(split[1]), int(right) / len(split[1])


def loss_of(logits: Tensor, labels: Tensor, recipe: Recipe, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss of logits (N, classes): cross-entropy, with a margin and a temperature if asked for.

    With them it is T·CE((logits − margin·e_y)/T): small only where the true class y is ahead by more than the margin.
    """
    if recipe.margin:
        logits = logits - recipe.margin * F.one_hot(labels, logits.shape[1])
    T = recipe.temperature
    scaled, smooth = logits if T == 1 else logits / T, recipe.label_smoothing
    if weights is None:
        loss = F.cross_entropy(scaled, labels, label_smoothing=smooth)
    else:  # not divided by the weights of the batch, so that every image counts alike in whatever batch it is
        loss = F.cross_entropy(scaled, labels, weights, reduction="sum", label_smoothing=smooth) / len(labels)
    return loss if T == 1 else T * loss


def logits_of(
    model: nn.Module,
    images: data.Pixels,
    prepare: Callable[[Tensor], Tensor] | None = None,
    size: int = 500,
    tell: Advance = nothing,
) -> Tensor:
    """Return the logits (N, classes) in evaluation mode and full precision.

    Args:
        model: the network.
        images: (N, C, H, W).
        prepare: brings a batch of the images to what the network expects; None if they are that.
        size: images a batch.
        tell: is told how many more are done.
    """
    model.eval()
    found = []
    with torch.inference_mode():
        for part in images.split(size):
            # copies, since a CUDA graph writes the next logits where the last ones lie
            found.append(model(prepare(part) if prepare else part).clone())
            tell(len(part))
    return torch.cat(found)


def evaluate(model: nn.Module, images: Images, split: Split, size: int = 500) -> tuple[float, float, Tensor]:
    """Return mean loss, accuracy as a fraction, and the predicted labels (N,)."""
    logits = logits_of(model, split[0], images.prepared, size)
    loss = float(F.cross_entropy(logits, split[1], reduction="sum")) / len(logits)
    return loss, accuracy(logits, split[1]), logits.argmax(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest logit is that of their label: (N, classes), (N,) → 0 to 1."""
    return int(num_correct(logits, labels)) / len(labels)


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the number of images whose largest logit is that of their label, the first of several equal ones."""
    return (logits.argmax(dim=1) == labels).sum()


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """Return the number format of convolutions on a device."""
    if recipe.precision != "auto":
        return getattr(torch, recipe.precision)
    if recipe.task != "classify":  # a picture has more levels than bfloat16 tells apart
        return torch.float32
    good = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if good else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Return what a number format is called in a recipe and a record."""
    return str(precision).removeprefix("torch.")


@torch.no_grad()
def diverged_layer(model: nn.Module) -> str:
    """Return which layer has left its bounds, in words."""
    for name, layer in model.named_modules():
        if isinstance(layer, PursuitLayer):
            c, weight = (float(w) for w in layer.step())
            L = float(layer.dictionary.lipschitz_bound())
            if not math.isfinite(L) or not math.isfinite(c * weight):
                at = f"λmax at most {L:.3g}, step {c:.3g}, weight of the model {weight:.3g}"
                return f"the first layer that is not finite is {name}: {at}"
            if isinstance(layer.step, FreeStep) and not 0 < c * L <= 1:
                return f"{name} has left (0, 1/L]: c = {c:.3g}, c·L = {c * L:.3g}; lower --lr, or use --step bounded"
    return "every step is within its bound and every filter finite: lower --lr or lengthen --warmup"


def _parallel(model: nn.Module, group: ProcessGroup) -> nn.Module:
    """Return the network with its gradients averaged over the processes.

    Made again in every epoch, so that none is left when the processes part.
    """
    return model if group.size == 1 else DistributedDataParallel(model)
