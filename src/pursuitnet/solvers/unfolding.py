"""A fixed number of steps, as a network takes them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pursuitnet.dictionaries import Code
from pursuitnet.memory import Again, in_turn
from pursuitnet.solvers.proximal import Solver, State


def unfold(
    solver: Solver,
    update: Callable[..., Code],
    code: Code,
    steps: int,
    again: Again | None = None,
    given: tuple[Any, ...] = (),
) -> Code:
    """Return the code that a solver reaches from another one in so many steps.

    Args:
        solver: ISTA() or FISTA().
        update: the map (number of the step, probe, *given) → code.
        code: where to begin.
        steps: how many; the first one has number 1.
        again: as in ``memory.in_turn``.
        given: the signal, and what else every update is handed.
    """
    chain = [partial(_one, solver, update, step) for step in range(1, steps + 1)]
    return in_turn(chain, solver.init(code), again, given, together=2).code


def _one(solver: Solver, update: Callable[..., Code], step: int, state: State, *given: Any) -> State:
    return solver.step(lambda probe: update(step, probe, *given), state)
