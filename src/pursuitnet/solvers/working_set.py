"""A solver that steps from one small problem to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pursuitnet.dictionaries import Code, Dictionary
from pursuitnet.problems import Certificate, Lasso
from pursuitnet.solvers.loop import iterate
from pursuitnet.solvers.proximal import FISTA, State


@dataclass(frozen=True)
class WorkingSet:
    """Solves (P1) over the atoms in use and those that the residual asks for most, then asks the residual again.

    A column of a convolutional D touches few entries of the signal, so that a step over few columns costs a fraction
    of one with all of D; the gap is always that of the whole problem. After Johnson and Guestrin (2015) and Massias,
    Gramfort and Salmon (2018).

    Attributes:
        least: columns to add at least, per example; otherwise as many as are in use.
        accuracy: relative gap of each small problem, as a fraction of the whole one's before it.
        max_steps: steps that a small problem may take.
    """

    least: int = 100
    accuracy: float = 0.1
    max_steps: int = 500

    def init(self, code: Code) -> State:
        return State(code, code)

    def step(self, problem: Lasso, state: State) -> State:
        """Solve over the next working set."""
        before = state.certificate or problem.certificate(state.code)
        join, split = problem.dictionary.join, problem.dictionary.split
        chosen = self._choose(problem, state.code, before)
        small = _restrict(problem, state.code, chosen)
        code = join(state.code)
        tol = self.accuracy * float(before.gap.max())
        found = iterate(small, FISTA(), (code.flatten()[None, chosen],), self.max_steps, tol).code[0]
        full = split(torch.zeros_like(code).flatten().index_copy(0, chosen, found[0]).view_as(code))
        return State(full, state.code, certificate=problem.certificate(full))

    def _choose(self, problem: Lasso, code: Code, certificate: Certificate) -> Int[Tensor, " n"]:
        """Return the flat indices, batch included, of the columns in use and of those that violate optimality most."""
        parts = zip(code, certificate.correlation, problem.beta, strict=True)
        excess = problem.dictionary.join(
            tuple(torch.where(c != 0, torch.inf, (d if problem.nonnegative else d.abs()) - b) for c, d, b in parts)
        ).flatten()
        used = int(excess.isinf().sum())
        count = min(used + max(self.least * len(code[0]), used), int((excess > 0).sum()))
        return excess.topk(count, sorted=False).indices


def _restrict(problem: Lasso, code: Code, chosen: Int[Tensor, " n"]) -> Lasso:
    """Return (P1) over the chosen columns of all examples, which becomes one example."""
    signal, dictionary = problem.signal, problem.dictionary
    beta = dictionary.join(tuple(b.expand_as(c) for b, c in zip(problem.beta, code, strict=True)))
    example, column = chosen // beta[0].numel(), chosen % beta[0].numel()
    places, values = dictionary.columns(column, signal.shape)
    columns = Columns(places + example[:, None] * signal[0].numel(), values.detach(), signal.numel())
    return Lasso(signal.reshape(1, -1), columns, (beta.flatten()[None, chosen],), problem.nonnegative, problem.step)


class Columns(Dictionary):
    """Some columns of a dictionary: where each reaches and its values there, both (n, taps)."""

    def __init__(self, places: Int[Tensor, "n taps"], values: Float[Tensor, "n taps"], numel: int) -> None:
        super().__init__()
        self.places, self.values = places, values
        self.rows, self.channels = (len(places),), numel

    def analyze(self, signal: Float[Tensor, "1 numel"]) -> Float[Tensor, "1 n"]:
        return (signal[0][self.places] * self.values).sum(1)[None]

    def synthesize(
        self, code: Float[Tensor, "1 n"], signal_shape: Sequence[int] | None = None
    ) -> Float[Tensor, "1 numel"]:
        weighted = (code[0][:, None] * self.values).flatten()
        return code.new_zeros(self.channels).index_add(0, self.places.flatten(), weighted)[None]

    def lipschitz_bound(self) -> Float[Tensor, ""]:
        return torch.linalg.matrix_norm(self.matrix(), 2) ** 2
