"""Load trained networks from their files."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pursuitnet.data import DATASETS
from pursuitnet.data.identity import Identity
from pursuitnet.data.pixels import Size
from pursuitnet.data.unlabeled import Decoder, find_images, white_of
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.networks import Network
from pursuitnet.networks.pretrained import pretrained_file, pretrained_names
from pursuitnet.program.factories import network_of
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.sharing.prediction import Prediction
from pursuitnet.program.sharing.weights import unpack
from pursuitnet.utils.limits import check_depth, depth_of
from pursuitnet.utils.paths import expanded

SLACK = 0.5
"""How far floats may be outside of [0, 1]."""


@dataclass(frozen=True)
class Trained:
    """A trained network and everything needed to use it.

    Attributes:
        network: in evaluation mode.
        recipe: of its training.
        classes: names of the classes by label.
        mean: per channel on the [0, 1] scale, (C,), subtracted from each image.
        std: per channel, (C,), by which it is then divided.
        data: identity of the images that it was trained on; None if the weights, of an older version, do not hold it.
        image_size: height and width of the images that it was trained on; None if its weights do not hold it.
        targets: for a network that returns images, their number type ("dtype", such as uint8) and the values of 0 and 1
            of its output on the scale where white is 1 ("low", "high").
    """

    network: Network = field(repr=False)
    recipe: Recipe
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    data: Identity | None = None
    image_size: Size | None = None
    targets: dict[str, Any] = field(default_factory=dict)

    def prepare(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W), uint8 or float in [0, 1], as input of the network; see ``normalize``."""
        return normalize(images, self.mean, self.std)

    @torch.inference_mode()
    def predict(self, images: Any, batch_size: int = 256) -> Prediction:
        """Return the predicted classes of images.

        Args:
            images: uint8 or floats in [0, 1], (B, C, H, W), a tensor or an array; or the path of an image file, of a
                folder of them, a pattern such as ``scans/*.png``, or a list of these. Files are scaled and cropped to
                ``image_size``.
            batch_size: images in one forward pass.

        Raises:
            TypeError, ValueError: for images of another kind or shape, or a file that is missing or not an image.
        """
        check_classifies(self, "the network")
        if not isinstance(images, Tensor | np.ndarray):
            return self._predict_files(_names(images), batch_size)
        batch = torch.as_tensor(images)
        parts = [self.prepare(part.to(self.mean.device)) for part in batch.split(batch_size)] if len(batch) else []
        logits = [self.network(part).float() for part in parts]
        empty = torch.empty(0, len(self.classes), device=self.mean.device)
        return Prediction(torch.cat(logits).softmax(dim=1) if logits else empty, self.classes)

    def decoder(self, paths: Sequence[Path], white_level: float | None = None) -> Decoder:
        """Return the decoder of these image files, which scales and crops them as in training.

        Raises:
            ValueError: if white in images of more than 8 bits is not known.
        """
        white = white_of(paths, self.recipe.white_level if white_level is None else white_level)
        return Decoder(len(self.mean), self.image_size, white)

    def _predict_files(self, names: Sequence[str | Path], batch_size: int) -> Prediction:
        paths = find_images(names)
        decode, parts = self.decoder(paths), []
        for pixels in decode.each(paths):
            if isinstance(pixels, ValueError):
                raise pixels
            parts.append(torch.from_numpy(pixels))
        if len({part.shape for part in parts}) > 1:
            return Prediction.concatenated([self.predict(part[None]) for part in parts])
        empty = np.empty((0, len(self.mean), 1, 1), np.uint8)
        return self.predict(torch.stack(parts) if parts else empty, batch_size)

    def deployed(self) -> "Deployed":
        """Return a module that takes images in [0, 1], without normalization."""
        return Deployed(self.network, self.mean, self.std).eval()


def _names(images: Any) -> list[str | Path]:
    """Return one path or several as a list."""
    names = [images] if isinstance(images, str | Path) else list(images) if isinstance(images, Iterable) else None
    if names is None or not all(isinstance(name, str | Path) for name in names):
        raise TypeError(
            f"images is {kind_of(images)}; expected a tensor or an array (B, C, H, W), a path, or a list of paths: "
            "of a PIL image, torch.as_tensor(numpy.array(image)).movedim(-1, 0)[None]"
        )
    return names


def check_classifies(loaded: Trained, path: str | Path) -> None:
    """Raise ValueError if a network returns images."""
    if loaded.recipe.task != "classify":
        raise ValueError(
            f"{path} returns images (its task is {loaded.recipe.task}); expected a run that classifies: for images "
            "there is pursuitnet apply"
        )


