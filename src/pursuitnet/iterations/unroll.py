"""A fixed number of solver steps, as in a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Solver, State


def unroll(solver: Solver, update: Callable[..., Code], steps: int) -> list[Callable[..., State]]:
    """Return the steps of a solver after its first code, as a chain for ``checkpointed_scan``.

    Args:
        solver: ISTA() or FISTA().
        update: the map (number of the step, probe, *given) → code.
        steps: number of steps; the first has number 1.
    """
    return [partial(_step, solver, update, step) for step in range(1, steps + 1)]


def _step(solver: Solver, update: Callable[..., Code], step: int, state: State, *given: Any) -> State:
    # no step in a network uses the last probe, and keeping it would take the memory of a code
    return solver.step(lambda probe: update(step, probe, *given), state)._replace(probe=None)
