"""A fixed number of steps, as a network takes them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Solver, State


def unroll(solver: Solver, update: Callable[..., Code], steps: int) -> list[Callable[..., State]]:
    """Return the steps that a solver takes from its first code on, as a chain for ``checkpointed_scan``.

    Args:
        solver: ISTA() or FISTA().
        update: the map (number of the step, probe, *given) → code.
        steps: how many; the first one has number 1.
    """
    return [partial(_step, solver, update, step) for step in range(1, steps + 1)]


def _step(solver: Solver, update: Callable[..., Code], step: int, state: State, *given: Any) -> State:
    # no step here asks where the last one was evaluated, and to keep it would take the memory of a code
    return solver.step(lambda probe: update(step, probe, *given), state)._replace(probe=None)
