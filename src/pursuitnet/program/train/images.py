"""A data set on its device, and its batches."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pursuitnet import data
from pursuitnet.data.progress import progress
from pursuitnet.program.factories import check_stored, dataset_of, device_of
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.train.given import Augment, augmented
from pursuitnet.program.train.process_group import SINGLE_PROCESS, ProcessGroup

Split = tuple[data.Pixels, Tensor]
"""Images uint8, or float32 in [0, 1], (N, C, H, W), and labels int64 (N,)."""


@dataclass(frozen=True)
class Images:
    """A data set on its device, where it stays, unless its images are streamed.

    ``mean`` and ``std`` (C,) normalize pixels in [0, 1] for the network. ``val`` holds the training images that are
    held out for validation, and is empty unless the recipe asks for them. ``identity`` distinguishes these images from
    others. The images of a folder are in a stratified order, of which any first part represents all classes.
    """

    train: Split
    val: Split
    test: Split
    mean: Tensor
    std: Tensor
    identity: data.Identity
    more: ClassVar[Mapping[str, Any]] = {}
    """More metadata to store with the weights."""

    def prepared(self, images: data.Pixels) -> Tensor:
        """Return images (B, C, H, W), normalized for the network."""
        return data.normalize(data.in_memory(images), self.mean, self.std)

    def data_state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of the data: identity, mean and std."""
        return {"identity": self.identity.to_json(), "mean": self.mean, "std": self.std}

    def resumed(self, data_state: dict[str, Any] | None, recipe: Recipe) -> "Images":
        """Return these images with the mean and std of a checkpoint.

        Raises:
            ValueError: if they are not the images that it was trained on.
        """
        where = recipe.data_dir or recipe.data
        if data_state is None:  # from an older version
            if recipe.data == "folder":
                warnings.warn(
                    f"the checkpoint does not say on which images it was trained; going on with those in {where}",
                    stacklevel=2,
                )
            return self
        if changes := data.Identity.from_json(data_state["identity"]).changes(self.identity):
            raise ValueError(
                f"{where} is not what the run was trained on: {'; '.join(changes)}. Put it back as it was, name its "
                "folder with --data-dir if it has moved, or start another run"
            )
        return replace(self, mean=data_state["mean"].to(self.mean), std=data_state["std"].to(self.std))


def images_of(recipe: Recipe, device: torch.device | None = None, dataset: data.Dataset | None = None) -> Images:
    """Read the recipe's data set, or one passed in from Python, onto its device.

    Raises:
        ValueError: if the validation split leaves nothing to train on; and what ``data.load`` raises.
    """
    (pixels, labels), test = splits_of(recipe, dataset)
    if recipe.val_images > len(labels) - 2:
        raise ValueError(
            f"val_images is {recipe.val_images}; expected at most {len(labels) - 2}, to leave some to train on"
        )
    if recipe.shifted >= (least := min(pixels.shape[2:])):
        raise ValueError(
            f"shift is {recipe.shifted}; expected at most {least - 1}, so that a part of each image remains "
            f"({pixels.shape[2]}x{pixels.shape[3]} pixels)"
        )
    held, kept = held_out(recipe, labels)
    with _with_progress(pixels, test[0]) as (train_pixels, test_pixels):
        classes = (dataset or dataset_of(recipe)).classes
        identity = data.Identity.of(classes, (train_pixels, labels), (test_pixels, test[1]))
    if recipe.normalized:
        with _with_progress(pixels[kept]) as (train_pixels,):
            mean, std = data.channel_statistics(train_pixels)
    else:
        mean, std = (torch.full(pixels.shape[1:2], value, device=pixels.device) for value in (0.0, 1.0))
    splits = ((pixels[kept], labels[kept]), (pixels[held], labels[held]), test)
    return placed(splits, mean, data.divisor(std), identity, device_of(recipe) if device is None else device)


@contextmanager
def _with_progress(*parts: data.Pixels) -> Iterator[list[data.Pixels]]:
    """Yield the images; streamed ones report progress while they are read."""
    streamed = [part for part in parts if isinstance(part, data.Streamed)]
    with progress("images read", sum(map(len, streamed))) if streamed else nullcontext() as advance:
        yield [replace(part, advance=advance) if isinstance(part, data.Streamed) else part for part in parts]


def splits_of(recipe: Recipe, dataset: data.Dataset | None = None) -> tuple[Split, Split]:
    """Return the training images and the test images, as many as the recipe asks for.

    Those of a folder are listed class by class: they are put into a fixed stratified order, so that any first part
    represents all classes.
    """
    if dataset is None:
        check_stored(recipe)
    read = dataset.read if dataset else lambda root, split, fetch: data.load(**recipe.images(), split=split)
    train, test = (read(None, split, False) for split in data.SPLITS)
    return _first(recipe, train, recipe.train_images), _first(recipe, test, recipe.test_images)


