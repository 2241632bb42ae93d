"""A trained network, back from its file."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pursuitnet.networks import Network, create_model
from pursuitnet.recipe import Recipe
from pursuitnet.sharing.weights import unpack


@dataclass(frozen=True)
class Trained:
    """A trained network and what is needed to use it.

    Attributes:
        network: in evaluation mode.
        recipe: what it was trained by.
        classes: their names by label.
        mean: per channel on the [0, 1] scale, (C,): subtracted from each image.
        std: what it is then divided by, (C,).
    """

    network: Network = field(repr=False)
    recipe: Recipe
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor

    def deployed(self) -> "Deployed":
        """Return a module that takes images in [0, 1] as they are."""
        return Deployed(self.network, self.mean, self.std).eval()


class Deployed(nn.Module):
    """A network for images as they are: float in [0, 1], (B, C, H, W) → logits (B, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def trained(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Return a trained network with its recipe, classes and normalisation.

    Args:
        path: a run folder, or its ``model.safetensors`` alone; no data set is needed.
        device: where the network goes.

    Raises:
        FileNotFoundError: if the file is not there, or the run has not finished.
        ValueError: if it is damaged, or not of a network of this library.
    """
    path = Path(path).expanduser()
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        what = f"the run has not finished: pursuitnet train --out {path} --resume" if path.is_dir() else "name a run"
        raise FileNotFoundError(f"{file} is missing; {what}")
    weights, about = unpack(file)
    recipe = Recipe.from_json(about["recipe"], f"the recipe in {file}")
    network = create_model(recipe.model, len(about["classes"]), len(about["mean"]), **recipe.choices())
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file} holds weights of another network: {str(error).splitlines()[0]}") from error
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    mean, std = (torch.tensor(about[name], device=device) for name in ("mean", "std"))
    return Trained(network, recipe, tuple(about["classes"]), mean, std)


def load(path: str | Path, device: torch.device | str = "cpu") -> Network:
    """Return a trained network in evaluation mode; see ``trained`` for its classes and normalisation.

    Args:
        path: a run folder, or its ``model.safetensors`` alone.
        device: where the network goes.

    Raises:
        FileNotFoundError: if the file is not there, or the run has not finished.
        ValueError: if it is damaged, or not of a network of this library.
    """
    return trained(path, device).network
