"""A network with other numbers of steps, without training it again."""

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
from pursuitnet.program.whitebox.interpret import UnreadableError, interpret
from pursuitnet.program.whitebox.layers import SolverBudget, Spread
from pursuitnet.program.whitebox.problem import relative, solve_lasso

FAR = 1000.0
"""P(Γ)/P(0) from which the gap is 1 to three digits, whatever the minimum is."""


class MeasuredLayer(NamedTuple):
    """Measurements of a layer with the network's own number of steps: its gap, Γ* in parts, and L."""

    gap: float | None
    solution: Code
    lipschitz: float


@dataclass(frozen=True)
class AtSteps:
    """The network with another number of steps.

    Attributes:
        unfolding: steps, or sweeps, after the first, in every pursuit that ``unfolded`` names.
        trained: whether this is the network's own number.
        accuracy: fraction of labeled images classified correctly; None without any, or if the output overflows.
        gap: median over the layers of the upper bound of the gap, (P(Γ) − the best proven bound)/P(Γ).
        gaps: of every layer, median over images; None if its code overflows or it cannot be read.
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
    budget: SolverBudget,
    known: dict[PursuitLayer, MeasuredLayer],
) -> Iterator[AtSteps]:
    """Yield the measurements with 0, 1, …, ``most`` steps after the first; the network gets its own number back.

    The statistics of batch normalization beyond the trained steps are those of the last one (see ``Threshold``).
    With its own number the known gaps are used; the other Lassos are solved from the known solutions.
    """
    trained = {pursuit.unfolding for pursuit in unfolded(model)}
    for k in range(most + 1):
        with with_unfolding(model, k):
            traces, own = trace_layers(model, images[: budget.images]), {k} == trained
            gaps = tuple(_gap(trace, budget, known.get(trace.layer), own) for trace in traces)
            accuracy = _accuracy(model, labeled)
        finite = torch.tensor([gap for gap in gaps if gap is not None])
        yield AtSteps(k, own, accuracy, Spread.of(finite).median, gaps)


def _gap(trace: LayerTrace, budget: SolverBudget, known: MeasuredLayer | None, own: bool) -> float | None:
    if known is None or own:
        return known.gap if known else None
    if not (trace.signals[-1].isfinite().all() and trace.codes[-1].isfinite().all()):
        return None
    try:
        layer = interpret(trace, "", known.lipschitz)
    except UnreadableError:
        return None
    problem = layer.problem
    certificate = problem.certificate(layer.dictionary.split(layer.code))
    if bool((certificate.objective > FAR * 0.5 * layer.signal.flatten(1).double().square().sum(1)).all()):
        return 1.0
    solution = solve_lasso(problem, budget.steps, budget.tol, known.solution)
    bound = solution.bound.maximum(certificate.objective * (1 - certificate.gap))
    return Spread.of(relative(certificate.objective - bound, certificate.objective)).median


def _accuracy(model: nn.Module, labeled: tuple[Tensor, Tensor] | None, size: int = 250) -> float | None:
    if labeled is None:
        return None
    logits = logits_of(model, labeled[0], size=size)
    return accuracy(logits, labeled[1]) if logits.isfinite().all() else None
