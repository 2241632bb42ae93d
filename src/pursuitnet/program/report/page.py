"""One self-contained page about a finished run: curves, confusion matrix, and what each layer has learned."""

import os
import shlex
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pursuitnet.data import in_memory
from pursuitnet.dictionaries import WithIdentity
from pursuitnet.iterations import FISTA
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import MultiLayerPursuit
from pursuitnet.networks import Network
from pursuitnet.networks.certified import CertifiedNetwork
from pursuitnet.program import train
from pursuitnet.program.evaluation.measures import confusion
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.report import pictures
from pursuitnet.program.report.certified import certified_content
from pursuitnet.program.report.template import render, speed
from pursuitnet.program.report.text import evenly
from pursuitnet.program.run_folder import EPOCH, NEEDED, RECORD, RunFolder, check_exists
from pursuitnet.program.runs import date_of, repeat_command
from pursuitnet.program.trace import (
    LayerTrace,
    best_scale,
    density,
    describe_dictionary,
    effective_atoms,
    layer_reconstruction,
    receptive_field,
    relative_error,
    strongest_kernels,
    synthesize_down,
    trace_layers,
)
from pursuitnet.program.writable import write_whole
from pursuitnet.prox.step_size import AbsorbedStep, BoundedStep

MEASURED = 64  # test images that the table is measured on
SHOWN_LAYERS, SHOWN_ATOMS, SHOWN_MAPS = 8, 32, 8
RIGHT, WRONG = 3, 2  # test images shown


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, loaded and evaluated again on the test images."""

    recipe: Recipe
    model: Network
    images: train.Images
    classes: tuple[str, ...]
    records: list[train.Record]
    about: dict[str, Any]
    predicted: Tensor

    def traces(self, chosen: Tensor) -> list[LayerTrace]:
        """Return the traces of every layer for the chosen test images."""
        return trace_layers(self.model, self.images.prepared(self.images.test[0][chosen]))


def write(folder: Path, data_dir: Path | None = None, device: str = "auto") -> Path:
    """Write ``report.html`` into a finished run's folder and return its path.

    Args:
        folder: as written by ``train``.
        data_dir: where the data set is now; None if it has not moved.
        device: where to compute.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run, or the data are missing.
        ValueError: if a file in it is damaged, or the data set has classes that the network does not have.
    """
    run = _load(Path(folder), data_dir, device)
    files = RunFolder(folder)
    return write_whole(files.report, render("report.html.j2", _content(run) | _footer(files, run)))


def _load(folder: Path, data_dir: Path | None, device: str) -> TrainedRun:
    opened = train.open_run(folder, data_dir, device)
    if changed := opened.changes("test"):
        warnings.warn(changed, stacklevel=3)
    needed = {key: RECORD[key] for key in ("parameters", "images", "seconds")}
    files = RunFolder(folder)
    about = files.read_record(needed)
    check_exists(files.metrics)
    lines = files.read_epochs({**NEEDED, "test_loss": EPOCH["test_loss"]})
    if not lines:
        raise ValueError(f"{files.metrics} is damaged: it holds no epoch")
    predicted = train.evaluate_split(opened.model, opened.images, opened.images.test)[2]
    return TrainedRun(opened.recipe, opened.model, opened.images, opened.classes, lines, about, predicted)


def _footer(files: RunFolder, run: TrainedRun) -> dict[str, Any]:
    """Return when the run ended, how to repeat it, what to do next, and links to other pages."""
    name = shlex.quote(str(files.path))
    pages = {"layer by layer": files.inspection_page, "all runs": files.path.parent / "runs.html"}
    return {
        "date": date_of(files.record),
        "repeat": repeat_command(files.path, run.recipe.to_json()),
        "next": {
            f"pursuitnet inspect {name}": "each layer's Lasso, guarantees and gap",
            f"pursuitnet evaluate {name}": "calibration; with --corruptions also robustness",
            f"pursuitnet predict {name} IMAGE … --explain": "classes of your own images, and why",
            f"pursuitnet export {name}": "ONNX, for other programs",
        },
        "links": {title: os.path.relpath(file, files.path) for title, file in pages.items() if file.is_file()},
    }


@torch.no_grad()
def _content(run: TrainedRun) -> dict[str, Any]:
    """Return everything that the template shows."""
    traces = run.traces(torch.arange(min(MEASURED, len(run.predicted)), device=run.predicted.device))
    shown, image_size = evenly(len(traces), SHOWN_LAYERS), run.images.test[0].shape[2:]
    return {
        "recipe": run.recipe,
        "set": {key: value for key, value in run.recipe.to_json().items() if value is not None},
        "info": {"num_classes": len(run.classes), "in_chans": len(run.images.mean), "image_size": image_size},
        "last": run.records[-1],
        "about": run.about,
        "right": int((run.predicted == run.images.test[1]).sum()),
        "tested": len(run.predicted),
        "description": describe_network(run.model),
        "curves": pictures.curves(run.records),
        "speed": speed(run.records[-1]),
        "confusion": confusion(run.images.test[1], run.predicted, len(run.classes)).tolist(),
        "classes": run.classes,
        "certified": certified_content(run.model, run.images, run.predicted, run.classes),
        "measured": min(MEASURED, len(run.predicted)),
        "layers": [_row(index, trace) for index, trace in enumerate(traces)],
        "steps": len(traces[0].codes),
        "layers_below_pooling": sum(trace.input_layer is None for trace in traces) > 1,
        "swept": _has(run.model, MultiLayerPursuit),
        "residual": any(trace.layer.start.needs_previous for trace in traces),
        "normed": any(trace.layer.threshold.norm for trace in traces),
        "identity": any(trace.identity_channels for trace in traces),
        "atoms": [_atoms(run, traces, index) for index in shown],
        "samples": list(_samples(run, shown)),
    }


def describe_network(model: Network) -> str:
    """Return one sentence that describes the network."""
    layers = model.pursuits()
    mix = "the input itself and learned atoms, [I D]," if _has_identity(layers[0]) else "learned atoms, D,"
    starts = Counter(layer.start.name for layer in layers if layer.start.needs_previous)
    begin = "".join(f" {n} of them start at the input of their block ({name});" for name, n in starts.items())
    if isinstance(model, CertifiedNetwork):
        return (
            f"{len(layers)} pursuit layers, each of which explains its input as a sparse mix of {mix} and passes "
            "on the input minus twice that explanation, a map that never increases the distance of two images; a "
            "linear classifier with rows of norm 1 follows, so that a margin is a radius (evaluate --certify)."
        )
    return (
        f"{len(layers)} pursuit layers, each of which explains its input as a sparse mix of {mix} "
        "and passes the code on;"
        f"{begin} {_num_steps(model)}; a linear classifier reads the average of the last code."
    )


def _num_steps(model: Network) -> str:
    """Return how many steps the layers take, in words."""
    sweeps = [module for module in model.modules() if isinstance(module, MultiLayerPursuit)]
    layer = model.pursuits()[0]
    k = sweeps[0].unfolding if sweeps else layer.unfolding
    if k == "solved":
        return "every layer is solved to its optimum"
    name = "FISTA" if isinstance((sweeps[0] if sweeps else layer).solver, FISTA) else "ISTA"
    steps = f"1 + {k} = {k + 1} " + ("sweep" if sweeps else "pursuit step") + ("s" if k else "")
    if not sweeps:
        return f"unfolding {k} means {steps} a layer" + (f" ({name})" if k else "")
    swept = " + ".join(str(len(sweep.layers)) for sweep in sweeps)
    return f"{swept} layers are solved together, where unfolding {k} means {steps} over them (ML-{name})"


def _row(index: int, trace: LayerTrace) -> dict[str, Any]:
    """Return one row of the table of layers."""
    signal, reconstructions, code = trace.signals[-1], trace.reconstructions(), trace.codes[-1]
    step, threshold = trace.layer.step, trace.layer.threshold
    return {
        "name": index + 1,
        "start": trace.layer.start.name,
        "dictionary": describe_dictionary(trace.dictionary),
        "code": " × ".join(str(n) for n in code.shape[1:]),
        "c": None if isinstance(step, AbsorbedStep) else _value(step()[1]),
        "absorbed": _value(step.c) if isinstance(step, AbsorbedStep) and step.c is not None else None,
        "lipschitz": float(step.lipschitz) if isinstance(step, BoundedStep) else None,
        "beta": float(threshold.penalty.mean()) if threshold.atom_weight is not None else None,
        "beta_identity": float(threshold.identity_penalty.mean()) if trace.identity_channels else None,
        "density": density(trace.atom_codes),
        "identity_density": density(code[:, : trace.identity_channels]) if trace.identity_channels else None,
        "first": float(relative_error(trace.signals[0], reconstructions[0]).mean()),
        "last": float(relative_error(signal, reconstructions[-1]).mean()),
        "scaled": float(relative_error(signal, best_scale(signal, reconstructions[-1]) * reconstructions[-1]).mean()),
    }


def _atoms(run: TrainedRun, traces: list[LayerTrace], index: int) -> dict[str, Any]:
    """Return the picture of a layer's atoms and what it shows: effective atoms, or kernels after a pooling."""
    channels, trace = len(run.images.mean), traces[index]
    atoms = effective_atoms(traces, index, SHOWN_ATOMS, channels)
    base = synthesize_down(traces, index, trace.codes[-1][:1])[1]
    grid = traces[base].signals[-1].shape[2:]
    drawn = strongest_kernels(trace, 16, 4) if atoms is None else atoms
    return {
        "name": index + 1,
        "picture": pictures.mosaic(pictures.signed(drawn), 16),
        "kind": "kernels" if atoms is None else "pooled" if base else "image",
        "shown": min(SHOWN_ATOMS, trace.atom_codes.shape[1]),
        "all": trace.atom_codes.shape[1],
        "grid": " × ".join(str(n) for n in grid),
        "reach": receptive_field(traces, index) if receptive_field(traces, index) > min(grid) else None,
    }


