"""Learning in rounds over images that are all in memory."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.learning.atoms import Unexplained
from pursuitnet.problems.learning.codes import Coder, SparseCode, residual_of
from pursuitnet.problems.learning.factors import Factors
from pursuitnet.problems.learning.filters import filters_of
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.journal import CodeTotals, Journal
from pursuitnet.problems.learning.statistics import SufficientStatistics

LOOSE = 0.5
"""Duality gap of the first rounds' codes, until a round lowers the objective by less: filters far from the best ones
gain more from many rounds than from exact codes."""
EVERY = 5
"""Rounds from one certified report to the next, while less exact codes are enough."""
STEPS = 50
"""Maximum number of filter steps in a round."""
_STATE = ("iteration", "goal", "before", "momentum")


@dataclass
class AlternatingLearner:
    """Alternates between codes of all images and filters for these codes.

    Attributes:
        factors: what is learned; it is changed in place.
        batches: the images.
        coder: computes the codes.
        journal: receives the reports.
        kept: the codes of each batch.
        iteration: number of completed rounds.
        goal: the gap of the next codes.
        before: the smallest objective so far.
        plain: filters without momentum.
        momentum: Nesterov's t.
    """

    factors: Factors
    batches: list[Batch]
    coder: Coder
    journal: Journal
    kept: list[SparseCode | None] = field(default_factory=list)
    iteration: int = 0
    goal: float = LOOSE
    before: float = torch.inf
    plain: Tensor | None = None
    momentum: float = 1.0

    @property
    def dictionary(self) -> Dictionary:
        """Return the dictionary that images are coded with."""
        return self.factors.dictionary

    def run(self, most: int, tol: float) -> tuple[CodeTotals, str]:
        """Repeat until the relative decrease of the objective is at most tol, or for ``most`` rounds."""
        self.kept = [None] * len(self.batches)
        self._resume()
        while True:
            last = self.iteration >= most
            certified = last or (self.iteration > 0 and self.iteration % EVERY == 0)
            tally, sums = self._codes(self.journal.gap if certified else max(self.goal, self.journal.gap))
            report = self.journal.report(self.iteration, tally, self.factors.result)
            fall = (self.before - report.objective) / report.objective if report.objective else 0.0
            rises = fall < -report.gap
            settled = abs(fall) <= tol and self.goal <= self.journal.gap
            if last or (settled and not rises):
                return tally, "max_iterations" if last else "converged"
            self._move(sums, rises, report.objective, straight=self.iteration + 1 >= most)
            self.goal = max(self.journal.gap, min(self.goal, abs(fall)))
            self.iteration += 1
            self._keep()

    def _move(self, sums: SufficientStatistics, rises: bool, objective: float, straight: bool) -> None:
        """Improve the filters for the codes, then extrapolate with Nesterov's momentum.

        Rounds without momentum converge slowly. Where it has led uphill, the filters before extrapolation are used
        instead, whose objective is never larger than that of the round before.
        """
        if rises and self.plain is not None and self.momentum > 1:
            self.factors.assign(self.plain)
            self.momentum = 1.0
            return
        self._filters(sums)
        better = self.factors.weight
        grown = (1 + (1 + 4 * self.momentum**2) ** 0.5) / 2
        if self.plain is not None and not straight:
            ahead = better + (self.momentum - 1) / grown * (better - self.plain)
            self.factors.assign(self.factors.projected(ahead))
        self.plain, self.momentum, self.before = better, grown, objective

    def codes(self) -> list[Tensor]:
        """Return the codes of all batches."""
        return [kept.dense() for kept in self.kept if kept is not None]

    def _codes(self, goal: float) -> tuple[CodeTotals, SufficientStatistics]:
        """Compute all codes to a gap, starting at the previous ones; return their totals and statistics."""
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
        factors, dead = self.factors, sums.energies == 0
        factors.assign(factors.improved(sums, STEPS))
        if bool(dead.any()):
            before, (weight, replaced) = factors.weight, factors.reseeded(dead, self._unexplained(int(dead.sum())))
            factors.assign(weight)
            self.journal.reseeded += len(replaced)
            if self.plain is not None:  # new atoms have no momentum
                self.plain = torch.where(weight == before, self.plain, weight)

    def _unexplained(self, most: int) -> Unexplained:
        """Return the patches of the images with the largest residuals."""
        worst = Unexplained(most, float(self.coder.beta.min()))
        for batch, kept in zip(self.batches, self.kept, strict=True):
            if kept is not None:
                residual = residual_of(self.dictionary, batch, self.dictionary.split(kept.dense()))
                worst.add(filters_of(self.dictionary), residual)
        return worst

    def _keep(self) -> None:
        tensors: dict[str, Tensor] = {"weight": self.factors.weight}
        for i, kept in enumerate(self.kept):
            if kept is not None:
                tensors |= {f"places.{i}": kept.places, f"values.{i}": kept.values}
        if self.plain is not None:
            tensors["plain"] = self.plain
        state = {name: getattr(self, name) for name in _STATE}
        self.journal.keep(tensors, state)

    def _resume(self) -> None:
        checkpoint = self.journal.resumed()
        if checkpoint is None:
            return
        tensors, state = checkpoint
        device = self.factors.weight.device
        self.factors.assign(tensors["weight"].to(device))
        self.plain = tensors["plain"].to(device)
        for name in _STATE:
            setattr(self, name, state[name])
        for i, batch in enumerate(self.batches):
            x, D = batch.signal, self.dictionary
            shape = torch.Size((len(x), sum(D.code_channels), *(D.code_size(x.shape) if D.dims else ())))
            self.kept[i] = SparseCode(shape, *(tensors[f"{name}.{i}"].to(device) for name in ("places", "values")))
