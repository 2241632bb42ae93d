"""The loop that runs a solver to a certificate."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Certificate, Solver, State


class Problem(Protocol):
    """What can be run: an update, and a certificate of the code it has led to."""

    def __call__(self, probe: Code) -> Code:
        """Return the update at a probe."""

    def certificate(self, code: Code) -> Certificate:
        """Return how far a code is from the optimum."""


P = TypeVar("P", bound=Problem)
Q = TypeVar("Q", bound=Problem, contravariant=True)


class ProblemSolver(Protocol[Q]):
    """A solver that looks at the problem itself and not only at its update."""

    def init(self, code: Code) -> State:
        """Begin at a code."""

    def step(self, problem: Q, state: State) -> State:
        """Make one further step."""


Reason = Literal["converged", "max_steps", "stalled"]


class SolverResult(NamedTuple):
    """Where a run ended: the code in parts, its certificate, the steps, the certificate of every step, and why."""

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
    """Run a solver until the gap of every example is at most tol, or can fall no further, or for max_steps.

    A certificate costs about a step, so that it is made in every step at first, and less and less often up to every
    tenth; where a solver has it at hand, it is looked at in every step.

    Args:
        problem: what is to be solved.
        solver: how.
        code: where to begin, in parts.
        max_steps: the most steps to take.
        tol: the relative gap to reach; 0 takes max_steps, unless the gap is 0 itself.
        restart: set the momentum back in examples where it points uphill.
        trace: keep the certificate of every step.
        every: the most steps from one certificate to the next.
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
            if ended := stopping.reason(certificate, step, state.certificate is not None):
                reason = ended
                break
            due = step + min(every, 1 + step // 2)
            state = state if step else state._replace(certificate=certificate)  # a first working set asks for it
        if step < max_steps:
            after = solver.step(problem, state)
            stale = state.certificate is not None and after.certificate is state.certificate  # of the code before
            state = after._replace(certificate=None) if stale else after
            state = restarted(state) if restart else state
    return SolverResult(state.code, certificate, step, certificates if trace else [], reason)


@dataclass
class StoppingRule:
    """Tells why a run may end.

    A run has stalled if for some while neither a gap nor an objective that has not got there has become smaller, beyond
    rounding: in this number format the certificate can improve no further. That while is 100 steps and twice all
    before them, since a momentum may lead uphill for long; of a solver that has a certificate at hand in every step,
    and so makes large ones, three. With tol = 0 a number of steps is asked for, and only a gap of 0 ends the run.

    Attributes:
        tol: the gap to reach.
        eps: the relative rounding of the code's type.
        best: the smallest objective and gap of every example.
        last: the last step in which one of them became smaller.
    """

    tol: float
    eps: float
    best: tuple[Tensor, Tensor] | None = None
    last: int = 0

    def reason(self, certificate: Certificate, step: int, at_hand: bool) -> Reason | None:
        """Return why to end at a certificate, or None to go on."""
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
    """Set the momentum back to rest in examples where it points uphill (O'Donoghue and Candès, 2015).

    (probe − Γᵏ⁺¹)/c is the gradient mapping at the probe; where ⟨probe − Γᵏ⁺¹, Γᵏ⁺¹ − Γᵏ⟩ > 0 the step has gone
    against it.
    """
    if state.probe is None or not isinstance(state.momentum, Tensor):
        return state
    ahead = [
        ((p - new) * (new - old)).flatten(1).sum(1)
        for p, new, old in zip(state.probe, state.code, state.previous, strict=True)
    ]
    uphill = (torch.stack(ahead).sum(0) > 0).view_as(state.momentum)
    momentum = torch.where(uphill, 1.0, state.momentum)
    return state._replace(momentum=momentum)
