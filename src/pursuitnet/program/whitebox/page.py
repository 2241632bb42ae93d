"""The white-box page: tables, curves, atoms, codes, reconstructions, and maps of each layer's residual."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
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
    """A layer for pictures, whose scale does not matter: reconstructions through many layers are kept near 1."""

    def reconstruct(self, code: Tensor, signal_shape: Sequence[int]) -> Tensor:
        model = super().reconstruct(code, signal_shape)
        return model / model.abs().amax().clamp(min=torch.finfo(model.dtype).tiny)


def render(inspection: Findings, links: Mapping[str, str] | None = None, command: str | None = None) -> str:
    """Return the page: one HTML document that loads nothing else.

    Args:
        inspection: the results.
        links: addresses of other pages of the run, by title.
        command: that repeats the inspection.
    """
    drawn = tuple(DrawnLayer(**vars(layer)) for layer in inspection.interpreted_layers)
    date = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    about = {"links": links or {}, "date": date, "command": command}
    return template.render("inspect.html.j2", _content(replace(inspection, interpreted_layers=drawn)) | about)


@torch.no_grad()
def _content(inspection: Findings) -> dict[str, Any]:
    """Return everything that the template shows."""
    layers = inspection.layers
    drawn = [
        index for index in evenly(len(layers), SHOWN_LAYERS) if _is_image_layer(inspection.interpreted_layers[index])
    ]
    return {
        "inspection": inspection,
        "layers": layers,
        "bounds": inspection.error_bounds,
        "gap": plots.median([layer.solving.gap[0] for layer in layers]),
        "reached": [
            _num_applicable([getattr(layer, lemma).share for layer in layers]) for lemma in ("lemma1", "lemma2")
        ],
        "nearest": [
            min((r for layer in layers if (r := getattr(layer, lemma).ratio) is not None), default=None)
            for lemma in ("lemma1", "lemma2")
        ],
        "identity": any(at.identity_channels for at in inspection.interpreted_layers),
        "normed": any(
            at.layer.threshold.norm is not None and bool((at.scale != 1).any()) for at in inspection.interpreted_layers
        ),
        "absorbed": any(not (at.scale != 1).any() for at in inspection.interpreted_layers),
        "below_zero": sum(layer.thresholds_below_zero for layer in layers),
        "all_atoms": sum(at.codes[-1].shape[1] - at.identity_channels for at in inspection.interpreted_layers),
        "idle": sum(layer.solving.density == 0 for layer in layers),
        "further": sorted({1, len(layers[0].solving.gap) - 1} - {0}) if len(layers[0].solving.gap) > 1 else [],
        "overflow": any(gap is None for at in inspection.steps for gap in at.gaps),
        "curves": plots.curves(layers, inspection.steps),
        "atoms": [_atoms(inspection, index) for index in drawn],
        "samples": list(_samples(inspection, drawn)),
        "shown": drawn,
    }


def _num_applicable(shares: list[float | None]) -> int:
    """Return the number of layers in which a lemma applies to some image."""
    return sum(bool(share) for share in shares)


def _is_image_layer(layer: InterpretedLayer) -> bool:
    """Return whether the layer's signal is an image, so that it can be drawn."""
    inner = layer.dictionary.dictionary if isinstance(layer.dictionary, WithIdentity) else layer.dictionary
    return isinstance(inner, ConvDictionary) and inner.dims == 2


def _has_image(inspection: Findings, base: int) -> bool:
    """Return whether the first channels of layer b's signal are the image: b is 0, or [I D] in all layers before."""
    first = inspection.interpreted_layers[0].signal
    all_read = base == 0 or all(unread.reason.endswith(OUTSIDE) for unread in inspection.unread)
    starts_at_image = first.shape == inspection.pixels.shape and torch.equal(first, inspection.pixels)
    return starts_at_image and all_read and has_image_channels(inspection.interpreted_layers, base)