class Deployed(nn.Module):
    """A network for images without normalization: uint8, or float in [0, 1], (B, C, H, W) → logits (B, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(normalize(images, self.mean, self.std))


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return (images − mean) / std, channel by channel.

    Args:
        images: (B, C, H, W), float in [0, 1], or uint8, which is divided by 255 first.
        mean: (C,), on the [0, 1] scale.
        std: (C,).

    Raises:
        TypeError: for images of another kind.
        ValueError: for another number of axes or channels, and for floats far outside of [0, 1], such as
            0 to 255 or images that are normalized already.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images is {kind_of(images)}; expected a tensor (B, C, H, W): torch.as_tensor(array)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"the images are {images.dtype}; expected uint8, or floats in [0, 1]")
    if images.dim() != 4 or images.shape[1] != len(mean):  # one channel would be broadcast to all
        raise ValueError(f"the images have shape {tuple(images.shape)}; expected (B, {len(mean)}, H, W)")
    if images.dtype != torch.uint8:
        _require_unit(images)
    unit = images / 255 if images.dtype == torch.uint8 else images
    return (unit - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _require_unit(images: Tensor) -> None:
    """Raise ValueError for floats far outside of [0, 1]; a little noise, or a filter that overshoots, is allowed.

    While the network is compiled or exported there are no values to check.
    """
    tracing = torch.compiler.is_compiling() or images.is_meta
    if tracing or (images.is_cuda and torch.cuda.is_current_stream_capturing()) or not images.numel():
        return
    try:
        low, high = (float(value) for value in images.detach().aminmax())
    except RuntimeError:  # under vmap there are no values either
        return
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN is not
        raise ValueError(
            f"the images are floats from {low:.4g} to {high:.4g}; expected uint8, or floats in [0, 1]: divide 0 to 255 "
            "by 255, and leave the normalization to the network"
        )


def trained(path: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Return a trained network with its recipe, classes and normalization.

    Args:
        path: a run folder, its ``model.safetensors``, or, if no such file exists, a name of
            ``list_models(pretrained=True)``; no data set is needed.
        device: of the network.

    Raises:
        FileNotFoundError: if the file does not exist, or the run has not finished.
        ValueError: if it is damaged, or not of a network of this library.
    """
    path = expanded(path)
    file = weights_file(path)
    weights, metadata = unpack(file)
    recipe = Recipe.from_json(metadata["recipe"], f"the recipe in {file}")
    network = _network(weights, file, recipe, len(metadata["classes"]), len(metadata["mean"]))
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    mean, std = (torch.tensor(metadata[name], device=device) for name in ("mean", "std"))
    size, targets = _image_size(metadata, recipe, file), metadata.get("targets", {})
    identity = _identity(metadata, file)
    return Trained(network, recipe, tuple(metadata["classes"]), mean, std, identity, size, targets)


def _image_size(metadata: dict[str, Any], recipe: Recipe, file: Path) -> Size | None:
    """Return height and width of the training images, if the weights, of any version, hold them."""
    if "image_size" in metadata:
        size = metadata["image_size"]
        if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
            raise ValueError(f"{file} has the image size {size!r:.50}; expected height and width: get the file again")
        return size[0], size[1]
    if recipe.data in DATASETS:
        return DATASETS[recipe.data].image_size
    return None if recipe.image_size is None else (recipe.image_size, recipe.image_size)


def _identity(metadata: dict[str, Any], file: Path) -> Identity | None:
    try:
        return Identity.from_json(metadata["data"]) if "data" in metadata else None
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{file} does not say on which images it was trained ({error!r}); get the file again"
        ) from error


def weights_file(path: Path) -> Path:
    """Return the file of weights of a run, or of a pretrained network; raise FileNotFoundError if there is none."""
    if shipped := shipped_with(path):
        return shipped
    run = RunFolder(path)
    file = run.weights if path.is_dir() else path
    if file.is_file():
        return file
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} does not exist; name a run folder, or its {run.weights.name}{pretrained_hint()}"
        )
    if run.is_run(os.listdir(path)):
        raise FileNotFoundError(f"{file} is missing; the run has not finished: pursuitnet train --out {path} --resume")
    raise FileNotFoundError(
        f"{path} holds no run: it has neither {run.weights.name} nor {run.recipe.name}{_run_inside(path)}"
    )


def shipped_with(path: Path) -> Path | None:
    """Return the weights that ship with the library, if a path is a pretrained network's name and does not exist."""
    return None if path.exists() else pretrained_file(str(path))


def pretrained_hint() -> str:
    """Return the names of pretrained networks, to end a message on runs."""
    names = pretrained_names()
    return f", or a pretrained network: {', '.join(names)}" if names else ""


def _run_inside(path: Path) -> str:
    """Return a hint at a run inside a folder that is not a run itself, if there is one."""
    inside = sorted(folder for folder in path.glob("*/") if RunFolder(folder).weights.exists())
    return f"; did you mean {inside[0]}?" if inside else ""


def _network(weights: Mapping[str, Tensor], file: Path, recipe: Recipe, outputs: int, channels: int) -> Network:
    build = partial(network_of, recipe, outputs, channels)
    try:
        check_fit(weights, recipe.model, build, recipe.choices())
    except ValueError as error:
        raise ValueError(f"{file} holds a network that this version cannot create: {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{file} holds weights of another network than {recipe.model}: {reason:.200}") from error
    with torch.random.fork_rng(devices=[]):  # these initial weights are not used
        network = build()
    network.load_state_dict(weights)
    return network


def check_fit(
    weights: Mapping[str, Tensor], name: str, build: Callable[[], nn.Module], choices: Mapping[str, Any]
) -> None:
    """Check that weights fit a network, by names and shapes, before memory is allocated for it.

    Args:
        weights: by name, on any device.
        name: of the network.
        build: creates the network.
        choices: of the network, as ``create_model`` takes them.

    Raises:
        ValueError: if there is no such network.
        RuntimeError: if the weights are of another network.
    """
    check_depth(str(name))
    unfolding = choices.get("unfolding", 0)
    steps = 1 + unfolding if isinstance(unfolding, int) and choices.get("norm", "batch") is not None else 1
    if (depth_of(str(name)) or 1) * steps > len(weights):  # modules take memory too
        raise RuntimeError(f"it has more layers and steps than there are tensors, {len(weights)}")
    with torch.device("meta"):
        build().load_state_dict({key: weight.to("meta") for key, weight in weights.items()})


def load(path: str | Path, device: torch.device | str = "cpu") -> Network:
    """Return a trained network in evaluation mode; see ``trained`` for its classes and normalization.

    Args:
        path: a run folder, its ``model.safetensors``, or the name of a pretrained network.
        device: of the network.

    Raises:
        FileNotFoundError: if the file does not exist, or the run has not finished.
        ValueError: if it is damaged, or not of a network of this library.
    """
    return trained(path, device).network
