"""``inspect``: read a network layer by layer as layered thresholding, and measure it: numbers, JSON and a page."""

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
from pursuitnet.dictionaries.inputs import kind_of
from pursuitnet.layer import PursuitLayer
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.trace import LayerTrace
from pursuitnet.program.whitebox.findings import Findings, UnreadModule
from pursuitnet.program.whitebox.interpret import InterpretedLayer, UnreadableError, interpret, trace_pursuit_layers
from pursuitnet.program.whitebox.layers import Layer, SolverBudget, measure
from pursuitnet.program.whitebox.page import render
from pursuitnet.program.whitebox.problem import solve_lasso
from pursuitnet.program.whitebox.torch_models import trace_torch_layers
from pursuitnet.program.whitebox.traced import TracedModel
from pursuitnet.program.whitebox.unfolding import MeasuredLayer, at_steps
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.paths import link


@dataclass(frozen=True)
class Inspection(Findings):
    """The results of ``inspect``, with their page."""

    def save(self, folder: Path, command: str | None = None) -> Path:
        """Write ``inspect.json`` and ``inspect.html`` into a folder, replacing old ones; return the page's path.

        Args:
            folder: where the files go.
            command: that repeats the inspection, to be shown on the page.
        """
        run = RunFolder(folder)
        run.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
        write_whole(run.inspection, text + "\n")
        pages = {"the report of the run": run.report, "all runs": run.path.parent / "runs.html"}
        links = {title: link(run.inspection_page, page) for title, page in pages.items() if page.is_file()}
        return write_whole(run.inspection_page, render(self, links, command))


def inspect(
    model: nn.Module,
    images: Tensor | tuple[Tensor, ...],
    labeled: tuple[Tensor, Tensor] | None = None,
    *,
    unfolding: int = 4,
    budget: SolverBudget | None = None,
    title: str | None = None,
    advance: Advance = nothing,
) -> Inspection:
    """Read a network as layered thresholding and measure every layer on images.

    A network of this library is read by its pursuits. Any other PyTorch model is run once and recorded: each
    convolution or matrix, with any batch normalization in evaluation mode after it, up to a ReLU is a layer
    Γ = P_θ(Dᵀx). What a residual block adds before the ReLU is the anchor of the start ``resnet``, and what a dense
    connection concatenates is the I of [I D]. Every layer is recomputed from what was read, and counts as read if
    that agrees with the model to 1e-5. ``InterpretedLayer`` defines the Lasso of a layer, ``Layer`` and ``Solving`` the
    measurements. All is computed on a copy in evaluation mode, and the model is not changed.

    Args:
        model: the network, on the device of the images.
        images: (B, …), input of the network, in its own float32 or float64; a tuple for a model of several inputs, the
            images first.
        labeled: images and labels to measure the accuracy on for every number of steps; None for no accuracy.
        unfolding: most steps after the first to try without training again, ≥ 0.
        budget: the budget for the Lasso of each layer.
        title: of the page; by default the model's class.
        advance: called with the number of further layers and numbers of steps that are done, and the total.

    Raises:
        ValueError: if images, labels or a number do not fit, or if no layer can be read; the message says what to do.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
        >>> result = pn.inspect(model, torch.rand(2, 1, 6, 6))
        >>> [layer.name for layer in result.layers], result.unread
        (['0'], ())
        >>> 0 <= result.layers[0].solving.gap[0] <= 1  # the objective is above its minimum by at most this fraction
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
    budget = SolverBudget(further=unfolding) if budget is None else budget
    frozen = detached_copy(model).eval().requires_grad_(False)
    pursuits = any(isinstance(module, PursuitLayer) for module in frozen.modules())
    traced = _trace(frozen, inputs, pursuits)
    layers, unreadable = _interpret(traced.layers)
    traced = traced.without(dict(unreadable))
    if not layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in traced.unread) or "it has neither"
        raise ValueError(
            f"no layer of this {type(model).__name__} can be read as thresholding, which needs a convolution or matrix "
            f"followed by a ReLU ({reasons})"
        )
    count = partial(advance, total=len(layers) + (unfolding + 1 if pursuits else 0))
    measured, known = _measure(layers, budget, count)
    steps = tuple(counted(at_steps(frozen, images, labeled, unfolding, budget, known), count)) if pursuits else ()
    return Inspection(
        title=title or type(model).__name__,
        images=len(images),
        shape=tuple(images.shape[1:]),
        layers=measured,
        error_bounds=tuple(_error_bounds(measured)),
        unread=tuple(UnreadModule(*module) for module in traced.unread),
        projections=tuple(traced.projections),
        convolutions=traced.convolutions,
        steps=steps,
        labeled=0 if labeled is None or not steps else len(labeled[1]),
        budget=budget,
        interpreted_layers=tuple(layers),
        pixels=images,
    )


def _check(model: nn.Module, images: Tensor, unfolding: int) -> None:
    """Raise ValueError for wrong arguments, before the model is run."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is {kind_of(model)}; expected a torch.nn.Module")
    if not isinstance(unfolding, int) or unfolding < 0:
        raise ValueError(
            f"unfolding is {unfolding}; expected an integer ≥ 0, the number of steps after the first to try at most"
        )
    if not isinstance(images, Tensor) or images.dtype not in (torch.float32, torch.float64):
        kind = images.dtype if isinstance(images, Tensor) else kind_of(images)
        raise ValueError(f"the images are {kind}; expected a float32 or float64 tensor, the input of the network")
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
        raise ValueError(f"the labels have shape {tuple(labels.shape)}; expected ({len(images)},), one per image")