def chosen_images(labels: Tensor, predicted: Tensor) -> list[int]:
    """Return the first correctly classified image of each of the first few classes, then the first wrong ones."""
    right: dict[int, int] = {}
    for index in (predicted == labels).nonzero().flatten().tolist():
        if len(right) < RIGHT:
            right.setdefault(int(labels[index]), index)
    wrong = (predicted != labels).nonzero().flatten()[:WRONG].tolist()
    return [*right.values(), *wrong]


def _samples(run: TrainedRun, shown: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the chosen test images with their codes and reconstructions, layer by layer."""
    labels = run.images.test[1]
    for index in chosen_images(labels, run.predicted):
        traces = run.traces(torch.tensor([index], device=labels.device))
        yield {
            "index": index,
            "label": run.classes[int(labels[index])],
            "predicted": run.classes[int(run.predicted[index])],
            "picture": pictures.mosaic(pictures.images(in_memory(run.images.test[0][index : index + 1]) / 255), 1, 88),
            "layers": [_sample_row(run, traces, layer) for layer in shown],
        }


def _sample_row(run: TrainedRun, traces: list[LayerTrace], index: int) -> dict[str, Any]:
    """Return the strongest maps of one layer's code of one image, and the reconstruction from the code."""
    trace = traces[index]
    code = trace.atom_codes[0]
    strongest = code.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:SHOWN_MAPS]
    return {
        "name": index + 1,
        "maps": pictures.mosaic(pictures.maps(code[strongest]), SHOWN_MAPS),
        "density": density(trace.atom_codes),
        "down": _reconstruction(run, traces, index),
    }


