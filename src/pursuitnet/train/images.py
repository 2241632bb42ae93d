"""A data set on its device, and its batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet import data
from pursuitnet.recipe import Recipe
from pursuitnet.train.group import ALONE, Group
from pursuitnet.train.run import device_of

Split = tuple[Tensor, Tensor]
"""Images uint8 (N, C, H, W) and labels int64 (N,)."""


@dataclass(frozen=True)
class Images:
    """A data set on its device, where it stays; ``mean`` and ``std`` (C,) bring [0, 1] to what the network expects.

    ``valid`` holds the training images that are held out to choose by, and is empty unless the recipe asks for them.
    """

    train: Split
    valid: Split
    test: Split
    mean: Tensor
    std: Tensor

    def prepared(self, images: Tensor) -> Tensor:
        """Return float images (B, C, H, W) from uint8 ones."""
        return data.standardise(images, self.mean, self.std)


def images_of(recipe: Recipe, device: torch.device | None = None) -> Images:
    """Read the recipe's data set onto its device.

    Raises:
        ValueError: if the validation split leaves nothing to train on; and what ``data.load`` raises.
    """
    device = device_of(recipe) if device is None else device
    train, test = (
        data.load(recipe.data, recipe.data_dir, split, image_size=recipe.image_size) for split in ("train", "test")
    )
    pixels, labels = (part[: recipe.train_images] for part in train)
    tested = (test[0][: recipe.test_images], test[1][: recipe.test_images])
    if recipe.valid_images > len(labels) - 2:
        raise ValueError(
            f"valid_images is {recipe.valid_images}; expected at most {len(labels) - 2}, to leave some to train on"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(recipe.seed))
    held, kept = (part.sort().values for part in order.tensor_split([recipe.valid_images]))
    if recipe.standardised:
        mean, std = data.channel_statistics(pixels[kept])
    else:
        mean, std = torch.zeros(pixels.shape[1]), torch.ones(pixels.shape[1])
    splits = ((pixels[kept], labels[kept]), (pixels[held], labels[held]), tested)
    training, valid, testing = (
        (images.to(device, memory_format=torch.channels_last), classes.to(device)) for images, classes in splits
    )
    return Images(training, valid, testing, mean.to(device), std.clamp(min=1e-6).to(device))


def steps_of(images: Images, recipe: Recipe, group: Group = ALONE) -> int:
    """Return how many batches an epoch has: the last, smaller one counts if ``batches`` yields it."""
    whole, rest = divmod(len(images.train[1]), recipe.batch_size)
    return whole + (rest >= _least(group))


def _least(group: Group) -> int:
    """Return the fewest images of a batch: a single one has no batch statistics, and each process needs one."""
    return max(2, group.size)


def batches(
    recipe: Recipe, epoch: int, images: Images, skip: int = 0, group: Group = ALONE
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the epoch's batches in their order, augmented; each hangs on the seed, the epoch and its number alone.

    Of every batch each process gets its share, and the number of images in the whole batch.

    Args:
        recipe: the run.
        epoch: counted from 1.
        images: the data set.
        skip: batches to leave out at the start.
        group: the processes that share each batch.
    """
    pixels, labels = images.train
    seed = recipe.seed * 1_000_003 + epoch
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    for number, chosen in enumerate(order.split(recipe.batch_size)):
        if number < skip or len(chosen) < _least(group):
            continue
        batch = pixels[chosen]
        if recipe.shifted or recipe.flipped:
            draws = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
            batch = data.augment(batch, draws, recipe.shifted, recipe.flipped, recipe.fill)
        share = slice(group.rank, None, group.size)  # the draws are those of the whole batch
        yield images.prepared(batch[share]), labels[chosen[share]], len(chosen)