def _trace(model: nn.Module, inputs: tuple[Tensor, ...], pursuits: bool) -> TracedModel:
    """Return the layers that the images pass, and the modules that are not read."""
    if pursuits and len(inputs) > 1:
        raise ValueError(f"images are {len(inputs)} tensors; expected one, the input of this library's networks")
    try:
        return trace_pursuit_layers(model, inputs[0]) if pursuits else trace_torch_layers(model, *inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
        raise ValueError(
            f"the model does not take images of shape {shapes}: {str(error).strip().splitlines()[0]}"
        ) from error


def _interpret(traces: list[tuple[str, LayerTrace]]) -> tuple[list[InterpretedLayer], list[tuple[str, str]]]:
    """Return the interpreted layers, each linked to the one whose code is its input, and the unreadable ones."""
    layers: list[InterpretedLayer] = []
    unreadable, place = [], dict[int, int]()
    for index, (name, trace) in enumerate(traces):
        input_layer = None if trace.input_layer is None else place.get(trace.input_layer)
        for values in (trace.signals[-1], trace.codes[-1]):
            if not values.isfinite().all():
                raise ValueError(f"the layer {name} has infinite or undefined values on these images; nothing was read")
        try:
            interpreted = interpret(replace(trace, input_layer=input_layer), name)
        except UnreadableError as error:
            unreadable.append((name, str(error)))
            continue
        place[index] = len(layers)
        layers.append(interpreted)
    return layers, unreadable


def _measure(
    interpreted: list[InterpretedLayer], budget: SolverBudget, advance: Advance
) -> tuple[tuple[Layer, ...], dict[PursuitLayer, MeasuredLayer]]:
    """Return the measurements of every layer, and its solution, from which other numbers of steps start."""
    layers, known = [], {}
    for layer in interpreted:
        solution = solve_lasso(layer.problem.first(budget.images), budget.steps, budget.tol)
        layers.append(measure(layer, solution, budget.further))
        known[layer.layer] = MeasuredLayer(layers[-1].solving.gap[0], solution.code, layer.problem.lipschitz)
        advance(1)
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
        finite = all(math.isfinite(n) for n in norms)
        factor = float(theory.layered_error_bound(1.0, norms, mus)[-1]) if finite else math.inf
        yield factor if math.isfinite(factor) else None
