"""Iterative hard thresholding for (P0)."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.iterations.proximal import Certificate
from pursuitnet.problems.lasso import Lasso
from pursuitnet.problems.projection import conjugate_gradients

SETTLED = 5
"""Steps without a change of any support after which codes are fitted on their supports."""


@dataclass(frozen=True)
class IHT:
    """Iterative hard thresholding: Γ ← H(Γ + c·Dᵀ(x − DΓ)), after Blumensath and Davies (2008).

    With ``nonzeros``, H keeps that many entries of each example, the largest: min ½‖x − DΓ‖² with so many non-zeros.
    Without, it keeps the entries with |z| > √(2βc), which minimizes ½‖x − DΓ‖² + β‖Γ‖₀. With c ≤ 1/λmax(DᵀD) the
    objective never rises, and ends at a fixed point, which is the least-squares fit on its own support.

    A fixed point has no certificate, and ``Solution.gap`` is NaN: (P0) is not convex, its convex dual is that of
    another problem, and deciding whether a fixed point is the minimum is as hard as (P0). Another start may lead to a
    lower objective; the code of (P1) is a good one. From zero, entries enter only where |dⱼᵀx| > √(2βL).

    Attributes:
        nonzeros: number of non-zeros to keep in each example; None for a penalty β‖Γ‖₀.
        debias: fit the code on its support by least squares once it settles: where the steps lead, only faster.

    Example:
        >>> import torch
        >>> import pursuitnet as pn
        >>> x, D = torch.tensor([[3.0, -2.0, 0.5]]), pn.LinearDictionary(torch.eye(3))
        >>> pn.solve(x, D, beta=1.0, solver=pn.IHT()).code.tolist()  # |z| > √2, and no shrinkage
        [[3.0, -2.0, 0.0]]
    """

    whole_problem: ClassVar[bool] = True
    nonzeros: int | None = None
    debias: bool = True

    def __post_init__(self) -> None:
        if self.nonzeros is not None and (type(self.nonzeros) is not int or self.nonzeros < 1):
            raise ValueError(f"nonzeros is {self.nonzeros!r}; expected an integer ≥ 1, or None for a penalty β‖Γ‖₀")
        if not isinstance(self.debias, bool):
            raise ValueError(f"debias is {self.debias!r}; expected True or False")

    @torch.no_grad()
    def run(self, problem: Lasso, start: Code, max_steps: int, tol: float) -> "HardThresholded":
        """Return the code, how it was reached, and which examples are at a fixed point.

        Args:
            problem: the signal, the dictionary and β.
            start: the initial code, in parts.
            max_steps: maximum number of steps.
            tol: a fixed point changes in a step by at most this, relative to its norm, and keeps its support.
        """
        own = ZeroNorm.of(problem, self.nonzeros)
        code, objectives = start, [own.objective(start)]
        met = torch.zeros_like(objectives[0], dtype=torch.bool)
        settled = steps = 0  # for so many steps no support has changed
        while steps < max_steps and not bool(met.all()):
            new = own(code)
            same, met = _compared(code, new, tol)
            code, steps = new, steps + 1
            settled = settled + 1 if bool(same.all()) else 0
            if settled == SETTLED and self.debias:
                code, met = own.debiased(code), torch.zeros_like(met)  # the next step confirms it, or goes on
            objectives.append(own.objective(code))
        return HardThresholded(code, steps, met, objectives)


class HardThresholded(NamedTuple):
    """A code in parts, the number of steps, which examples are at a fixed point, and the objective of every step."""

    code: Code
    steps: int
    met: Tensor
    objectives: list[Tensor]


@dataclass(frozen=True)
class ZeroNorm(Lasso):
    """(P0) with the constraint or the penalty of ``IHT``; calling it is one step of hard thresholding.

    Attributes:
        nonzeros: number of non-zeros of each example; None for a penalty β‖Γ‖₀.
    """

    nonzeros: int | None = None

    @staticmethod
    def of(problem: Lasso, nonzeros: int | None) -> "ZeroNorm":
        """Return (P0) for the signal, dictionary and β of (P1)."""
        return ZeroNorm(
            problem.signal, problem.dictionary, problem.beta, problem.nonnegative, problem.step, nonzeros=nonzeros
        )

    def threshold(self, z: Code, step: Tensor) -> Code:
        """Return the hard threshold of z, in parts."""
        z = tuple(part.clamp(min=0) for part in z) if self.nonnegative else z
        if self.nonzeros is None:
            return tuple(
                torch.where(part.square() > 2 * step * b, part, 0.0) for part, b in zip(z, self.beta, strict=True)
            )
        whole = self.dictionary.join(z)
        flat = whole.flatten(1)
        kept = flat.abs().topk(min(self.nonzeros, flat.shape[1]), dim=1).indices
        mask = torch.zeros_like(flat).scatter(1, kept, 1.0)
        return self.dictionary.split((flat * mask).view_as(whole))

    def penalty(self, code: Code) -> Float[Tensor, " B"]:
        """Return β‖Γ‖₀ of each example, in float64."""
        parts = [(b * (c != 0)).flatten(1).sum(1, dtype=torch.float64) for c, b in zip(code, self.beta, strict=True)]
        return torch.stack(parts).sum(0)

    def objective(self, code: Code) -> Float[Tensor, " B"]:
        """Return ½‖x − DΓ‖² + β‖Γ‖₀ of each example, in float64."""
        return 0.5 * self.residual(code).flatten(1).double().square().sum(1) + self.penalty(code)

    def certificate(self, code: Code, residual: Tensor | None = None, dual: Tensor | None = None) -> Certificate:
        """Return the objective with a gap of NaN, since there is none."""
        objective = self.objective(code)
        return Certificate(objective, torch.full_like(objective, torch.nan), ())

    def debiased(self, code: Code) -> Code:
        """Return the least-squares fit on the support of each example; for Γ ≥ 0, where that is not negative."""
        D, x = self.dictionary, self.signal
        whole = D.join(code)
        mask = (whole != 0).to(whole.dtype)

        def gram(v: Tensor) -> Tensor:
            return mask * D.analyze(D.synthesize(v, x.shape))

        fitted = whole + conjugate_gradients(gram, mask * D.analyze(self.residual(code)))
        valid = fitted.isfinite().flatten(1).all(1)
        valid &= (fitted >= 0).flatten(1).all(1) if self.nonnegative else valid
        return D.split(torch.where(valid.view(-1, *[1] * (whole.dim() - 1)), fitted, whole))


def _compared(code: Code, new: Code, tol: float) -> tuple[Tensor, Tensor]:
    """Return which examples a step leaves on their support, and which of these it moves by at most tol of the norm."""
    moved = torch.stack([(n - c).flatten(1).square().sum(1) for c, n in zip(code, new, strict=True)]).sum(0)
    size = torch.stack([n.flatten(1).square().sum(1) for n in new]).sum(0)
    parts = [((c != 0) == (n != 0)).flatten(1).all(1) for c, n in zip(code, new, strict=True)]
    same = torch.stack(parts).all(0)
    return same, same & (moved <= tol**2 * size)
