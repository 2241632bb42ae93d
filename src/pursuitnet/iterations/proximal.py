"""ISTA and FISTA: they choose the probe at which the update is evaluated next.

Neither uses the dictionary itself. Each gets ``update``, the map probe → P_θ( probe − c·Dᵀ(D·probe − x) ) of one layer,
of a whole sweep over several, or of a problem to be solved.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pursuitnet.dictionaries import Code

Update = Callable[[Code], Code]


class Certificate(NamedTuple):
    """How far a code is from the optimum, per example.

    Attributes:
        objective: ½‖x − DΓ‖² + Σβ|Γ|, (B,), in float64.
        gap: (objective − a lower bound of the minimum)/objective, (B,), in float64; 0 where the objective is 0.
        correlation: Dᵀ(x − DΓ) in parts, which the certificate is computed from.
    """

    objective: Tensor
    gap: Tensor
    correlation: Code


class State(NamedTuple):
    """What a solver carries from step to step.

    Attributes:
        code: the current Γ.
        previous: the code one step earlier, for a solver that needs it.
        momentum: FISTA's t; a tensor (B, 1, …) where each example restarts by itself.
        probe: where the update was last evaluated, if the solver keeps it.
        certificate: that of the code, if the solver has computed it.
    """

    code: Code
    previous: Code = ()
    momentum: float | Tensor = 1.0
    probe: Code | None = None
    certificate: Certificate | None = None


class Solver(Protocol):
    """The two functions of a solver."""

    def init(self, code: Code) -> State:
        """Return the state at an initial code: that of the first step in a layer; zero or a guess in ``solve``."""

    def step(self, update: Update, state: State) -> State:
        """Return the state after one more step."""


@dataclass(frozen=True)
class ISTA:
    """Γᵏ⁺¹ = update(Γᵏ): Eq. 1 and Algorithm 2 of the paper."""

    def init(self, code: Code) -> State:
        return State(code)

    def step(self, update: Update, state: State) -> State:
        return State(update(state.code))


@dataclass(frozen=True)
class FISTA:
    """Γᵏ⁺¹ = update(Γᵏ + (tₖ − 1)/tₖ₊₁ · (Γᵏ − Γᵏ⁻¹)): Algorithm 3 of the paper, after Beck and Teboulle (2009).

    The first weight is 0, so unfolding 0 and 1 equal ISTA. ``solve`` restarts the momentum where it points uphill; a
    layer does not.
    """

    def init(self, code: Code) -> State:
        return State(code, code)

    def step(self, update: Update, state: State) -> State:
        t = state.momentum
        squared = t * t + 0.25
        momentum = 0.5 + (math.sqrt(squared) if isinstance(squared, float) else squared.sqrt())  # (1 + √(1 + 4t²))/2
        weight = (t - 1) / momentum
        probe = state.code
        if isinstance(weight, Tensor) or weight:  # the first step does not extrapolate
            probe = tuple(torch.lerp(old, new, 1 + weight) for new, old in zip(*state[:2], strict=True))
        return State(update(probe), state.code, momentum, probe)
