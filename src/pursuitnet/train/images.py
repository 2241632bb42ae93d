"""A data set on its device, and its batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet import data
from pursuitnet.recipe import Recipe
from pursuitnet.train.run import device_of


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
