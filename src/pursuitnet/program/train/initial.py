"""Initial weights: those of another run or of a pretrained network."""

import torch
from torch import Tensor

from pursuitnet.networks import Network
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import Trained, trained


def load_initial_weights(name: str, model: Network, recipe: Recipe, classes: tuple[str, ...], channels: int) -> Trained:
    """Load the initial weights of a recipe into its network; the head only if the classes are the same.

    Args:
        name: ``recipe.init``.
        model: the network.
        recipe: of the network.
        classes: of the data.
        channels: of its images.

    Returns:
        The network of those weights, with its recipe, classes and normalization.

    Raises:
        FileNotFoundError, ValueError: if there are no such weights, or they are of another network.
    """
    source = trained(name)
    if len(source.mean) != channels:
        raise ValueError(
            f"--init {name} takes images with {len(source.mean)} channel{'s' * (len(source.mean) > 1)}; those to train "
            f"on have {channels}: name a run on images like these"
        )
    weights = source.network.state_dict()
    head = {key: weights.pop(key) for key in list(weights) if key.startswith("head.")}
    try:
        missing, unknown = model.load_state_dict(weights, strict=False)
    except RuntimeError:
        missing, unknown = ["a weight"], []
    if unknown or any(not key.startswith("head.") for key in missing):
        given, wanted = _options(source.recipe), _options(recipe)
        raise ValueError(f"--init {name} is a network of {given}; the recipe asks for {wanted}: expected the same")
    if source.classes == classes:
        _load_head(model.head, head)
    return source


@torch.no_grad()
def _load_head(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict({key.removeprefix("head."): value for key, value in weights.items()})


def _options(recipe: Recipe) -> str:
    """Return the network of a recipe and its choices, as options of the program."""
    return " ".join([f"--model {recipe.model}", *(f"--{key} {value}" for key, value in recipe.choices().items())])
