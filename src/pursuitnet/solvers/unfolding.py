"""A fixed number of steps, as a network takes them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pursuitnet.dictionaries import Code
from pursuitnet.solvers.proximal import Solver, State

Again = Callable[..., Any]
"""Calls a function with arguments so that the backward pass calls it again, instead of keeping what it computed."""


def unfold(
    solver: Solver, update: Callable[[int, Code], Code], code: Code, steps: int, again: Again | None = None
) -> Code:
    """Return the code that a solver reaches from another one in so many steps.

    Args:
        solver: ISTA() or FISTA().
        update: the map (number of the step, probe) → code.
        code: where to begin.
        steps: how many; the first one has number 1.
        again: if given, the backward pass needs memory for about log₂(steps) codes instead of all, and computes a
            step up to log₂(steps) times again (recursive bisection: Griewank, 1992).
    """

    def go(state: State, first: int, end: int) -> State:
        if again is not None and end - first > 1:
            middle = (first + end) // 2
            return go(again(go, state, first, middle), middle, end)
        for step in range(first, end):
            state = solver.step(partial(update, step), state)
        return state

    return go(solver.init(code), 1, steps + 1).code
