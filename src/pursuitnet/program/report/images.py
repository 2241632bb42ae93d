"""The page of a finished run that returns images: test images with their results, and what the layers explain."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pursuitnet.layer import PursuitLayer
from pursuitnet.program.report import pictures
from pursuitnet.program.report.progress import content_of
from pursuitnet.program.report.template import render
from pursuitnet.program.run_folder import RECORD, RunFolder
from pursuitnet.program.sharing.loading import trained
from pursuitnet.program.trace import best_scale, relative_error
from pursuitnet.program.train.run import read_recipe, records
from pursuitnet.program.train.tasks import ImageTrainer
from pursuitnet.program.writable import write_whole

SHOWN, SIDE = 4, 160
"""Test images on the page, and the side of their part that is shown."""


def write_images(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a finished run that returns images, and return its path.

    Raises:
        FileNotFoundError: if the run has not finished, or its images are missing.
        ValueError: if a file is damaged.
    """
    recipe = read_recipe(folder)
    trainer, loaded = ImageTrainer(recipe, fresh=False), trained(folder)
    trainer.images = trainer.pictures.scaled_as(loaded, recipe.task)  # type: ignore[assignment]
    trainer.model.load_state_dict(loaded.network.state_dict())
    trainer.model.eval()
    about = RunFolder(folder).read_record({key: RECORD[key] for key in ("parameters", "images")})
    content = content_of({**about, "recipe": recipe.to_json(), "folder": folder}, records(folder), training=False)
    samples = [_sample(trainer, number) for number in range(min(SHOWN, len(trainer.pictures.test[0])))]
    layers = _layers(trainer, samples[0]["input"]) if samples else []
    page = render("images.html.j2", {**content, "samples": samples, "layers": layers})
    return write_whole(RunFolder(folder).report, page)


@torch.no_grad()
def _sample(trainer: ImageTrainer, number: int) -> dict[str, Any]:
    """Return a test image with its result, its target and the difference, side by side."""
    pair, task = trainer.pictures.test[0][number], trainer.recipe.task
    image = _middle(trainer.pictures.image(pair.image))
    given, result = trainer.result(image, number)
    target = image if pair.target is None else _middle(trainer.pictures.target(pair.target))
    result = result.cpu()
    if task == "segment":
        most = max(1, len(trainer.pictures.labels) - 1)
        result, target = result.argmax(0, keepdim=True) / most, target / most
    parts = [("input", given), ("result", result), ("target", target)]
    difference = given - result if task == "denoise" else target - result
    parts.append(("input − result" if task == "denoise" else "target − result", 0.5 + difference))
    tiles = torch.stack([_as_color(part) for _, part in parts])
    return {
        "name": pair.name,
        "caption": ", ".join(name for name, _ in parts) + " (gray is zero)",
        "picture": pictures.mosaic(pictures.images(tiles), len(parts), SIDE),
        "input": given,
    }


def _middle(image: Tensor) -> Tensor:
    """Return the center of an image (C, H, W), of at most SIDE pixels."""
    for axis, n in enumerate(image.shape[1:], 1):
        image = image.narrow(axis, max(0, (n - SIDE) // 2), min(n, SIDE))
    return image


def _as_color(image: Tensor) -> Tensor:
    """Return three channels of an image."""
    return image.float().expand(3, -1, -1) if len(image) == 1 else image[[0, 1 % len(image), 2 % len(image)]].float()


@torch.no_grad()
def _layers(trainer: ImageTrainer, image: Tensor) -> list[dict[str, Any]]:
    """Return how well each layer that is called by itself reconstructs its input, and how dense its code is."""
    rows: list[dict[str, Any]] = []

    def keep(layer: nn.Module, inputs: tuple[Any, ...], code: Tensor) -> None:
        if isinstance(layer, PursuitLayer):
            signal = inputs[0]
            reconstruction = layer.reconstruct(code, signal.shape)
            error = relative_error(signal, best_scale(signal, reconstruction) * reconstruction).mean()
            channels = f"{sum(layer.dictionary.code_channels)} channels, of {layer.dictionary.channels}"
            rows.append({"dictionary": channels, "error": float(error), "density": float((code != 0).float().mean())})

    handles = [layer.register_forward_hook(keep) for layer in trainer.model.pursuits()]
    noise = {"sigma": trainer.tested_noise} if trainer.recipe.model == "csc_denoiser" else {}
    try:
        features: Any = trainer.model.forward_features
        features(image[None].to(trainer.device), **noise)
    finally:
        for handle in handles:
            handle.remove()
    return rows
