"""A solver that steps from one small problem to the next."""

from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.dictionaries.base import _lanczos
from pursuitnet.dictionaries.sparse import Columns
from pursuitnet.iterations.proximal import FISTA, State
from pursuitnet.problems.lasso import Lasso
from pursuitnet.problems.loop import iterate


@dataclass(frozen=True)
class WorkingSet:
    """Solves (P1) over the atoms in use and those that the residual asks for most, then asks the residual again.

    A column of a convolutional D touches few entries of the signal, so that a step over few columns costs a fraction
    of one with all of D; the gap is always that of the whole problem. After Johnson and Guestrin (2015) and Massias,
    Gramfort and Salmon (2018).

    Attributes:
        least: columns to add at least, for each column that the signal has room for side by side.
        accuracy: relative gap of each small problem, as a fraction of the whole one's before it.
        max_steps: steps that a small problem may take.
    """

    whole_problem: ClassVar[bool] = True
    least: float = 8.0
    accuracy: float = 0.1
    max_steps: int = 500

    def __post_init__(self) -> None:
        if not isinstance(self.least, Real) or not self.least >= 0:
            raise ValueError(f"least is {self.least!r}; expected a number ≥ 0")
        if not isinstance(self.accuracy, Real) or not 0 < self.accuracy < 1:
            raise ValueError(f"accuracy is {self.accuracy!r}; expected a number between 0 and 1")
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps!r}; expected an integer ≥ 1")

    def init(self, code: Code) -> State:
        return State(code)

    def step(self, problem: Lasso, state: State) -> State:
        """Solve over the next working set."""
        before = state.certificate or problem.certificate(state.code)
        D, code = problem.dictionary, problem.dictionary.join(state.code)
        chosen = self._choose(problem, code, D.join(before.correlation))
        small = _restrict(problem, code, chosen)
        tol = max(self.accuracy * float(before.gap.max()), 4 * torch.finfo(code.dtype).eps)
        (found,) = self._solve(small, code.flatten()[None, chosen], tol)
        new = D.split(code.new_zeros(code.numel()).index_copy(0, chosen, found[0]).view(code.shape))
        residual = small.residual((found,)).view_as(problem.signal)
        return State(new, certificate=problem.certificate(new, residual))

    def _solve(self, small: Lasso, code: Tensor, tol: float) -> Code:
        """Return the code of a small problem.

        λmax of few columns is a fraction of that of all, which bounds it; it is estimated, and if that was too low to
        go downhill, the bound counts.
        """
        largest = _largest(small)
        long = replace(small, step=small.step.clamp(min=1 / (1.1 * max(largest, torch.finfo(code.dtype).tiny))))
        run = iterate(long, FISTA(), (code,), self.max_steps, tol)
        if bool(run.certificate.objective <= small.certificate((code,)).objective):
            return run.code
        return iterate(small, FISTA(), (code,), self.max_steps, tol).code

    def _choose(self, problem: Lasso, code: Tensor, correlation: Tensor) -> Int[Tensor, " n"]:
        """Return the flat indices, batch included, of the columns in use and of those that violate optimality most."""
        beta, used = _whole_beta(problem, code), (code != 0).flatten()
        wanted = (correlation > beta).flatten()
        if not problem.nonnegative:
            wanted |= (correlation < -beta).flatten()
        wanted = (wanted & ~used).nonzero()[:, 0]
        excess = correlation.flatten()[wanted].abs() - beta.take(wanted)
        least = int(self.least * problem.signal.numel() / _taps(problem))
        count = min(len(wanted), max(int(used.sum()), least, 10))
        most = excess.topk(count, sorted=False).indices
        return torch.cat([used.nonzero()[:, 0], wanted[most]]).sort().values  # neighbors side by side in memory


def _largest(small: Lasso) -> float:
    """Return λmax(DᵀD) of some columns from below, usually to a percent, for the price of ten steps."""
    D = small.dictionary
    generator = torch.Generator("cpu").manual_seed(0)
    start = torch.randn(1, D.code_channels[0], generator=generator, device="cpu").to(small.signal)
    return _lanczos(lambda v: D.analyze(D.synthesize(v, small.signal.shape)), start, most=10)


def _taps(problem: Lasso) -> int:
    """Return how many entries of the signal a column reaches."""
    first = torch.zeros(1, dtype=torch.long, device=problem.signal.device)
    return problem.dictionary.columns(first, problem.signal.shape)[0].shape[1]


def _whole_beta(problem: Lasso, code: Tensor) -> Tensor:
    """Return β in the shape of the code, without copies where it repeats."""
    parts = zip(problem.beta, problem.dictionary.split(code), strict=True)
    betas = [b.expand_as(c) for b, c in parts]
    return betas[0] if len(betas) == 1 else problem.dictionary.join(tuple(betas))


def _restrict(problem: Lasso, code: Tensor, chosen: Int[Tensor, " n"]) -> Lasso:
    """Return (P1) over the chosen columns of all examples, which becomes one example."""
    signal, one = problem.signal, code[0].numel()
    places, values = problem.dictionary.columns(chosen % one, signal.shape)
    columns = Columns(places + (chosen // one)[:, None] * signal[0].numel(), values.detach(), signal.numel())
    beta = _whole_beta(problem, code).take(chosen)[None]
    return problem.over(columns, beta)
