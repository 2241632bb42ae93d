"""Initial weights: those of another run or of a pretrained network, or filters that were learned from images."""

import torch
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary, WithIdentity
from pursuitnet.networks import Network
from pursuitnet.networks.choices import begin_with
from pursuitnet.program.learn.dictionary import read_dictionary
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


def load_initial_dictionary(name: str, model: Network) -> None:
    """Copy learned filters into the first layer of a network, scaled as ``create_model`` scales them.

    Args:
        name: ``recipe.init_dictionary``.
        model: the network, which is changed in place.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they do not fit the layer.
    """
    learned, first = read_dictionary(name), model.pursuits()[0].dictionary
    inner = first.dictionary if isinstance(first, WithIdentity) else first
    given = tuple(learned.weight.shape)
    expected = tuple(inner.weight.shape) if isinstance(inner, ConvDictionary) else ()
    if given != expected:
        learn = f": pursuitnet learn --atoms {expected[0]} --size {expected[2]}" if expected else ""
        color = " --color" if expected and expected[1] == 3 else ""
        raise ValueError(
            f"--init-dictionary {name} has filters of shape {given} (atoms, channels, *kernel); the first layer "
            f"expects {expected}{learn}{color}"
        )
    begin_with(model, [ConvDictionary(learned.weight.detach().to(inner._reference_tensor()))])


@torch.no_grad()
def _load_head(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict({key.removeprefix("head."): value for key, value in weights.items()})


def _options(recipe: Recipe) -> str:
    """Return the network of a recipe and its choices, as options of the program."""
    choices = recipe.choices() | ({"dilations": recipe.dilations} if recipe.dilations else {})
    return " ".join([f"--model {recipe.model}", *(f"--{key} {value}" for key, value in choices.items())])
