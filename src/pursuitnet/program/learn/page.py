"""The page of a learned dictionary: atoms sorted by use, the objective, and reconstructions of some images."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pursuitnet.dictionaries import ComposedDictionary, Dictionary
from pursuitnet.problems import Learned
from pursuitnet.problems.learning import Report
from pursuitnet.problems.learning.codes import Coder, residual_of
from pursuitnet.problems.learning.filters import filters_of
from pursuitnet.problems.learning.images import Batch
from pursuitnet.program.learn.settings import Settings
from pursuitnet.program.report import pictures
from pursuitnet.program.report.template import render
from pursuitnet.program.writable import write_whole

SHOWN = 400
"""Most atoms on the page."""


def write_page(path: Path, learned: Learned, images: Tensor, settings: Settings, count: int) -> Path:
    """Write the page and return its path.

    Args:
        path: of the page.
        learned: the result.
        images: a few of the prepared images.
        settings: of the run.
        count: number of images in total.
    """
    return write_whole(path, render("learn.html.j2", _content(learned, images, settings, count)))


@torch.no_grad()
def _content(learned: Learned, images: Tensor, settings: Settings, count: int) -> dict[str, Any]:
    """Return everything that the template shows."""
    layers, order = _effective_atoms(learned.dictionary), learned.usage.argsort(descending=True, stable=True)
    atoms = layers.pop()[order[:SHOWN]]
    return {
        "settings": settings,
        "count": count,
        "history": learned.history,
        "last": learned.history[-1] if learned.history else None,
        "reason": learned.reason,
        "atoms": _mosaic(atoms),
        "earlier_layers": [_mosaic(weight[:SHOWN]) for weight in layers],
        "unused": int((learned.usage == 0).sum()),
        "shown": len(atoms),
        "curve": curve(learned.history),
        "samples": _samples(learned, images, settings),
    }


def _effective_atoms(dictionary: Dictionary) -> list[Tensor]:
    """Return the atoms of each layer as they look in an image, (atoms, channels, *kernel)."""
    if not isinstance(dictionary, ComposedDictionary):
        return [filters_of(dictionary).weight]
    layers = dictionary.layers
    return [filters_of(ComposedDictionary(layers[:n]).effective()).weight for n in range(1, len(layers) + 1)]


def _mosaic(atoms: Tensor) -> Any:
    return pictures.mosaic(pictures.signed(atoms), max(1, round(len(atoms) ** 0.5 * 1.6)))


def _samples(learned: Learned, images: Tensor, settings: Settings) -> list[dict[str, Any]]:
    """Return some images with their reconstruction by the atoms and the residual."""
    beta = torch.tensor([settings.beta]).to(images)
    D = learned.dictionary.effective() if isinstance(learned.dictionary, ComposedDictionary) else learned.dictionary
    coded = Coder(beta, settings.nonnegative)(D, Batch(images, None), 1e-3)
    residuals = residual_of(D, coded.batch, coded.code)
    identity = coded.code[0] if len(coded.code) > 1 else torch.zeros_like(images)
    rows = []
    for image, residual, own, code in zip(images, residuals, identity, coded.code[-1], strict=True):
        shown = [image, image - residual - own, residual + own]
        scale = image.abs().amax().clamp(min=1e-12)
        tiles = pictures.images(torch.stack([(each / scale + 1) / 2 for each in shown]))
        rows.append({
            "picture": pictures.mosaic(tiles, 3, 200),
            "error": float((residual + own).norm() / image.norm().clamp(min=1e-12)),
            "share": float((code != 0).double().mean()),
        })  # fmt: skip
    return rows


def curve(history: tuple[Report, ...]) -> str:
    """Return the certified objectives against time as an SVG element."""

    def draw(axes: Axes) -> None:
        per_image = [report.objective / report.images for report in history]
        axes.plot([report.seconds for report in history], per_image, color=pictures.COOL, marker="o", ms=3.2, lw=1.6)
        pictures.plain(axes, pictures.INK, pictures.SOFT)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel("seconds", color=pictures.INK)
        pictures.loss_axis(axes, per_image, "objective per image", pictures.INK)

    return pictures.panels({"objective per image over time": draw}, (6, 3))
