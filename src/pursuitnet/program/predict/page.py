"""The page that explains predictions: what each layer keeps of an image, and which atoms decide the class."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pursuitnet.program.predict.explanation import Explanation, explain
from pursuitnet.program.predict.predictions import FilePrediction
from pursuitnet.program.report import pictures
from pursuitnet.program.report.template import render
from pursuitnet.program.report.text import evenly
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.sharing import Trained
from pursuitnet.program.trace import (
    best_scale,
    has_image_channels,
    layer_reconstruction,
    relative_error,
    synthesize_down,
)
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.paths import link

MARK = 'content="pursuitnet predict"'
"""Text by which this page is recognized."""
SHOWN_ATOMS, SHOWN_LAYERS = 10, 8


def write_page(path: Path, loaded: Trained, results: Sequence[FilePrediction], run: str, left_out: int = 0) -> Path:
    """Write the page and return its path.

    Args:
        path: the HTML file.
        loaded: the network.
        results: predictions for the images to explain, with their pixels.
        run: the run folder, its weights, or the name of a pretrained network.
        left_out: number of further images that were classified.
    """
    report, command = RunFolder(run).report, shlex.quote(run)
    content = {
        "name": Path(run).name,
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "report": link(path, report) if report.is_file() else None,
        "next": {
            f"pursuitnet predict {command} IMAGE … --csv predictions.csv": "a table of the classes of many images",
            f"pursuitnet evaluate {command}": "how often such probabilities are right, on test images",
            f"pursuitnet inspect {command}": "the network as a whole, layer by layer",
        },
        "recipe": loaded.recipe,
        "images": [_image(loaded, result) for result in results],
        "left_out": left_out,
    }
    return write_whole(path, render("explain.html.j2", content))


@torch.no_grad()
def _image(loaded: Trained, result: FilePrediction) -> dict[str, Any]:
    """Return everything that the template shows of one image."""
    image = torch.from_numpy(result.pixels)
    explanation = explain(loaded, image)
    first, second = explanation.ranking()[:2] if len(explanation.classes) > 1 else (0, 0)
    shown = explanation.strongest(first, SHOWN_ATOMS)
    sums = explanation.contributions[first]
    return {
        "path": result.path,
        "top": result.top,
        "picture": pictures.mosaic(pictures.images(_drawable(image[None] / 255)), 1, 132),
        "first": explanation.classes[first],
        "second": explanation.classes[second],
        "logit": float(explanation.logits[first]),
        "bias": float(explanation.bias[first]),
        "shown": float(sums[shown].sum()),
        "rest": float(sums.sum() - sums[shown].sum()),
        "others": sums.numel() - len(shown),
        "evidence": pictures.mosaic(
            pictures.maps(torch.stack([explanation.evidence(k) for k in (first, second)])), 2, 132
        ),
        "atoms": [_atom(loaded, explanation, channel, first, second) for channel in shown],
        "layers": [_layer(loaded, explanation, index) for index in evenly(len(explanation.traces), SHOWN_LAYERS)],
    }


def _atom(loaded: Trained, explanation: Explanation, channel: int, first: int, second: int) -> dict[str, Any]:
    """Return what one channel of the last code adds to the first and to the second class, and where it comes from."""
    return {
        "name": str(explanation.channels[channel]),
        "first": float(explanation.contributions[first, channel]),
        "second": float(explanation.contributions[second, channel]),
        "map": pictures.mosaic(pictures.maps(explanation.code[channel : channel + 1]), 1, 66),
        "drawn": _reconstruction_of_atom(loaded, explanation, channel),
    }


def _reconstruction_of_atom(loaded: Trained, explanation: Explanation, channel: int) -> pictures.Picture | None:
    """Return the image reconstructed from one atom alone; None if its layer cannot be synthesized down to the image."""
    origin = explanation.channels[channel]
    if origin.layer is None:
        return None
    trace = explanation.traces[origin.layer]
    code, place = torch.zeros_like(trace.codes[-1]), trace.identity_channels + origin.index
    code[:, place] = trace.codes[-1][:, place]
    down, base = synthesize_down(explanation.traces, origin.layer, code)
    if not has_image_channels(explanation.traces, base) or not bool(code.any()):
        return None
    return pictures.mosaic(pictures.signed(down[:, : _channels(loaded)]), 1, 66)


def _layer(loaded: Trained, explanation: Explanation, index: int) -> dict[str, Any]:
    """Return what one layer keeps of the image."""
    trace, down = explanation.traces[index], layer_reconstruction(explanation.traces, index, _channels(loaded))
    strongest = trace.atom_codes[0].flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:6]
    return {
        "name": index + 1,
        "density": float((trace.atom_codes != 0).double().mean()),
        "maps": pictures.mosaic(pictures.maps(trace.atom_codes[0][strongest]), 6),
        "down": None if down is None else _reconstruction(loaded, *down),
    }


def _reconstruction(loaded: Trained, target: Tensor, down: Tensor, scale: Tensor, base: int) -> dict[str, Any]:
    both = torch.cat([target, scale * down])
    if base:
        unit = both / target.abs().amax().clamp(min=1e-12)
    else:
        std, mean = (values[: both.shape[1]].view(-1, 1, 1) for values in (loaded.std, loaded.mean))
        unit = both * std + mean
    return {
        "pictures": pictures.mosaic(pictures.images(unit), 2, 66),
        "pooled": base > 0,
        "error": float(relative_error(target, best_scale(target, down) * down)),
    }


def _channels(loaded: Trained) -> int:
    """Return the number of channels of the image to draw: three as colors, or the first."""
    return 3 if len(loaded.mean) == 3 else 1


def _drawable(images: Tensor) -> Tensor:
    return images if images.shape[1] == 3 else images[:, :1]
