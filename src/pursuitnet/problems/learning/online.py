"""Online learning from a stream: each batch is coded once, and the sufficient statistics of the codes are summed."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.learning.atoms import Unexplained
from pursuitnet.problems.learning.codes import CodedBatch, Coder
from pursuitnet.problems.learning.factors import Factors
from pursuitnet.problems.learning.filters import filters_of
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.journal import CodeTotals, Journal
from pursuitnet.problems.learning.statistics import SufficientStatistics

LOOSE = 1e-3
"""Duality gap of codes that are not certified."""
STEPS = 10
"""Maximum number of filter steps after each batch."""
MOMENTUM = 0.8
"""Momentum of the filters from batch to batch; without it they converge slowly."""
PATIENCE = 10
"""Number of batches without use after which an atom is replaced."""
EVERY = 10
"""Batches from one certified report to the next."""


@dataclass
class OnlineLearner:
    """Codes of one batch, then filters for the codes of all batches so far.

    Attributes:
        factors: what is learned; it is changed in place.
        coder: computes the codes.
        journal: receives the reports.
        forget: at the t-th batch, everything before it is weighted by (1 − 1/t)^forget.
    """

    factors: Factors
    coder: Coder
    journal: Journal
    forget: float

    def __post_init__(self) -> None:
        filters = filters_of(self.dictionary)
        self.sums = SufficientStatistics.none(filters)
        self.idle = torch.zeros(len(filters.weight), dtype=torch.long, device=filters.weight.device)
        self.usage = filters.weight.new_zeros(len(filters.weight))
        self.plain = self.factors.weight
        self.count = 0

    @property
    def dictionary(self) -> Dictionary:
        """Return the dictionary that images are coded with."""
        return self.factors.dictionary

    def run(self, batches: Iterable[Batch]) -> CodeTotals:
        """Learn from each batch once; return the totals of the codes of the last one, for the last dictionary."""
        self._resume()
        used, batch = self.count, None
        for number, batch in enumerate(batches):
            if number >= used:
                self.partial_fit(batch)
        if batch is None:
            raise ValueError("the stream has no images; expected one batch or more")
        if not bool(self.usage.any()):
            raise ValueError(
                f"beta is {float(self.coder.beta.min()):g}, with which every code of the stream is zero, or all images "
                "are constant; expected a smaller beta, and images that are not"
            )
        last = CodeTotals()
        last.add(self.coder(self.dictionary, batch, self.journal.gap))
        self.journal.report(self.count, last, self.factors.result)
        last.usage = self.usage
        self._keep()
        return last

    def partial_fit(self, batch: Batch) -> None:
        """Learn from one batch: code it, then improve the filters."""
        self.count += 1
        certified = self.count == 1 or self.count % EVERY == 0
        goal = self.journal.gap if certified else max(self.journal.gap, LOOSE)
        coded = self.coder(self.dictionary, batch, goal)
        tally, factors = CodeTotals(), self.factors
        tally.add(coded)
        keep = (1 - 1 / self.count) ** self.forget
        sums = coded.sums(self.dictionary)
        self.idle = torch.where(sums.energies > 0, 0, self.idle + 1)
        self.usage = keep * self.usage + tally.usage
        self.sums = sums.plus(self.sums, keep)
        better = factors.improved(self.sums, STEPS)
        factors.assign(factors.projected(better + MOMENTUM * (better - self.plain)))
        self.plain = better
        self._reseed(coded)
        self.journal.report(self.count, tally, self.factors.result)
        if certified:
            self._keep()

    def _reseed(self, coded: CodedBatch) -> None:
        """Replace atoms that have not been used for ``PATIENCE`` batches."""
        factors, dead = self.factors, self.idle >= PATIENCE
        if not bool(dead.any()):
            return
        worst = Unexplained(int(dead.sum()), float(self.coder.beta.min()))
        worst.add(filters_of(self.dictionary), coded.residual(self.dictionary))
        before, (weight, replaced) = factors.weight, factors.reseeded(dead, worst)
        factors.assign(weight)
        self.plain = torch.where(weight == before, self.plain, weight)  # new atoms have no momentum
        self.sums, self.idle[replaced] = self.sums.without(replaced), 0
        self.journal.reseeded += len(replaced)

    def _tensors(self) -> dict[str, Tensor]:
        sums = {"gram": self.sums.gram, "cross": self.sums.cross}
        return {"weight": self.factors.weight, "plain": self.plain, **sums, "idle": self.idle, "usage": self.usage}

    def _keep(self) -> None:
        self.journal.keep(self._tensors(), {"count": self.count})

    def _resume(self) -> None:
        checkpoint = self.journal.resumed()
        if checkpoint is None:
            return
        tensors, state = checkpoint
        device = self.usage.device
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.factors.assign(moved["weight"])
        self.plain = moved["plain"]
        self.sums, self.idle = SufficientStatistics(moved["gram"], moved["cross"]), moved["idle"]
        self.usage, self.count = moved["usage"], state["count"]
