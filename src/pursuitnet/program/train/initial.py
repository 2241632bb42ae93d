"""Initial weights: those of another run or of a pretrained network, or filters that were learned from images."""

import itertools

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
    if (
        unknown
        or any(not key.startswith("head.") for key in missing)
        or _dilations(model) != _dilations(source.network)
    ):
        given, wanted = _options(source.recipe), _options(recipe)
        raise ValueError(f"--init {name} is a network of {given}; the recipe asks for {wanted}: expected the same")
    if source.classes == classes:
        _load_head(model.head, head)
    return source


def load_initial_dictionary(name: str, model: Network) -> None:
    """Copy learned filters into the first layers of a network, scaled as ``create_model`` scales them.

    Args:
        name: ``recipe.init_dictionary``.
        model: the network, which is changed in place.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they do not fit the layers.
    """
    learned = [D.weight.detach() for D in read_dictionary(name)]
    firsts = [layer.dictionary for layer in model.pursuits()[: len(learned)]]
    inner = [D.dictionary if isinstance(D, WithIdentity) else D for D in firsts]
    given = [tuple(weight.shape) for weight in learned]
    expected = [tuple(D.weight.shape) if isinstance(D, ConvDictionary) else () for D in inner]
    if given != expected:
        raise ValueError(
            f"--init-dictionary {name} has filters of shape {_words(given)} (atoms, channels, *kernel); the first "
            f"{'layers expect' if len(given) > 1 else 'layer expects'} {_words(expected)}{_advice(expected)}"
        )
    begin_with(model, [ConvDictionary(w.to(D._reference_tensor())) for w, D in zip(learned, inner, strict=True)])


def _dilations(model: Network) -> list[tuple[int, ...]]:
    """Return the dilations of all filters, which weights of the same shapes may have been trained without."""
    return [module.dilation for module in model.modules() if isinstance(module, ConvDictionary)]


def _words(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _advice(shapes: list[tuple[int, ...]]) -> str:
    """Return how filters of these shapes, one for each layer, are learned, if each is on the codes of the last."""
    if not all(shapes):
        return ""
    fits = itertools.takewhile(lambda pair: pair[1][1] == pair[0][0], itertools.pairwise(shapes))
    shapes = [shapes[0], *(after for _, after in fits)]
    atoms, sizes = (",".join(str(shape[axis]) for shape in shapes) for axis in (0, 2))
    return f": pursuitnet learn --atoms {atoms} --size {sizes}{' --color' if shapes[0][1] == 3 else ''}"


@torch.no_grad()
def _load_head(module: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    module.load_state_dict({key.removeprefix("head."): value for key, value in weights.items()})


def _options(recipe: Recipe) -> str:
    """Return the network of a recipe and its choices, as options of the program."""
    choices = recipe.choices() | ({"dilations": recipe.dilations} if recipe.dilations else {})
    return " ".join([f"--model {recipe.model}", *(f"--{key} {value}" for key, value in choices.items())])
