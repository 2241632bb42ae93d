"""Factor 3, how often the update is repeated and with which momentum: ISTA and FISTA as ``init`` and ``step``.

A solver never sees the dictionary. It is handed ``update``, the map probe → P_θ( probe − c·Dᵀ(D·probe − x) ) of one
layer (or the whole sweep over several), and decides only at which probe to evaluate it next.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pursuitnet.dictionaries import Code

Update = Callable[[Code], Code]


class State(NamedTuple):
    """What a solver carries from step to step; ``code`` is the running Γ."""

    code: Code
    previous: Code
    momentum: float = 1.0


class Solver(Protocol):
    """The two functions a solver consists of."""

    def init(self, code: Code) -> State:
        """Begin at the code that the first step returned."""

    def step(self, update: Update, state: State) -> State:
        """Make one further step."""


@dataclass(frozen=True)
class ISTA:
    """Γᵏ⁺¹ = update(Γᵏ): Eq. 1 and Algorithm 2 of the paper."""

    def init(self, code: Code) -> State:
        return State(code, code)

    def step(self, update: Update, state: State) -> State:
        return State(update(state.code), state.code)


@dataclass(frozen=True)
class FISTA:
    """Γᵏ⁺¹ = update(Γᵏ + (tₖ − 1)/tₖ₊₁ · (Γᵏ − Γᵏ⁻¹)): Algorithm 3 of the paper, after Beck and Teboulle (2009).

    The first weight is 0, so unfolding 0 and 1 equal ISTA.
    """

    def init(self, code: Code) -> State:
        return State(code, code)

    def step(self, update: Update, state: State) -> State:
        momentum = (1 + math.sqrt(1 + 4 * state.momentum**2)) / 2
        weight = (state.momentum - 1) / momentum
        probe = state.code
        if weight:  # the first extrapolation is none at all
            probe = tuple(new + weight * (new - old) for new, old in zip(*state[:2], strict=True))
        return State(update(probe), state.code, momentum)
