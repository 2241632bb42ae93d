"""Weights to begin with: those of another run or of a pretrained network."""

import torch
from torch import Tensor

from pursuitnet.networks import Network
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import Trained, trained


def begin_with(name: str, model: Network, recipe: Recipe, classes: tuple[str, ...], channels: int) -> Trained:
    """Load the weights that a recipe begins with into its network; the head only if the classes are the same.

    Args:
        name: ``recipe.init``.
        model: the network.
        recipe: what it was made by.
        classes: of the data.
        channels: of its images.

    Returns:
        What the weights were trained by and on.

    Raises:
        FileNotFoundError, ValueError: if they cannot be had, or are of another network.
    """
    about = trained(name)
    if len(about.mean) != channels:
        raise ValueError(f"--init {name} takes images of {len(about.mean)} channels; those to train on have {channels}")
    theirs = about.network.state_dict()
    head = {key: theirs.pop(key) for key in list(theirs) if key.startswith("head.")}
    try:
        missing, unknown = model.load_state_dict(theirs, strict=False)
    except RuntimeError:
        missing, unknown = ["a weight"], []
    if unknown or any(not key.startswith("head.") for key in missing):
        theirs_said, ours = _named(about.recipe), _named(recipe)
        raise ValueError(f"--init {name} is a network of {theirs_said}; the recipe asks for {ours}: expected the same")
    if about.classes == classes:
        _load(model.head, head)
    return about


@torch.no_grad()
def _load(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict({key.removeprefix("head."): value for key, value in weights.items()})


def _named(recipe: Recipe) -> str:
    """Return a network with its choices, as options of the program."""
    return " ".join([f"--model {recipe.model}", *(f"--{key} {value}" for key, value in recipe.choices().items())])
