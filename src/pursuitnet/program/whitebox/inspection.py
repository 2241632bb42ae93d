"""``inspect``: a network read layer by layer as layered thresholding, measured, as numbers, JSON and a page."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pursuitnet import theory
from pursuitnet.data.progress import Advance, counted, nothing
from pursuitnet.dictionaries.hooks import detached_copy
from pursuitnet.layer import PursuitLayer
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.trace import LayerTrace
from pursuitnet.program.whitebox.findings import Findings, UnreadModule
from pursuitnet.program.whitebox.interpret import InterpretedLayer, UnreadableError, read, trace_pursuit_layers
from pursuitnet.program.whitebox.layers import Layer, SolverBudget, measure
from pursuitnet.program.whitebox.page import render
from pursuitnet.program.whitebox.problem import solved
from pursuitnet.program.whitebox.torch_models import trace_torch_layers
from pursuitnet.program.whitebox.traced import TracedModel
from pursuitnet.program.whitebox.unfolding import MeasuredLayer, at_steps
from pursuitnet.program.writable import write_whole


@dataclass(frozen=True)
class Inspection(Findings):
    """What ``inspect`` has found, and the page about it."""

    def save(self, folder: Path) -> Path:
        """Write ``inspect.json`` and ``inspect.html`` into a folder, over those of their name; return the page."""
        run = RunFolder(folder)
        run.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        write_whole(run.inspection, text + "\n")
        beside = run.report.name if run.report.is_file() else None
        return write_whole(run.inspection_page, render(self, beside))


def inspect(
    model: nn.Module,
    images: Tensor | tuple[Tensor, ...],
    labeled: tuple[Tensor, Tensor] | None = None,
    *,
    unfolding: int = 4,
    effort: SolverBudget | None = None,
    title: str | None = None,
    tell: Advance = nothing,
) -> Inspection:
    """Read a network as layered thresholding and measure every layer on images.

    A network of this library is read by its pursuits. Any other PyTorch model is run once and watched: each
    convolution or matrix, with whatever batch normalization follows it in evaluation, up to a ReLU is a layer
    Γ = P_θ(Dᵀx). What a residual block adds before the ReLU is the anchor of the start ``resnet``, and what a dense
    connection concatenates is the I of [I D]. Every layer is computed again, and is read if that is what the model
    gives, to 1e-5. What each layer's Lasso is, says ``InterpretedLayer``; what is measured, ``Layer`` and ``Solving``.
    All of it happens on a copy in evaluation mode, and the model stays as it is.

    Args:
        model: the network, on the device of the images.
        images: (B, …), as the network takes them, in its own float32 or float64; a tuple for a model of several
            inputs, the images first.
        labeled: images and labels on which the accuracy is counted at every number of steps; None for no accuracy.
        unfolding: the most steps after the first to try without training again, ≥ 0.
        effort: how much work goes into the Lasso of each layer.
        title: of the page; by default the model's class.
        tell: is told how many more layers and numbers of steps are done, and of how many.

    Raises:
        ValueError: if images, labels or a number do not fit, or if no layer can be read; the message says what to do.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
        >>> found = pn.inspect(model, torch.rand(2, 1, 6, 6))
        >>> [layer.name for layer in found.layers], found.unread
        (['0'], ())
        >>> 0 <= found.layers[0].solving.gap[0] <= 1  # at most this share of the objective is missing
        True
    """
    inputs = images if isinstance(images, tuple) else (images,)
    if not inputs or not all(isinstance(each, Tensor) for each in inputs[1:]):
        kinds = ", ".join(type(each).__name__ for each in inputs) or "nothing"
        raise ValueError(f"images is a tuple of {kinds}; expected one tensor for each input of the model")
    images = inputs[0]
    _check(model, images, unfolding)
    if labeled is not None:
        _check(model, labeled[0], unfolding)
        _check_labels(labeled)
    effort = SolverBudget(further=unfolding) if effort is None else effort
    frozen_running_stats = detached_copy(model).eval().requires_grad_(False)
    pursuits = any(isinstance(module, PursuitLayer) for module in frozen_running_stats.modules())
    traced = _run(frozen_running_stats, inputs, pursuits)
    found, refused = _read(traced.layers)
    traced = traced.without(dict(refused))
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in traced.unread) or "it calls neither"
        raise ValueError(
            f"no layer of this {type(model).__name__} can be read as thresholding, which takes a convolution or matrix "
            f"and a ReLU after it ({reasons})"
        )
    count = partial(tell, total=len(found) + (unfolding + 1 if pursuits else 0))
    layers, known = _measured(found, effort, count)
    steps = (
        tuple(counted(at_steps(frozen_running_stats, images, labeled, unfolding, effort, known), count))
        if pursuits
        else ()
    )
    return Inspection(
        title=title or type(model).__name__,
        images=len(images),
        shape=tuple(images.shape[1:]),
        layers=layers,
        error_bounds=tuple(_error_bounds(layers)),
        unread=tuple(UnreadModule(*each) for each in traced.unread),
        projections=tuple(traced.projections),
        convolutions=traced.convolutions,
        steps=steps,
        labeled=0 if labeled is None or not steps else len(labeled[1]),
        effort=effort,
        interpreted_layers=tuple(found),
        pixels=images,
    )


def _check(model: nn.Module, images: Tensor, unfolding: int) -> None:
    """Raise ValueError for what is wrong before the model is run."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {type(model).__name__}; expected a torch.nn.Module")
    if not isinstance(unfolding, int) or unfolding < 0:
        raise ValueError(f"unfolding is {unfolding}; expected an integer ≥ 0, the most steps after the first to try")
    if not isinstance(images, Tensor) or images.dtype not in (torch.float32, torch.float64):
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"the images are {kind}; expected a float32 or float64 tensor, as the network takes it")
    if images.dim() < 2 or not images.numel():
        raise ValueError(f"the images have shape {tuple(images.shape)}; expected (B, …) with one image or more")
    if not images.isfinite().all():
        bad = int((~images.isfinite()).flatten(1).any(1).sum())
        raise ValueError(f"{bad} of {len(images)} images hold NaN or infinite values; remove or repair them")
    weight = next(model.parameters(), images)
    if weight.dtype != images.dtype or weight.device != images.device:
        raise ValueError(
            f"the images are {images.dtype} on {images.device}, the model {weight.dtype} on {weight.device}; "
            "convert one, as in images.to(weight)"
        )


