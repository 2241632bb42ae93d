"""Learning in rounds over images that are all at hand."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.learning.atoms import Unexplained, improved, reseeded
from pursuitnet.problems.learning.codes import Coder, SparseCode, residual_of
from pursuitnet.problems.learning.filters import filters_of, in_unit_ball
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.journal import CodeTotals, Journal
from pursuitnet.problems.learning.statistics import SufficientStatistics

LOOSE = 1e-2
"""The gap of the first round's codes."""
EVERY = 5
"""Rounds from one certified report to the next, while codes need not be that exact."""
STEPS = 50
"""Steps over the filters in a round, at most."""
_STATE = ("iteration", "goal", "before", "momentum")


@dataclass
class AlternatingLearner:
    """Codes of all images, then filters for them, and so on.

    Attributes:
        dictionary: D, which is changed in place.
        batches: the images.
        coder: how codes are computed.
        journal: where it is reported to.
        kept: the codes of each batch.
        iteration: rounds that are done.
        goal: the gap of the next codes.
        before: the smallest objective so far.
        plain: filters without momentum.
        momentum: Nesterov's t.
    """

    dictionary: Dictionary
    batches: list[Batch]
    coder: Coder
    journal: Journal
    kept: list[SparseCode | None] = field(default_factory=list)
    iteration: int = 0
    goal: float = LOOSE
    before: float = torch.inf
    plain: Tensor | None = None
    momentum: float = 1.0

    def run(self, most: int, tol: float) -> tuple[CodeTotals, str]:
        """Go round until the objective falls by no more than tol, relatively, or most rounds are done."""
        self.kept = [None] * len(self.batches)
        self._resume()
        while True:
            last = self.iteration >= most
            certified = last or (self.iteration > 0 and self.iteration % EVERY == 0)
            tally, sums = self._codes(self.journal.gap if certified else max(self.goal, self.journal.gap))
            report = self.journal.tell(self.iteration, tally, self.dictionary)
            fall = (self.before - report.objective) / report.objective if report.objective else 0.0
            rises = fall < -report.gap
            settled = abs(fall) <= tol and self.goal <= self.journal.gap
            if last or (settled and not rises):
                return tally, "max_iterations" if last else "converged"
            self._move(sums, rises, report.objective, straight=self.iteration + 1 >= most)
            self.goal = max(self.journal.gap, min(self.goal, 0.3 * abs(fall)))
            self.iteration += 1
            self._keep()

    def _move(self, sums: SufficientStatistics, rises: bool, objective: float, straight: bool) -> None:
        """Go to filters that are better for the codes, and beyond them as the rounds before suggest.

        Rounds alone creep. Nesterov's momentum carries them, and where that has led uphill, what it was added to is
        taken instead, which is never worse than the round before.
        """
        weight = filters_of(self.dictionary).weight
        if rises and self.plain is not None and self.momentum > 1:
            weight.copy_(self.plain)
            self.momentum = 1.0
            return
        self._filters(sums)
        better = weight.clone()
        grown = (1 + (1 + 4 * self.momentum**2) ** 0.5) / 2
        if self.plain is not None and not straight:
            weight.copy_(in_unit_ball(better + (self.momentum - 1) / grown * (better - self.plain)))
        self.plain, self.momentum, self.before = better, grown, objective

    def codes(self) -> list[Tensor]:
        """Return the codes of all batches."""
        return [kept.dense() for kept in self.kept if kept is not None]

    def _codes(self, goal: float) -> tuple[CodeTotals, SufficientStatistics]:
        """Compute all codes to a gap, from those of before; return what they add up to."""
        tally, sums = CodeTotals(), SufficientStatistics.none(filters_of(self.dictionary))
        for i, batch in enumerate(self.batches):
            before = self.kept[i]
            coded = self.coder(self.dictionary, batch, goal, None if before is None else before.dense())
            self.kept[i] = SparseCode.of(self.dictionary.join(coded.code))
            tally.add(coded)
            sums = sums.plus(coded.sums(self.dictionary))
        return tally, sums

    def _filters(self, sums: SufficientStatistics) -> None:
        """Improve the filters for the codes, and replace those that no image uses."""
        filters = filters_of(self.dictionary)
        dead = sums.energies == 0
        filters.weight.copy_(improved(filters.weight, sums, STEPS))
        if bool(dead.any()):
            worst = Unexplained(int(dead.sum()), float(self.coder.beta.min()))
            for batch, kept in zip(self.batches, self.kept, strict=True):
                if kept is not None:
                    worst.look(filters, residual_of(self.dictionary, batch, self.dictionary.split(kept.dense())))
            weight, replaced = reseeded(filters.weight, dead, worst)
            filters.weight.copy_(weight)
            self.journal.reseeded += len(replaced)
            if self.plain is not None:
                self.plain[replaced] = weight[replaced]  # they have come from nowhere

    def _keep(self) -> None:
        tensors: dict[str, Tensor] = {"weight": filters_of(self.dictionary).weight}
        for i, kept in enumerate(self.kept):
            if kept is not None:
                tensors |= {f"places.{i}": kept.places, f"values.{i}": kept.values}
        if self.plain is not None:
            tensors["plain"] = self.plain
        state = {name: getattr(self, name) for name in _STATE}
        self.journal.keep(tensors, state)

    def _resume(self) -> None:
        found = self.journal.resumed()
        if found is None:
            return
        tensors, state = found
        weight = filters_of(self.dictionary).weight
        weight.copy_(tensors["weight"])
        self.plain = tensors["plain"].to(weight.device)
        for name in _STATE:
            setattr(self, name, state[name])
        for i, batch in enumerate(self.batches):
            x, D = batch.signal, self.dictionary
            shape = torch.Size((len(x), sum(D.code_channels), *(D.code_size(x.shape) if D.dims else ())))
            self.kept[i] = SparseCode(
                shape, *(tensors[f"{name}.{i}"].to(weight.device) for name in ("places", "values"))
            )
