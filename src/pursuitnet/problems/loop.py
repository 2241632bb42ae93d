"""The loop that runs a solver to a certificate."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Certificate, Solver, State


class Problem(Protocol):
    """What a solver can be run on: an update, and a certificate of a code."""

    def __call__(self, probe: Code) -> Code:
        """Return the update at a probe."""

    def certificate(self, code: Code) -> Certificate:
        """Return how far a code is from the optimum."""


P = TypeVar("P", bound=Problem)
Q = TypeVar("Q", bound=Problem, contravariant=True)


class ProblemSolver(Protocol[Q]):
    """A solver that uses the problem itself and not only its update."""

    def init(self, code: Code) -> State:
        """Return the state at an initial code."""

    def step(self, problem: Q, state: State) -> State:
        """Return the state after one more step."""


Reason = Literal["converged", "max_steps", "stalled"]


class SolverResult(NamedTuple):
    """The last code in parts, its certificate, the number of steps, the trace of certificates, and why it stopped."""

    code: Code
    certificate: Certificate
    steps: int
    trace: list[Certificate]
    reason: Reason


def iterate(
    problem: P,
    solver: Solver | ProblemSolver[P],
    code: Code,
    max_steps: int,
    tol: float,
    *,
    restart: bool = True,
    trace: bool = False,
    every: int = 10,
) -> SolverResult:
    """Run a solver until the gap of every example is at most tol, or has stalled, or for max_steps.

    A certificate costs about as much as a step, so it is computed in every step at first, and then less and less often,
    down to every tenth step. Where the solver itself computes certificates, each is checked.

    Args:
        problem: the problem to solve.
        solver: the solver.
        code: the initial code, in parts.
        max_steps: maximum number of steps.
        tol: the relative gap to reach; 0 takes max_steps, unless the gap is 0 itself.
        restart: reset the momentum of examples where it points uphill.
        trace: keep the certificate of every step.
        every: maximum number of steps from one certificate to the next.
    """
    state, certificates, due = solver.init(code), [], 0
    stopping = StoppingRule(tol, torch.finfo(code[0].dtype).eps)
    reason: Reason = "max_steps"
    if restart:
        state = state._replace(momentum=code[0].new_ones(len(code[0]), *[1] * (code[0].dim() - 1)))
    for step in range(max_steps + 1):
        if state.certificate or step in (due, max_steps) or trace:
            certificate = state.certificate or problem.certificate(state.code)
            certificates.append(certificate._replace(correlation=()))
            if stop := stopping.reason(certificate, step, state.certificate is not None):
                reason = stop
                break
            due = step + min(every, 1 + step // 2)
            state = state if step else state._replace(certificate=certificate)  # the first working set needs it
        if step < max_steps:
            after = solver.step(problem, state)
            stale = state.certificate is not None and after.certificate is state.certificate  # of the previous code
            state = after._replace(certificate=None) if stale else after
            state = restarted(state) if restart else state
    return SolverResult(state.code, certificate, step, certificates if trace else [], reason)


@dataclass
class StoppingRule:
    """Decides when a run stops, and why.

    A run has stalled if in none of its unfinished examples the gap or the objective has decreased, beyond rounding, for
    a number of steps (the patience): the certificate cannot improve further in this number format. The patience is 100
    steps plus twice the steps before them, since momentum may lead uphill for long; it is 3 for a solver that computes
    a certificate in every step, since its steps are large. With tol = 0 all steps are taken, and only a gap of 0 stops
    the run.

    Attributes:
        tol: the gap to reach.
        eps: the relative rounding of the code's type.
        best: the smallest objective and gap of every example.
        last: the last step in which one of them decreased.
    """

    tol: float
    eps: float
    best: tuple[Tensor, Tensor] | None = None
    last: int = 0

    def reason(self, certificate: Certificate, step: int, at_hand: bool) -> Reason | None:
        """Return why to stop at a certificate, or None to continue."""
        objective, gap, _ = certificate
        unfinished = gap > self.tol
        if not bool(unfinished.any()):
            return "converged"
        best_objective, best_gap = self.best or (objective.new_full((), torch.inf), gap.new_full((), torch.inf))
        if bool((unfinished & ((objective < (1 - self.eps) * best_objective) | (gap < 0.99 * best_gap))).any()):
            self.last = step
        self.best = objective.minimum(best_objective), gap.minimum(best_gap)
        patience = 3 if at_hand else 100 + 2 * self.last
        return "stalled" if self.tol > 0 and step - self.last >= patience else None


def restarted(state: State) -> State:
    """Reset the momentum of examples where it points uphill (O'Donoghue and Candès, 2015).

    (probe − Γᵏ⁺¹)/c is the gradient mapping at the probe; where ⟨probe − Γᵏ⁺¹, Γᵏ⁺¹ − Γᵏ⟩ > 0 the step points against
    descent.
    """
    if state.probe is None or not isinstance(state.momentum, Tensor):
        return state
    axes = tuple(range(1, state.momentum.dim()))
    products = [
        ((p - new) * (new - old)).sum(axes, keepdim=True)
        for p, new, old in zip(state.probe, state.code, state.previous, strict=True)
    ]
    return state._replace(momentum=state.momentum.masked_fill(sum(products[1:], products[0]) > 0, 1.0))
