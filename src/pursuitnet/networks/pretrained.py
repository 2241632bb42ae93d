"""Weights that come with the library: their names, their configuration, and how a network loads them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pursuitnet.networks.network import Network
from pursuitnet.utils.nearest import did_you_mean
from pursuitnet.utils.packed import unpack

FOLDER = Path(__file__).parent / "weights"
NEEDED = ("card", "recipe", "classes", "mean", "std")
"""Keys of a file's metadata besides the checksum; ``experiments/pretrained.py`` writes them."""


def pretrained_names() -> list[str]:
    """Return the names of the networks whose weights come with the library."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def pretrained_file(name: str) -> Path | None:
    """Return the file of the weights of a network, or None if they do not come with the library."""
    return FOLDER / f"{name}.safetensors" if name in pretrained_names() else None


@dataclass(frozen=True)
class Pretrained:
    """Weights that come with the library.

    Attributes:
        name: of the network.
        weights: by name, as they are stored.
        config: mean and std per channel on the [0, 1] scale, the names of the classes, the recipe, test_accuracy as a
            fraction, or psnr in dB of a denoiser, and more; the network has it as ``pretrained_cfg``.
    """

    name: str
    weights: Mapping[str, Tensor]
    config: dict[str, Any]

    @classmethod
    def of(cls, name: str) -> "Pretrained":
        """Return the weights of a network.

        Raises:
            ValueError: if there are none of that name, or the file is damaged.
        """
        file = pretrained_file(name)
        if file is None:
            known = pretrained_names()
            suggestion, available = did_you_mean(name, known, "."), ", ".join(known) or "no network"
            raise ValueError(
                f"no weights of {name!r} come with pursuitnet{suggestion} There are weights of {available}"
            )
        weights, about = unpack(file, NEEDED)
        return cls(name, weights, {**about.pop("card"), "num_classes": len(about["classes"]), **about})

    @property
    def task(self) -> str:
        """The task of ``create_model``: "classify", or "image" for a network that returns images."""
        return "classify" if self.config["recipe"].get("task", "classify") == "classify" else "image"

    def choices(self, build: Callable[..., Network], in_chans: int, given: Mapping[str, object]) -> dict[str, Any]:
        """Return the choices that the network was trained with.

        Args:
            build: the function that builds the network; its defaults apply to choices that the recipe leaves out.
            in_chans: channels of the image.
            given: the requested choices.

        Raises:
            ValueError: if one of them differs from training.
        """
        trained: dict[str, Any] = self.config["choices"]
        channels = len(self.config["mean"])
        if in_chans != channels:
            raise ValueError(
                f"in_chans is {in_chans}; the weights of {self.name} are for images of {channels} channels: leave out "
                "in_chans, or pretrained"
            )
        used = {name: p.default for name, p in inspect.signature(build).parameters.items()} | trained
        for name, value in given.items():
            if value != used[name]:
                raise ValueError(
                    f"{name} is {value!r}; {self.name} was trained with {used[name]!r}: leave out {name}, or pretrained"
                )
        return trained

    def fill(self, network: Network) -> Network:
        """Load these weights into a network, except into a head of another size, which keeps its initialization."""
        own = {name: value for name, value in network.state_dict().items() if name.startswith("head.")}
        weights = dict(self.weights)
        if network.num_classes != self.config["num_classes"]:
            weights = {name: value for name, value in weights.items() if not name.startswith("head.")} | own
        network.load_state_dict(weights)
        network.pretrained_cfg = self.config
        return network
