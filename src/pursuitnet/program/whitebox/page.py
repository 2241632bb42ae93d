"""The white-box page: tables, curves, atoms, codes, reconstructions, and maps of what each layer lost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary, WithIdentity
from pursuitnet.program.report import pictures, template
from pursuitnet.program.report.text import evenly
from pursuitnet.program.trace import (
    best_scale,
    effective_atoms,
    has_image_channels,
    receptive_field,
    relative_error,
    strongest_kernels,
    synthesize_down,
)
from pursuitnet.program.whitebox import plots
from pursuitnet.program.whitebox.findings import Findings
from pursuitnet.program.whitebox.interpret import OUTSIDE, InterpretedLayer
from pursuitnet.program.whitebox.layers import scaled

SHOWN_LAYERS, SHOWN_ATOMS, SHOWN_MAPS, SHOWN_IMAGES = 8, 32, 6, 3


@dataclass(frozen=True)
class DrawnLayer(InterpretedLayer):
    """A layer for pictures, where the scale is free: it keeps what is carried down through many layers near 1."""

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        model = super().reconstruct(code, signal_shape)
        return model / model.abs().amax().clamp(min=torch.finfo(model.dtype).tiny)


def render(found: Findings, report: str | None = None) -> str:
    """Return the page, one HTML document that asks for nothing from elsewhere.

    Args:
        found: what it shows.
        report: address of the run's report, if there is one to lead to.
    """
    drawn = tuple(DrawnLayer(**vars(at)) for at in found.interpreted_layers)
    content = _content(replace(found, interpreted_layers=drawn)) | {"report": report}
    return template.render("inspect.html.j2", content)


@torch.no_grad()
def _content(found: Findings) -> dict[str, Any]:
    """Return everything that the template shows."""
    layers = found.layers
    drawn = [index for index in evenly(len(layers), SHOWN_LAYERS) if _drawable(found.interpreted_layers[index])]
    return {
        "found": found,
        "layers": layers,
        "bounds": found.error_bounds,
        "gap": plots.median([layer.solving.gap[0] for layer in layers]),
        "reached": [_reached([getattr(layer, lemma).share for layer in layers]) for lemma in ("lemma1", "lemma2")],
        "nearest": [
            min((r for layer in layers if (r := getattr(layer, lemma).ratio) is not None), default=None)
            for lemma in ("lemma1", "lemma2")
        ],
        "identity": any(at.identity_channels for at in found.interpreted_layers),
        "normed": any(
            at.layer.threshold.norm is not None and bool((at.scale != 1).any()) for at in found.interpreted_layers
        ),
        "absorbed": any(not (at.scale != 1).any() for at in found.interpreted_layers),
        "below_zero": sum(layer.thresholds_below_zero for layer in layers),
        "all_atoms": sum(at.codes[-1].shape[1] - at.identity_channels for at in found.interpreted_layers),
        "idle": sum(layer.solving.density == 0 for layer in layers),
        "further": sorted({1, len(layers[0].solving.gap) - 1} - {0}) if len(layers[0].solving.gap) > 1 else [],
        "overflow": any(gap is None for at in found.steps for gap in at.gaps),
        "curves": plots.curves(layers, found.steps),
        "atoms": [_atoms(found, index) for index in drawn],
        "samples": list(_samples(found, drawn)),
        "shown": drawn,
    }


def _reached(shares: list[float | None]) -> int:
    """Return in how many layers a lemma applies to some image."""
    return sum(bool(share) for share in shares)


def _drawable(at: InterpretedLayer) -> bool:
    """Return whether a layer works on images."""
    inner = at.dictionary.dictionary if isinstance(at.dictionary, WithIdentity) else at.dictionary
    return isinstance(inner, ConvDictionary) and inner.dims == 2


def _image_in(found: Findings, base: int) -> bool:
    """Return whether the image is in the first channels of layer b's signal: is it, or got it on from [I D]."""
    first = found.interpreted_layers[0].signal
    whole = base == 0 or all(unread.reason.endswith(OUTSIDE) for unread in found.unread)
    begins = first.shape == found.pixels.shape and torch.equal(first, found.pixels)
    return begins and whole and has_image_channels(found.interpreted_layers, base)


