"""Training of networks that return images: patches as input, and a loss and metrics that depend on the task."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet import data
from pursuitnet.data.identity import Identity
from pursuitnet.networks import apply
from pursuitnet.networks.denoiser import Denoiser
from pursuitnet.networks.image import ImageNetwork
from pursuitnet.program.factories import seeded_network
from pursuitnet.program.imaging import measures
from pursuitnet.program.imaging.files import unit
from pursuitnet.program.imaging.folders import ImagePair, labels_of, split_identity, splits
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.sharing import Trained
from pursuitnet.program.train.given import Augment
from pursuitnet.program.train.images import loss_weights
from pursuitnet.program.train.initial import load_initial_weights
from pursuitnet.program.train.process_group import SINGLE_PROCESS, ProcessGroup
from pursuitnet.program.train.trainer import Trainer

PATCH = 64
"""Default side of a patch; smaller images make it smaller."""
TILE = 512
"""Side of the tiles in which larger images are tested."""


def trainer_of(
    recipe: Recipe,
    group: ProcessGroup = SINGLE_PROCESS,
    dataset: data.Dataset | None = None,
    augment: Augment | None = None,
    fresh: bool = True,
) -> Trainer:
    """Return the trainer of a recipe's task; see ``Trainer``.

    Raises:
        ValueError: if data or augment are given for a task that returns images.
    """
    if recipe.task == "classify":
        return Trainer(recipe, group, dataset, augment, fresh)
    if dataset is not None or augment is not None:
        raise ValueError(f"data and augment are for task 'classify', not {recipe.task!r}; name a folder with data_dir")
    return ImageTrainer(recipe, group, fresh=fresh)


@dataclass(frozen=True)
class Pictures:
    """Images and targets, (H, W, C) as in their files; ``train`` and ``test`` are pairs of lists.

    Attributes:
        train: for training.
        test: for testing.
        mean: (C,), subtracted from each image, on the scale where white is 1.
        std: (C,), by which each image is then divided.
        identity: distinguishes these images from others; its classes name the channels of the result.
        labels: the values of the targets, if they are labels.
        scale: the values of other targets that become 0 and 1, on the scale where white is 1.
        dtype: number type of the targets, or of the images to denoise.
    """

    train: tuple[list[ImagePair], list[ImagePair]]
    test: tuple[list[ImagePair], list[ImagePair]]
    mean: Tensor
    std: Tensor
    identity: Identity
    labels: Any
    scale: tuple[float, float]
    dtype: str

    @property
    def more(self) -> dict[str, Any]:
        """More metadata to store with the weights."""
        return {"targets": {"dtype": self.dtype, "low": self.scale[0], "high": self.scale[1]}}

    @property
    def val(self) -> tuple[list[ImagePair], list[ImagePair]]:
        """Empty: to validate, hold out images in a folder of your own."""
        return [], []

    def image(self, pixels: Any) -> Tensor:
        """Return pixels (H, W, C) as input of the network, (C, H, W)."""
        image = torch.from_numpy(unit(np.ascontiguousarray(pixels))).movedim(-1, 0)
        return (image - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def target(self, pixels: Any) -> Tensor:
        """Return the target of the network: indices of labels (1, H, W), or values (C, H, W)."""
        if self.labels is not None:
            return torch.from_numpy(np.searchsorted(self.labels, pixels)).movedim(-1, 0)
        low, high = self.scale
        return (torch.from_numpy(unit(np.ascontiguousarray(pixels))).movedim(-1, 0) - low) / (high - low)

    def data_state(self) -> dict[str, Any]:
        """Return what a checkpoint stores of the data: identity, mean, std and scale."""
        return {"identity": self.identity.to_json(), "mean": self.mean, "std": self.std, "scale": self.scale}

    def resumed(self, data_state: dict[str, Any] | None, recipe: Recipe) -> "Pictures":
        """Return these images with the mean, std and scale of a checkpoint.

        Raises:
            ValueError: if they are not the images that it was trained on.
        """
        state = data_state or {}
        if changes := Identity.from_json(state["identity"]).changes(self.identity):
            raise ValueError(
                f"{recipe.data_dir} is not what the run was trained on: {'; '.join(changes)}. Put it back as it was, "
                "name its folder with --data-dir if it has moved, or start another run"
            )
        scale = state.get("scale", self.scale)  # checkpoints of older versions have the scale of these images
        return replace(self, mean=state["mean"], std=state["std"], scale=scale)

    def scaled_as(self, source: Trained, task: str) -> "Pictures":
        """Return these images as input of a trained network, and their targets on its scale if it has the same task."""
        scale = self.scale
        if task == source.recipe.task == "regress":
            scale = source.targets["low"], source.targets["high"]
        return replace(self, mean=source.mean.cpu(), std=source.std.cpu(), scale=scale)


def pictures_of(recipe: Recipe) -> Pictures:
    """Read the images of a recipe.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they do not fit each other or the task.
    """
    denoising = recipe.task == "denoise"
    train, test = splits(Path(recipe.data_dir or "."), paired=not denoising, gray=denoising)
    train, test = _some(train, recipe.train_images), _some(test, recipe.test_images)
    labels = labels_of(train + test) if recipe.task == "segment" else None
    target = train[0].image if train[0].target is None else train[0].target
    if labels is not None:
        names = tuple(str(value) for value in labels)
    else:
        names = tuple(f"channel {i + 1}" for i in range(target.shape[2]))
    low, high = _range([pair.image for pair in train])
    scale = (
        _range([pair.target for pair in train if pair.target is not None]) if recipe.task == "regress" else (0.0, 1.0)
    )
    shape = (train[0].image.shape[2],)
    identity = Identity(names, split_identity(train), split_identity(test))
    mean, std = torch.full(shape, low), torch.full(shape, high - low)
    return Pictures((train, train), (test, test), mean, std, identity, labels, scale, target.dtype.name)


def _some(pairs: list[ImagePair], count: int | None) -> list[ImagePair]:
    """Return so many images, a fixed random choice: those beside each other in a folder or a stack are alike."""
    if count is None or count >= len(pairs):
        return pairs
    return [pairs[i] for i in data.stratified(torch.zeros(len(pairs), dtype=torch.long))[:count]]


def _range(arrays: list[Any]) -> tuple[float, float]:
    """Return the pixel values that become 0 and 1, with white at 1: [0, 1] for 8 bits, otherwise the images' range."""
    if arrays[0].dtype.name in ("uint8", "bool"):
        return 0.0, 1.0
    low = min(float(unit(array).min()) for array in arrays)
    high = max(float(unit(array).max()) for array in arrays)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the images hold values that are not finite; expected finite ones")
    if low >= 0 and high <= 1 and arrays[0].dtype.kind == "f":
        return 0.0, 1.0
    return low, (high if high > low else low + 1.0)