def _reconstruction(run: TrainedRun, traces: list[LayerTrace], index: int) -> dict[str, Any] | None:
    """Return a·D_b … D_i Γ with the image, or with the pooled code's image channels; None if there are none."""
    kept = layer_reconstruction(traces, index, len(run.images.mean))
    if kept is None:
        return None
    target, down, a, base = kept
    both = torch.cat([target, a * down])
    other = base or isinstance(run.model, CertifiedNetwork)  # whose first layer gets the image padded or scaled
    both = both / target.abs().amax().clamp(min=1e-12) if other else _denormalized(run, both)
    return {
        "pictures": pictures.mosaic(pictures.images(both), 2),
        "pooled": base > 0,
        "scale": float(a),
        "error": float(relative_error(target, down)),
        "scaled_error": float(relative_error(target, a * down)),
    }


def _denormalized(run: TrainedRun, signal: Tensor) -> Tensor:
    """Return an input of the network as an image in [0, 1]."""
    return signal * run.images.std.view(-1, 1, 1) + run.images.mean.view(-1, 1, 1)


def _has_identity(layer: PursuitLayer) -> bool:
    return isinstance(layer.dictionary, WithIdentity)


def _has(model: Network, kind: type) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


def _value(weight: Tensor | float) -> float:
    return float(weight.detach() if isinstance(weight, Tensor) else weight)