def _atoms(found: Findings, index: int) -> dict[str, Any]:
    """Return the picture of a layer's atoms and what it shows: effective atoms, or kernels if no way leads down."""
    traces, at = found.interpreted_layers, found.interpreted_layers[index]
    base = synthesize_down(traces, index, at.codes[-1][:1])[1]
    atoms = effective_atoms(traces, index, SHOWN_ATOMS, _channels(found)) if _image_in(found, base) else None
    grid = traces[base].signal.shape[2:]
    drawn = strongest_kernels(at, 16, 4) if atoms is None else atoms
    return {
        "index": index,
        "picture": pictures.mosaic(pictures.signed(drawn), 16),
        "kind": "kernels" if atoms is None else "pooled" if base else "image",
        "shown": min(16 if atoms is None else SHOWN_ATOMS, at.atom_codes.shape[1]),
        "all": at.atom_codes.shape[1],
        "reach": receptive_field(traces, index)
        if atoms is not None and receptive_field(traces, index) > min(grid)
        else None,
    }


def _samples(found: Findings, drawn: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the first images with what every shown layer keeps and loses of them."""
    if found.pixels.dim() != 4:
        return
    for index in range(min(SHOWN_IMAGES, found.images)):
        yield {
            "index": index,
            "picture": pictures.mosaic(pictures.images(_shown(found, found.pixels, index)), 1, 88),
            "layers": [_sample_row(found, layer, index) for layer in drawn],
        }


def _sample_row(found: Findings, layer: int, index: int) -> dict[str, Any]:
    """Return what one layer keeps and loses of one image."""
    at = found.interpreted_layers[layer]
    x, code = at.signal[index : index + 1], at.code[index : index + 1]
    model = scaled(x, at.dictionary.synthesize(code, x.shape))
    atoms = code[0, at.identity_channels :]
    strongest = atoms.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:SHOWN_MAPS]
    return {
        "layer": layer,
        "down": _carried(found, layer, index),
        "lost": pictures.mosaic(pictures.maps(_lost(x[0], model[0])), 2),
        "error": float(relative_error(x, model)),
        "maps": pictures.mosaic(pictures.maps(atoms[strongest]), SHOWN_MAPS),
    }


def _lost(x: Tensor, model: Tensor) -> Tensor:
    """Return ‖x‖ and ‖x − a·DΓ‖ over the channels at every position, in units of the largest ‖x‖: (2, H, W)."""
    there = x.norm(dim=0)
    return torch.stack([there, (x - model).norm(dim=0)]).div(there.amax().clamp(min=1e-12)).clamp(max=1)


def _carried(found: Findings, layer: int, index: int) -> dict[str, Any] | None:
    """Return a·D_b … D_i Γ beside the image, or the pooled code's image channels; None where there are none."""
    traces = found.interpreted_layers
    down, base = synthesize_down(traces, layer, traces[layer].codes[-1][index : index + 1])
    if not _image_in(found, base):
        return None
    target = traces[base].signal[index : index + 1, : _channels(found)]
    down = down[:, : _channels(found)]
    a = best_scale(target, down)
    both = torch.cat([target, a * down])
    both = both / target.abs().amax().clamp(min=1e-12) if base else _shown(found, both, index)
    return {
        "pictures": pictures.mosaic(pictures.images(both), 2),
        "pooled": base > 0,
        "error": float(relative_error(target, a * down)),
    }


def _channels(found: Findings) -> int:
    """Return how many channels of the image are drawn: three as colors, or the first."""
    return 3 if found.shape[0] == 3 else 1


def _shown(found: Findings, values: Tensor, index: int) -> Tensor:
    """Return images as (n, 1 or 3, H, W) on the scale that takes image ``index`` to [0, 1]."""
    image = found.pixels[index, : _channels(found)]
    low, high = image.min(), image.max()
    one = values[index : index + 1] if values is found.pixels else values
    return (one[:, : _channels(found)] - low) / (high - low).clamp(min=1e-12)
