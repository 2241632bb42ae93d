"""A solver that solves a sequence of small problems."""

from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from pursuitnet.dictionaries import Code
from pursuitnet.dictionaries.base import _lanczos
from pursuitnet.dictionaries.sparse import Columns
from pursuitnet.iterations.proximal import FISTA, ISTA, Solver, State
from pursuitnet.problems.admm import ADMM
from pursuitnet.problems.lasso import Lasso
from pursuitnet.problems.loop import iterate


@dataclass(frozen=True)
class WorkingSet:
    """Solves (P1) over the columns in use and those that violate optimality most, then chooses these columns again.

    A column of a convolutional D reaches few entries of the signal, so a step over few columns costs a fraction of one
    with all of D; the gap is always that of the whole problem. After Johnson and Guestrin (2015) and Massias, Gramfort
    and Salmon (2018).

    Attributes:
        least: minimum number of columns to add, in units of the number of columns that fit into the signal without
            overlap.
        accuracy: relative gap of each small problem, as a fraction of the gap of the whole one before it.
        max_steps: maximum number of steps of each small problem.
        initial_solver: solver of the whole problem that runs first, such as ADMM() for codes that are not very sparse,
            and leaves the first working set; None begins at the given code.
        initial_tol: relative gap at which it ends.
    """

    whole_problem: ClassVar[bool] = True
    least: float = 8.0
    accuracy: float = 0.1
    max_steps: int = 500
    initial_solver: Solver | ADMM | None = None
    initial_tol: float = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.least, Real) or not self.least >= 0:
            raise ValueError(f"least is {self.least!r}; expected a number ≥ 0")
        if not isinstance(self.accuracy, Real) or not 0 < self.accuracy < 1:
            raise ValueError(f"accuracy is {self.accuracy!r}; expected a number between 0 and 1")
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps!r}; expected an integer ≥ 1")
        if not isinstance(self.initial_solver, ISTA | FISTA | ADMM | None):
            raise TypeError(f"initial_solver is {self.initial_solver!r}; expected ADMM(), FISTA(), ISTA() or None")
        if isinstance(self.initial_tol, bool) or not isinstance(self.initial_tol, Real) or not 0 < self.initial_tol < 1:
            raise ValueError(f"initial_tol is {self.initial_tol!r}; expected a number between 0 and 1")

    def init(self, code: Code) -> State:
        return State(code)

    def step(self, problem: Lasso, state: State) -> State:
        """Solve over the next working set."""
        before = state.certificate or problem.certificate(state.code)
        D, code = problem.dictionary, problem.dictionary.join(state.code)
        chosen = self._choose(problem, code, D.join(before.correlation))
        small = _restrict(problem, code, chosen)
        tol = max(self.accuracy * float(before.gap.max()), 4 * torch.finfo(code.dtype).eps)
        (solution,) = self._solve(small, code.flatten()[None, chosen], tol)
        new = D.split(code.new_zeros(code.numel()).index_copy(0, chosen, solution[0]).view(code.shape))
        residual = small.residual((solution,)).view_as(problem.signal)
        return State(new, certificate=problem.certificate(new, residual))

    def _solve(self, small: Lasso, code: Tensor, tol: float) -> Code:
        """Return the code of a small problem.

        λmax of few columns is a fraction of that of all columns, its bound. It is estimated first; if the estimate was
        too low for descent, the bound is used.
        """
        largest = _estimated_lipschitz(small)
        long_steps = replace(small, step=small.step.clamp(min=1 / (1.1 * max(largest, torch.finfo(code.dtype).tiny))))
        run = iterate(long_steps, FISTA(), (code,), self.max_steps, tol)
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
        return torch.cat([used.nonzero()[:, 0], wanted[most]]).sort().values  # neighbors are contiguous in memory


def _estimated_lipschitz(small: Lasso) -> float:
    """Return an estimate of λmax(DᵀD) of some columns from below, usually to a percent, at the cost of ten steps."""
    D = small.dictionary
    generator = torch.Generator("cpu").manual_seed(0)
    start = torch.randn(1, D.code_channels[0], generator=generator, device="cpu").to(small.signal)
    return _lanczos(lambda v: D.analyze(D.synthesize(v, small.signal.shape)), start, most=10)


def _taps(problem: Lasso) -> int:
    """Return the number of signal entries that a column reaches."""
    first = torch.zeros(1, dtype=torch.long, device=problem.signal.device)
    return problem.dictionary.columns(first, problem.signal.shape)[0].shape[1]


def _whole_beta(problem: Lasso, code: Tensor) -> Tensor:
    """Return β in the shape of the code, expanded without copies where possible."""
    parts = zip(problem.beta, problem.dictionary.split(code), strict=True)
    betas = [b.expand_as(c) for b, c in parts]
    return betas[0] if len(betas) == 1 else problem.dictionary.join(tuple(betas))


def _restrict(problem: Lasso, code: Tensor, chosen: Int[Tensor, " n"]) -> Lasso:
    """Return (P1) over the chosen columns of all examples, as one problem of one example."""
    signal, one = problem.signal, code[0].numel()
    places, values = problem.dictionary.columns(chosen % one, signal.shape)
    columns = Columns(places + (chosen // one)[:, None] * signal[0].numel(), values.detach(), signal.numel())
    beta = _whole_beta(problem, code).take(chosen)[None]
    return problem.over(columns, beta)