def _atoms(inspection: Findings, index: int) -> dict[str, Any]:
    """Return the picture of a layer's atoms and its kind: effective atoms, or kernels without a path to the image."""
    traces, trace = inspection.interpreted_layers, inspection.interpreted_layers[index]
    base = synthesize_down(traces, index, trace.codes[-1][:1])[1]
    atoms = effective_atoms(traces, index, SHOWN_ATOMS, _channels(inspection)) if _has_image(inspection, base) else None
    grid = traces[base].signal.shape[2:]
    drawn = strongest_kernels(trace, 16, 4) if atoms is None else atoms
    return {
        "index": index,
        "picture": pictures.mosaic(pictures.signed(drawn), 16),
        "kind": "kernels" if atoms is None else "pooled" if base else "image",
        "shown": min(16 if atoms is None else SHOWN_ATOMS, trace.atom_codes.shape[1]),
        "all": trace.atom_codes.shape[1],
        "reach": receptive_field(traces, index)
        if atoms is not None and receptive_field(traces, index) > min(grid)
        else None,
    }


def _samples(inspection: Findings, drawn: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the first images with the reconstruction and residual of every shown layer."""
    if inspection.pixels.dim() != 4:
        return
    for index in range(min(SHOWN_IMAGES, inspection.images)):
        yield {
            "index": index,
            "picture": pictures.mosaic(pictures.images(_scaled_to_image(inspection, inspection.pixels, index)), 1, 88),
            "layers": [_sample_row(inspection, layer, index) for layer in drawn],
        }


def _sample_row(inspection: Findings, layer: int, index: int) -> dict[str, Any]:
    """Return the reconstruction and the residual of one layer for one image."""
    trace = inspection.interpreted_layers[layer]
    x, code = trace.signal[index : index + 1], trace.code[index : index + 1]
    reconstruction = scaled(x, trace.dictionary.synthesize(code, x.shape))
    atoms = code[0, trace.identity_channels :]
    strongest = atoms.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:SHOWN_MAPS]
    return {
        "layer": layer,
        "down": _reconstruction(inspection, layer, index),
        "lost": pictures.mosaic(pictures.maps(_residual_maps(x[0], reconstruction[0])), 2),
        "error": float(relative_error(x, reconstruction)),
        "maps": pictures.mosaic(pictures.maps(atoms[strongest]), SHOWN_MAPS),
    }


def _residual_maps(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return ‖x‖ and ‖x − a·DΓ‖ over the channels at every position, in units of the largest ‖x‖: (2, H, W)."""
    norm = x.norm(dim=0)
    return torch.stack([norm, (x - reconstruction).norm(dim=0)]).div(norm.amax().clamp(min=1e-12)).clamp(max=1)


def _reconstruction(inspection: Findings, layer: int, index: int) -> dict[str, Any] | None:
    """Return a·D_b … D_i Γ with the image, or with the pooled code's image channels; None if there are none."""
    traces = inspection.interpreted_layers
    down, base = synthesize_down(traces, layer, traces[layer].codes[-1][index : index + 1])
    if not _has_image(inspection, base):
        return None
    target = traces[base].signal[index : index + 1, : _channels(inspection)]
    down = down[:, : _channels(inspection)]
    a = best_scale(target, down)
    both = torch.cat([target, a * down])
    both = both / target.abs().amax().clamp(min=1e-12) if base else _scaled_to_image(inspection, both, index)
    return {
        "pictures": pictures.mosaic(pictures.images(both), 2),
        "pooled": base > 0,
        "error": float(relative_error(target, a * down)),
    }


def _channels(inspection: Findings) -> int:
    """Return the number of channels of the image to draw: three as colors, or the first."""
    return 3 if inspection.shape[0] == 3 else 1


def _scaled_to_image(inspection: Findings, values: Tensor, index: int) -> Tensor:
    """Return images as (n, 1 or 3, H, W) on the scale on which image ``index`` is in [0, 1]."""
    image = inspection.pixels[index, : _channels(inspection)]
    low, high = image.min(), image.max()
    chosen = values[index : index + 1] if values is inspection.pixels else values
    return (chosen[:, : _channels(inspection)] - low) / (high - low).clamp(min=1e-12)
