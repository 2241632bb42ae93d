"""The page that explains predictions: what each layer keeps of an image, and which atoms carry the decision."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pursuitnet.program.predict.explanation import Explanation, explain
from pursuitnet.program.predict.predictions import Answer
from pursuitnet.program.report import pictures
from pursuitnet.program.report.template import render
from pursuitnet.program.report.text import evenly
from pursuitnet.program.sharing import Trained
from pursuitnet.program.trace import (
    best_scale,
    has_image_channels,
    layer_reconstruction,
    relative_error,
    synthesize_down,
)
from pursuitnet.program.writable import write_whole

MARK = 'content="pursuitnet predict"'
"""What tells this page from others."""
SHOWN_ATOMS, SHOWN_LAYERS = 10, 8


def write_page(path: Path, about: Trained, answers: Sequence[Answer], name: str, left_out: int = 0) -> Path:
    """Write the page; return its path.

    Args:
        path: the HTML file.
        about: the network.
        answers: what it has said of the images to explain, with their pixels.
        name: what the network is called.
        left_out: how many more images were answered.
    """
    content = {
        "name": name,
        "recipe": about.recipe,
        "images": [_image(about, answer) for answer in answers],
        "left_out": left_out,
    }
    return write_whole(path, render("explain.html.j2", content))


@torch.no_grad()
def _image(about: Trained, answer: Answer) -> dict[str, Any]:
    """Return everything that the template shows of one image."""
    image = torch.from_numpy(answer.pixels)
    found = explain(about, image)
    first, second = found.ranking()[:2] if len(found.classes) > 1 else (0, 0)
    shown = found.strongest(first, SHOWN_ATOMS)
    sums = found.contributions[first]
    return {
        "path": answer.path,
        "top": answer.top,
        "picture": pictures.mosaic(pictures.images(_drawable(image[None] / 255)), 1, 132),
        "first": found.classes[first],
        "second": found.classes[second],
        "logit": float(found.logits[first]),
        "bias": float(found.bias[first]),
        "shown": float(sums[shown].sum()),
        "rest": float(sums.sum() - sums[shown].sum()),
        "others": sums.numel() - len(shown),
        "evidence": pictures.mosaic(pictures.maps(torch.stack([found.evidence(k) for k in (first, second)])), 2, 132),
        "atoms": [_atom(about, found, row, first, second) for row in shown],
        "layers": [_layer(about, found, index) for index in evenly(len(found.traces), SHOWN_LAYERS)],
    }


def _atom(about: Trained, found: Explanation, row: int, first: int, second: int) -> dict[str, Any]:
    """Return what one row of the last code adds to the first and to the second class, and what it stands for."""
    return {
        "name": str(found.rows[row]),
        "first": float(found.contributions[first, row]),
        "second": float(found.contributions[second, row]),
        "map": pictures.mosaic(pictures.maps(found.code[row : row + 1]), 1, 66),
        "drawn": _drawn_alone(about, found, row),
    }


def _drawn_alone(about: Trained, found: Explanation, row: int) -> pictures.Picture | None:
    """Return what one atom alone draws of the image, carried down from its layer; None where no way leads there."""
    origin = found.rows[row]
    if origin.layer is None:
        return None
    at = found.traces[origin.layer]
    alone, place = torch.zeros_like(at.codes[-1]), at.identity_channels + origin.index
    alone[:, place] = at.codes[-1][:, place]
    down, base = synthesize_down(found.traces, origin.layer, alone)
    if not has_image_channels(found.traces, base) or not bool(alone.any()):
        return None
    return pictures.mosaic(pictures.signed(down[:, : _channels(about)]), 1, 66)


def _layer(about: Trained, found: Explanation, index: int) -> dict[str, Any]:
    """Return what one layer keeps of the image."""
    at, down = found.traces[index], layer_reconstruction(found.traces, index, _channels(about))
    strongest = at.atom_codes[0].flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:6]
    return {
        "name": index + 1,
        "filled": float((at.atom_codes != 0).double().mean()),
        "maps": pictures.mosaic(pictures.maps(at.atom_codes[0][strongest]), 6),
        "down": None if down is None else _kept(about, *down),
    }


def _kept(about: Trained, target: Tensor, down: Tensor, scale: Tensor, base: int) -> dict[str, Any]:
    both = torch.cat([target, scale * down])
    if base:
        unit = both / target.abs().amax().clamp(min=1e-12)
    else:
        std, mean = (values[: both.shape[1]].view(-1, 1, 1) for values in (about.std, about.mean))
        unit = both * std + mean
    return {
        "pictures": pictures.mosaic(pictures.images(unit), 2, 66),
        "pooled": base > 0,
        "error": float(relative_error(target, best_scale(target, down) * down)),
    }


def _channels(about: Trained) -> int:
    """Return how many channels of the image are drawn: three as colors, or the first."""
    return 3 if len(about.mean) == 3 else 1


def _drawable(images: Tensor) -> Tensor:
    return images if images.shape[1] == 3 else images[:, :1]
