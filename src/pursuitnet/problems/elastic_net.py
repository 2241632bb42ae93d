"""(P1) with a ridge: the elastic net."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.problems.lasso import Lasso


@dataclass(frozen=True)
class ElasticNet(Lasso):
    """min ½‖x − DΓ‖² + Σβ|Γ| + ½·ridge·‖Γ‖² over all Γ, or over Γ ≥ 0 (Zou and Hastie, 2005).

    Strongly convex: its code is unique, and similar atoms share a coefficient.

    Attributes:
        ridge: its weight, > 0.
    """

    ridge: float

    @staticmethod
    def of(problem: Lasso, ridge: float) -> "ElasticNet":
        """Return (P1) with a ridge added."""
        return ElasticNet(problem.signal, problem.dictionary, problem.beta, problem.nonnegative, problem.step, ridge)

    def threshold(self, z: Code, step: Tensor) -> Code:
        return tuple(part / (1 + step * self.ridge) for part in super().threshold(z, step))

    def curvature(self) -> float:
        return self.ridge

    @torch.no_grad()
    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        """Return objective and duality gap.

        Here every u is a dual point: no code has an objective below ⟨x, u⟩ − ½‖u‖² − Σ(|dⱼᵀu| − βⱼ)₊²/(2·ridge). u
        is x − DΓ, which is best at the optimum, or the scaled one of ``Lasso``, where that is better.
        """
        plain = super().certificate(code, residual, dual)
        objective = plain.objective + 0.5 * self.ridge * sum_of_squares(code)
        u = dual if dual is not None else self.residual(code) if residual is None else residual
        bound = self._value_of_dual(u, plain.correlation).maximum(plain.objective * (1 - plain.gap))
        short = (objective - bound).clamp(min=0)
        return Certificate(objective, torch.where(objective > 0, short / objective, 0.0), plain.correlation)

    def _value_of_dual(self, u: Tensor, reply: Code) -> Float[Tensor, " B"]:
        """Return the value of a dual point, with Dᵀu in parts."""
        sizes = tuple(d if self.nonnegative else d.abs() for d in reply)
        excess = tuple((d - b).clamp(min=0) for d, b in zip(sizes, self.beta, strict=True))
        flat = u.flatten(1).double()
        overlap = (self.signal.flatten(1).double() * flat).sum(1)
        return overlap - 0.5 * flat.square().sum(1) - 0.5 / self.ridge * sum_of_squares(excess)


def sum_of_squares(code: Code) -> Float[Tensor, " B"]:
    """Return ‖Γ‖² of each example, in float64."""
    return torch.stack([part.flatten(1).double().square().sum(1) for part in code]).sum(0)
