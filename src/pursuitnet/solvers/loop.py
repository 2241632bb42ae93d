"""The loop that runs a solver to a certificate."""

from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.problems import Certificate
from pursuitnet.solvers.proximal import Solver, State


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


class Run(NamedTuple):
    """Where a run ended: the code in parts, its certificate, the steps, and the certificate of every step."""

    code: Code
    certificate: Certificate
    steps: int
    trace: list[Certificate]


def iterate(
    problem: P,
    solver: Solver | ProblemSolver[P],
    code: Code,
    max_steps: int,
    tol: float,
    *,
    restart: bool = True,
    trace: bool = False,
) -> Run:
    """Run a solver until the gap of every example is at most tol, or for max_steps.

    A certificate costs about a step, so that it is made in every step at first, and less and less often up to every
    tenth.

    Args:
        problem: what is to be solved.
        solver: how.
        code: where to begin, in parts.
        max_steps: the most steps to take.
        tol: the relative gap to reach.
        restart: set the momentum back in examples where it points uphill.
        trace: keep the certificate of every step.
    """
    state, certificates, due = solver.init(code), [], 0
    if restart:
        state = state._replace(momentum=code[0].new_ones(len(code[0]), *[1] * (code[0].dim() - 1)))
    for step in range(max_steps + 1):
        if step in (due, max_steps) or trace:
            certificate = state.certificate or problem.certificate(state.code)
            certificates.append(certificate._replace(correlation=()))
            if bool((certificate.gap <= tol).all()):
                break
            due = step + min(10, 1 + step // 2)
        if step < max_steps:
            state = solver.step(problem, state)
            state = restarted(state) if restart else state
    return Run(state.code, certificate, step, certificates if trace else [])


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