class ImageTrainer(Trainer):
    """A network that returns images, with its images and its optimizer.

    An epoch draws as many patches as cover the images once, at random positions, randomly flipped and rotated.
    """

    model: ImageNetwork

    def _open(self, dataset: data.Dataset | None, fresh: bool) -> None:
        self.images = pictures_of(self.recipe)  # type: ignore[assignment]
        train, names = self.pictures.train[0], self.pictures.identity.classes
        self.side = min(self.recipe.patch or PATCH, *(n for pair in train for n in pair.image.shape[:2]))
        pixels = sum(pair.image.shape[0] * pair.image.shape[1] for pair in train)
        self.steps = max(1, round(pixels / self.side**2 / self.recipe.batch_size))
        model = seeded_network(self.recipe, len(names), len(self.pictures.mean), self.device)
        if not isinstance(model, ImageNetwork):
            raise ValueError(f"model is {self.recipe.model}, which does not return images; expected one that does")
        self.model = model
        if self.recipe.init is not None and fresh:
            self._load_initial_weights(self.recipe.init)
        self.model.features.requires_grad_(not self.recipe.freeze_backbone)
        self.guess = math.log(len(names)) if self.recipe.task == "segment" else 1.0
        weighted = self.recipe.balance is not None or self.recipe.class_weights is not None
        self.weights = self._label_weights() if weighted else None

    @property
    def pictures(self) -> Pictures:
        """The images and targets."""
        return self.images  # type: ignore[return-value]

    def _load_initial_weights(self, name: str) -> None:
        pictures = self.pictures
        names, channels = pictures.identity.classes, len(pictures.mean)
        source = load_initial_weights(name, self.model, self.recipe, names, channels)
        self.images = pictures.scaled_as(source, self.recipe.task)  # type: ignore[assignment]

    def _label_weights(self) -> Tensor | None:
        """Return the weight of each label in the loss."""
        labels = torch.cat([self.pictures.target(pair.target).flatten() for pair in self.pictures.train[0]])
        weights = loss_weights(self.recipe, labels, len(self.pictures.labels))
        return None if weights is None else weights.to(self.device)

    def _can_capture(self) -> bool:
        return False

    def sample(self) -> Tensor:
        size = len(self.pictures.mean), self.side, self.side
        return torch.zeros(1, *size, device=self.device)

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Any, Tensor, int]]:
        """Yield batches of patches; each depends only on the seed, the epoch and its number."""
        seed = self.recipe.seed * 1_000_003 + epoch
        share = slice(self.group.rank, None, self.group.size)
        for number in range(skip, self.steps):
            draws = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
            patches = [self._patch(draws) for _ in range(self.recipe.batch_size)]
            images, targets = (torch.stack(parts) for parts in zip(*patches, strict=True))
            inputs = self._add_noise(images, draws) if self.recipe.task == "denoise" else (images,)
            on_device = tuple(part[share].to(self.device) for part in inputs)
            yield on_device, targets[share].to(self.device), len(images)

    def _patch(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        pairs = self.pictures.train[0]
        pair = pairs[int(torch.randint(len(pairs), (1,), generator=draws))]
        size = pair.image.shape[:2]
        top, left = (int(torch.randint(n - self.side + 1, (1,), generator=draws)) for n in size)
        turns, flip = torch.randint(4, (2,), generator=draws).tolist() if self.recipe.flip is not False else (0, 0)
        window = slice(top, top + self.side), slice(left, left + self.side)
        image = self.pictures.image(pair.image[window])
        target = image if pair.target is None else self.pictures.target(pair.target[window])
        return tuple(_rotate_and_flip(part, turns, flip % 2 > 0) for part in (image, target))  # type: ignore[return-value]

    def _add_noise(self, images: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        low, high = (s / 255 for s in self.recipe.noise())
        sigma = low + (high - low) * torch.rand(len(images), generator=draws)
        return images + sigma.view(-1, 1, 1, 1) * torch.randn(images.shape, generator=draws), sigma

    def _loss(self, network: nn.Module, images: Any, labels: Tensor) -> Tensor:
        with self.autocast():
            result = network(*images) if isinstance(self.model, Denoiser) else network(images[0])
        if self.recipe.task == "segment":
            smooth = self.recipe.label_smoothing
            return F.cross_entropy(result.float(), labels[:, 0], self.weights, label_smoothing=smooth)
        return F.mse_loss(result.float(), labels)

    @torch.inference_mode()
    def measure(self, name: str) -> dict[str, Any]:
        pairs = getattr(self.images, name)[0]
        if not pairs:
            return {}
        self.model.eval()
        metrics = (self._label_metrics if self.recipe.task == "segment" else self._value_metrics)(pairs)
        return {f"{name}_{key}": value for key, value in metrics.items() if value is not None}

    def result(self, image: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return the input of the network for a test image, (C, H, W), and its output.

        For denoising, the image's number seeds the noise; its σ is 25/255 if the network is trained for that, or else
        the middle of its range.
        """
        tile = TILE if max(image.shape[1:]) > 2 * TILE else None
        if self.recipe.task != "denoise":
            return image, apply(self.model, image.to(self.device), tile)
        sigma = self.tested_noise
        noisy = image + sigma * torch.randn(image.shape, generator=torch.Generator().manual_seed(number))
        options = {"sigma": sigma} if isinstance(self.model, Denoiser) else {}
        return noisy, apply(self.model, noisy.to(self.device), tile, **options)

    @property
    def tested_noise(self) -> float:
        """The σ of the noise that is added to test images, on their scale."""
        low, high = self.recipe.noise()
        return (25 if low <= 25 <= high else (low + high) / 2) / 255

    def _value_metrics(self, pairs: list[ImagePair]) -> dict[str, float | None]:
        losses, psnrs, ssims = [], [], []
        for number, pair in enumerate(pairs):
            image = self.pictures.image(pair.image)
            target = image if pair.target is None else self.pictures.target(pair.target)
            output = self.result(image, number)[1].float().cpu()
            losses.append(float(F.mse_loss(output, target)))
            output = output.clamp(0, 1) if pair.target is None else output
            psnrs.append(measures.psnr(output, target))
            ssims.append(measures.ssim(output, target))
        known = [value for value in ssims if value is not None]
        mean = sum(known) / len(known) if known else None
        return {"loss": sum(losses) / len(losses), "psnr": sum(psnrs) / len(psnrs), "ssim": mean}

    def _label_metrics(self, pairs: list[ImagePair]) -> dict[str, Any]:
        classes = len(self.pictures.labels)
        loss, pixels, counted = 0.0, 0, torch.zeros(3, classes, dtype=torch.long)
        for number, pair in enumerate(pairs):
            labels = self.pictures.target(pair.target)[0]
            logits = self.result(self.pictures.image(pair.image), number)[1].float().cpu()
            loss += float(F.cross_entropy(logits[None], labels[None], reduction="sum"))
            pixels += labels.numel()
            counted += measures.counts(logits.argmax(0), labels, classes)
        dice, iou = measures.dice(counted), measures.iou(counted)
        return {
            **{"loss": loss / pixels, "accuracy": int(counted[2].sum()) / pixels},
            **{"dice": float(dice.mean()), "iou": float(iou.mean())},
            **{"dice_of_classes": dice.tolist(), "iou_of_classes": iou.tolist()},
        }


def _rotate_and_flip(image: Tensor, turns: int, flip: bool) -> Tensor:
    """Return an image (C, H, W) rotated by a number of quarter turns, and flipped."""
    image = image.rot90(turns, (1, 2))
    return image.flip(1) if flip else image