def _check_labels(labeled: tuple[Tensor, Tensor]) -> None:
    images, labels = labeled
    if labels.shape != (len(images),):
        raise ValueError(f"the labels have shape {tuple(labels.shape)}; expected ({len(images)},), one an image")


def _run(model: nn.Module, inputs: tuple[Tensor, ...], pursuits: bool) -> TracedModel:
    """Return the layers that the images meet, and what is passed over."""
    if pursuits and len(inputs) > 1:
        raise ValueError(f"images are {len(inputs)} tensors; expected one, as this library's networks take")
    try:
        return trace_pursuit_layers(model, inputs[0]) if pursuits else trace_torch_layers(model, *inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
        raise ValueError(
            f"the model does not take images of shape {shapes}: {str(error).strip().splitlines()[0]}"
        ) from error


def _read(traces: list[tuple[str, LayerTrace]]) -> tuple[list[InterpretedLayer], list[tuple[str, str]]]:
    """Return the readings, each linked to the one whose code it was handed, and what cannot be read."""
    found: list[InterpretedLayer] = []
    refused, place = [], dict[int, int]()
    for index, (name, at) in enumerate(traces):
        input_layer = None if at.input_layer is None else place.get(at.input_layer)
        for values in (at.signals[-1], at.codes[-1]):
            if not values.isfinite().all():
                raise ValueError(f"the layer {name} has infinite or undefined values on these images; nothing was read")
        try:
            interpreted = read(replace(at, input_layer=input_layer), name)
        except UnreadableError as error:
            refused.append((name, str(error)))
            continue
        place[index] = len(found)
        found.append(interpreted)
    return found, refused


def _measured(
    found: list[InterpretedLayer], effort: SolverBudget, tell: Advance
) -> tuple[tuple[Layer, ...], dict[PursuitLayer, MeasuredLayer]]:
    """Return what is measured of every layer, and what the network at other numbers of steps can begin with."""
    layers, known = [], {}
    for at in found:
        solution = solved(at.problem.first(effort.images), effort.steps, effort.tol)
        layers.append(measure(at, solution, effort.further))
        known[at.layer] = MeasuredLayer(layers[-1].solving.gap[0], solution.code, at.problem.lipschitz)
        tell(1)
    return tuple(layers), known


def _error_bounds(layers: tuple[Layer, ...]) -> Iterator[float | None]:
    """Yield the factor of ε₀² in Lemma 2 for every layer, at the largest stripe norm among the images."""
    norms: list[float] = []
    mus: list[float] = []
    for layer in layers:
        mu = layer.coherence_with_identity if layer.solving.identity_density is not None else layer.coherence
        if mu is None or layer.lemma2.value.most is None:
            norms, mus = [*norms, math.inf], [*mus, 1.0]
        else:
            norms, mus = [*norms, layer.lemma2.value.most], [*mus, mu]
        known = all(math.isfinite(n) for n in norms)
        factor = float(theory.layered_error_bound(1.0, norms, mus)[-1]) if known else math.inf
        yield factor if math.isfinite(factor) else None