def _first(recipe: Recipe, split: Split, count: int | None) -> Split:
    chosen = data.stratified(split[1])[:count] if recipe.data == "folder" else slice(count)
    return split[0][chosen], split[1][chosen]


def held_out(recipe: Recipe, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the training images held out for validation, drawn by the seed, and of those trained on."""
    if recipe.data == "folder":
        order = data.stratified(labels, recipe.seed)
    else:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(recipe.seed), device="cpu")
    held, kept = (part.sort().values for part in order.tensor_split([min(recipe.val_images, len(order) - 2)]))
    return held, kept


def placed(
    splits: tuple[Split, Split, Split], mean: Tensor, std: Tensor, identity: data.Identity, device: torch.device
) -> Images:
    """Return the images for training, validation and test, on a device."""
    training, val, testing = (
        (images.to(device, memory_format=torch.channels_last), classes.to(device)) for images, classes in splits
    )
    return Images(training, val, testing, mean.to(device), std.to(device), identity)


def steps_of(images: Images, recipe: Recipe, group: ProcessGroup = SINGLE_PROCESS) -> int:
    """Return the number of batches of an epoch: the last, smaller one counts if ``batches`` yields it."""
    full, rest = divmod(len(images.train[1]), recipe.batch_size)
    return full + (rest >= _min_batch_size(group))


def _min_batch_size(group: ProcessGroup) -> int:
    """Return the smallest batch: a single image has no batch statistics, and each process needs an image."""
    return max(2, group.size)


def batches(
    recipe: Recipe,
    epoch: int,
    images: Images,
    skip: int = 0,
    group: ProcessGroup = SINGLE_PROCESS,
    augment: Augment | None = None,
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the epoch's batches in order, augmented; each depends only on the seed, the epoch and its number.

    Each process gets its share of every batch, and the number of images in the whole batch.

    Args:
        recipe: the run.
        epoch: counted from 1.
        images: the data set.
        skip: batches to skip at the start.
        group: the processes that share each batch.
        augment: applied to each batch after the recipe's shifts and flips.
    """
    pixels, labels = images.train
    seed = recipe.seed * 1_000_003 + epoch
    draws = torch.Generator().manual_seed(seed)
    order = _order(recipe, labels, draws).to(labels.device)
    parts = [part for part in order.split(recipe.batch_size) if len(part) >= _min_batch_size(group)][skip:]
    for number, (chosen, batch) in enumerate(zip(parts, _read(pixels, parts, seed), strict=True), skip):
        batch_seed = (seed * 1_000_003 + number) % 2**63
        if recipe.shifted or recipe.flipped:
            draws = torch.Generator().manual_seed(batch_seed)
            batch = data.augment(batch, draws, recipe.shifted, recipe.flipped, recipe.padding_mode)
        if augment is not None:
            batch = augmented(augment, batch, batch_seed)
        share = slice(group.rank, None, group.size)  # the random numbers are those of the whole batch
        yield images.prepared(batch[share]), labels[chosen[share]], len(chosen)


def _read(pixels: data.Pixels, parts: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """Yield the images of each batch; random transforms of streamed images depend on the seed."""
    if isinstance(pixels, data.Streamed):
        return pixels.drawn(seed).batches(parts)
    return (pixels[part] for part in parts)


def _order(recipe: Recipe, labels: Tensor, draws: torch.Generator) -> Tensor:
    """Return the order of an epoch: every image once, or classes drawn equally often, with replacement."""
    if recipe.balance != "sampler":
        return torch.randperm(len(labels), generator=draws, device="cpu")
    labels = labels.cpu()
    probabilities = 1 / labels.bincount().double()[labels]
    return torch.multinomial(probabilities, len(labels), replacement=True, generator=draws)


def loss_weights(recipe: Recipe, labels: Tensor, classes: int) -> Tensor | None:
    """Return the weight of each class in the loss, (classes,), with mean 1 over the training images, or None.

    Raises:
        ValueError: if there is not one weight for each class.
    """
    counts = labels.bincount(minlength=classes).double()
    if recipe.class_weights is not None:
        if len(recipe.class_weights) != classes:
            raise ValueError(f"there are {len(recipe.class_weights)} class_weights; expected {classes}, one a class")
        weights = torch.tensor(recipe.class_weights, dtype=torch.float64, device=labels.device)
    elif recipe.balance == "weights":
        weights = 1 / counts.clamp(min=1)
    else:
        return None
    return (weights * len(labels) / (weights * counts).sum()).float()
