"""A finished run with its data set as it is now; classes, mean and std come from the run's weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pursuitnet import data
from pursuitnet.data.folder import has_splits
from pursuitnet.networks import Network
from pursuitnet.program.factories import dataset_of, device_of
from pursuitnet.program.recipe import GIVEN, Recipe
from pursuitnet.program.sharing.loading import Trained, check_classifies
from pursuitnet.program.train.images import Images, Split, held_out, placed, splits_of
from pursuitnet.program.train.run import trained_run


@dataclass(frozen=True)
class RunWithData:
    """A finished run with the images of its data set.

    Attributes:
        recipe: of the run, with the current data folder and device.
        model: the network, in evaluation mode.
        classes: of the run, by label.
        images: the current data set, with the run's labels, mean and std.
        was: identity of the images that the run was trained on; None if its weights do not hold it.
    """

    recipe: Recipe
    model: Network
    classes: tuple[str, ...]
    images: Images
    was: data.Identity | None

    def changes(self, split: str) -> str:
        """Return a sentence on how classes and images of a split differ from those in training, or nothing."""
        now = self.images.identity
        was = replace(now, classes=self.classes) if self.was is None else self.was
        changes = was.changes(now, split)
        if not changes:
            return ""
        where = self.recipe.data_dir or self.recipe.data
        mixed = split == "test" and self.recipe.data == "folder" and not has_splits(Path(where))
        doubt = "; without a folder of their own, test images may be among those it was trained on" if mixed else ""
        return f"{where} is not what the run was trained on: {'; '.join(changes)}{doubt}"


def open_run(folder: Path, data_dir: Path | None = None, device: str = "auto") -> RunWithData:
    """Return a finished run with the images of its data set.

    Classes are matched by name: the data set may lack some of the run's. The device of the training does not matter;
    the data folder is the run's unless another is named.

    Args:
        folder: as written by ``train``.
        data_dir: where its data set is now; None if it has not moved.
        device: of network and images.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run, or the data are not where they were.
        ValueError: if a file is damaged, or the data set has classes or channels that the network does not have.
    """
    recipe, about = trained_run(folder, data_dir, device)
    check_classifies(about, folder)
    recipe = _with_folder(recipe, about).located()
    if recipe.data_dir is not None and not recipe.data_dir.exists():
        raise FileNotFoundError(f"the data of {folder} are not in {recipe.data_dir}: name their folder with --data-dir")
    return RunWithData(recipe, about.network, about.classes, _images(recipe, about), about.data)


def _with_folder(recipe: Recipe, about: Trained) -> Recipe:
    """Return the recipe with a folder of images if those of the training were passed in from Python."""
    if recipe.data != GIVEN or recipe.data_dir is None:
        return recipe
    height, width = about.image_size or (None, None)
    return replace(recipe, data="folder", image_size=height if height == width else None)


def _images(recipe: Recipe, about: Trained) -> Images:
    classes = dataset_of(recipe).classes
    train, test = splits_of(recipe)
    identity = data.Identity.of(classes, train, test)
    train, test = (_with_run_labels(split, classes, about, recipe) for split in (train, test))
    held, kept = held_out(recipe, train[1])
    splits = (train[0][kept], train[1][kept]), (train[0][held], train[1][held]), test
    return placed(splits, about.mean, about.std, identity, device_of(recipe))


def _with_run_labels(split: Split, classes: tuple[str, ...], about: Trained, recipe: Recipe) -> Split:
    """Return images with the channels and the labels of a network, classes matched by name."""
    (pixels, labels), where = split, recipe.data_dir or recipe.data
    if new := [name for name in classes if name not in about.classes]:
        raise ValueError(
            f"{where} has class {new[0]!r}, which the run does not know; expected some of {_shortened(about.classes)}: "
            "name the data it was trained on with --data-dir"
        )
    if pixels.shape[1] not in (1, len(about.mean)):
        raise ValueError(
            f"the images of {where} have {pixels.shape[1]} channels; expected {len(about.mean)}, as in training: name "
            "the data it was trained on with --data-dir"
        )
    numbers = torch.tensor([about.classes.index(name) for name in classes])
    return pixels.expand(-1, len(about.mean), -1, -1), numbers[labels]


def _shortened(names: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
