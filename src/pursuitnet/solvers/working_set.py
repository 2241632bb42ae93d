"""A solver that steps from one small problem to the next."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.problems import Lasso
from pursuitnet.solvers.loop import iterate
from pursuitnet.solvers.proximal import FISTA, State


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
        (found,) = iterate(small, FISTA(), (code.flatten()[None, chosen],), self.max_steps, tol).code
        new = D.split(code.new_zeros(code.numel()).index_copy(0, chosen, found[0]).view(code.shape))
        residual = small.residual((found,)).view_as(problem.signal)
        return State(new, certificate=problem.certificate(new, residual))

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
        return torch.cat([used.nonzero()[:, 0], wanted[most]]).sort().values  # neighbours side by side in memory


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


class Columns(Dictionary):
    """Some columns of a dictionary, as a sparse matrix and its transpose.

    Args:
        places: where each column reaches, (n, taps).
        values: its values there, (n, taps).
        numel: size of the signal.
    """

    def __init__(self, places: Int[Tensor, "n taps"], values: Float[Tensor, "n taps"], numel: int) -> None:
        super().__init__()
        self.rows, self.channels = (len(places),), numel
        self.places, self.values = places, values
        # Without MKL some processors have no product of a sparse matrix and a vector.
        self.sparse = places.is_cuda or torch.backends.mkl.is_available()
        if self.sparse:
            flat, order = places.flatten().int(), places.flatten().argsort()
            rows = torch.arange(0, flat.numel() + 1, places.shape[1], device=places.device)
            reached = torch.bincount(flat, minlength=numel).cumsum(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # sparse rows are called beta; two products are all we ask of them
                self.analysis = _sparse(rows, flat, values.flatten(), numel)
                self.synthesis = _sparse(
                    F.pad(reached, (1, 0)), order // places.shape[1], values.flatten()[order], len(places)
                )

    def analyze(self, signal: Float[Tensor, "1 numel"]) -> Float[Tensor, "1 n"]:
        found = self.analysis @ signal[0] if self.sparse else (signal[0][self.places] * self.values).sum(1)
        return found[None]

    def synthesize(
        self, code: Float[Tensor, "1 n"], signal_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "1 numel"]:
        if self.sparse:
            return (self.synthesis @ code[0])[None]
        weighted = (code[0][:, None] * self.values).flatten()
        return code.new_zeros(self.channels).index_add(0, self.places.flatten(), weighted)[None]

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        return torch.linalg.matrix_norm(self.matrix(), 2) ** 2


def _sparse(ends: Tensor, columns: Tensor, values: Tensor, width: int) -> Tensor:
    """Return a sparse matrix in rows, of so many columns."""
    size = (len(ends) - 1, width)
    return torch.sparse_csr_tensor(ends.int(), columns.int(), values, size, device=values.device)
