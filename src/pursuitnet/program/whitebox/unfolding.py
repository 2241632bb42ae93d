"""The network itself with another number of steps, without training it again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pursuitnet.dictionaries import Code
from pursuitnet.layer import PursuitLayer
from pursuitnet.multilayer import unfolded, with_unfolding
from pursuitnet.program.trace import LayerTrace, trace_layers
from pursuitnet.program.train.trainer import accuracy, logits_of
from pursuitnet.program.whitebox.interpret import UnreadableError, read
from pursuitnet.program.whitebox.layers import SolverBudget, Spread
from pursuitnet.program.whitebox.problem import relative, solved

FAR = 1000.0
"""P(Γ)/P(0) from which on the gap is 1, to three digits, whatever the minimum is."""


class MeasuredLayer(NamedTuple):
    """What has been found of a layer with the network's own number of steps: its gap, Γ* in parts, and L."""

    gap: float | None
    solution: Code
    lipschitz: float


@dataclass(frozen=True)
class AtSteps:
    """The network with another number of steps.

    Attributes:
        unfolding: steps, or sweeps, after the first, in every pursuit that ``unfolded`` names.
        trained: whether the network came with that number.
        accuracy: share of the labeled images that it recognizes; None without any, or where its output overflows.
        gap: median over the layers of the most that can be missing, (P(Γ) − the best proven bound)/P(Γ).
        gaps: of every layer, median over images; None where its code overflows or it cannot be read.
    """

    unfolding: int
    trained: bool
    accuracy: float | None
    gap: float | None
    gaps: tuple[float | None, ...]


@torch.no_grad()
def at_steps(
    model: nn.Module,
    images: Tensor,
    labeled: tuple[Tensor, Tensor] | None,
    most: int,
    effort: SolverBudget,
    known: dict[PursuitLayer, MeasuredLayer],
) -> Iterator[AtSteps]:
    """Yield the network with 0, 1, …, most steps after the first; it is left with its own number.

    The statistics of batch normalization beyond the trained steps are those of the last one (see ``Threshold``).
    With its own number the gaps are those that are known; the other Lassos are solved from the known solutions.
    """
    trained = {pursuit.unfolding for pursuit in unfolded(model)}
    for k in range(most + 1):
        with with_unfolding(model, k):
            traces, own = trace_layers(model, images[: effort.images]), {k} == trained
            gaps = tuple(_gap(at, effort, known.get(at.layer), own) for at in traces)
            accuracy = _accuracy(model, labeled)
        there = torch.tensor([gap for gap in gaps if gap is not None])
        yield AtSteps(k, own, accuracy, Spread.of(there).median, gaps)


def _gap(at: LayerTrace, effort: SolverBudget, known: MeasuredLayer | None, own: bool) -> float | None:
    if known is None or own:
        return known.gap if known else None
    if not (at.signals[-1].isfinite().all() and at.codes[-1].isfinite().all()):
        return None
    try:
        found = read(at, "", known.lipschitz)
    except UnreadableError:
        return None
    problem = found.problem
    here = problem.certificate(found.dictionary.split(found.code))
    if bool((here.objective > FAR * 0.5 * found.signal.flatten(1).double().square().sum(1)).all()):
        return 1.0
    solution = solved(problem, effort.steps, effort.tol, known.solution)
    bound = solution.bound.maximum(here.objective * (1 - here.gap))
    return Spread.of(relative(here.objective - bound, here.objective)).median


def _accuracy(model: nn.Module, labeled: tuple[Tensor, Tensor] | None, size: int = 250) -> float | None:
    if labeled is None:
        return None
    logits = logits_of(model, labeled[0], size=size)
    return accuracy(logits, labeled[1]) if logits.isfinite().all() else None
