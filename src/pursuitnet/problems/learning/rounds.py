"""Learning in rounds over images that are all at hand."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.learning.atoms import Unexplained, improved, reseeded
from pursuitnet.problems.learning.codes import Coder, Kept, left_by
from pursuitnet.problems.learning.filters import filters_of
from pursuitnet.problems.learning.images import Batch
from pursuitnet.problems.learning.journal import Journal, Tally
from pursuitnet.problems.learning.sums import Sums

LOOSE = 1e-2
"""The gap of the first round's codes."""
STEPS = 50
"""Steps over the filters in a round, at most."""


@dataclass
class Rounds:
    """Codes of all images, then filters for them, and so on.

    Attributes:
        dictionary: D, which is changed in place.
        batches: the images.
        coder: how codes are computed.
        journal: where it is reported to.
    """

    dictionary: Dictionary
    batches: list[Batch]
    coder: Coder
    journal: Journal
    kept: list[Kept | None] = field(default_factory=list)
    iteration: int = 0
    goal: float = LOOSE
    before: float = torch.inf

    def run(self, most: int, tol: float) -> tuple[Tally, str]:
        """Go round until the objective falls by no more than tol, relatively, or most rounds are done."""
        self.kept = [None] * len(self.batches)
        self._resume()
        while True:
            last = self.iteration >= most
            tally, sums = self._codes(self.journal.gap if last else max(self.goal, self.journal.gap))
            report = self.journal.tell(self.iteration, tally, self.dictionary)
            fall = (self.before - report.objective) / report.objective if report.objective else 0.0
            if last or (fall <= tol and self.goal <= self.journal.gap):
                return tally, "max_iterations" if last else "converged"
            self._filters(sums)
            self.iteration, self.before = self.iteration + 1, report.objective
            self.goal = max(self.journal.gap, min(self.goal, 0.3 * abs(fall)))
            self._keep()

    def codes(self) -> list[Tensor]:
        """Return the codes of all batches."""
        return [kept.dense() for kept in self.kept if kept is not None]

    def _codes(self, goal: float) -> tuple[Tally, Sums]:
        """Compute all codes to a gap, from those of before; return what they add up to."""
        tally, sums = Tally(), Sums.none(filters_of(self.dictionary))
        for i, batch in enumerate(self.batches):
            before = self.kept[i]
            coded = self.coder(self.dictionary, batch, goal, None if before is None else before.dense())
            self.kept[i] = Kept.of(self.dictionary.join(coded.code))
            tally.add(coded)
            sums = sums.plus(coded.sums(self.dictionary))
        return tally, sums

    def _filters(self, sums: Sums) -> None:
        """Improve the filters for the codes, and replace those that no image uses."""
        filters = filters_of(self.dictionary)
        dead = sums.energies == 0
        filters.weight.copy_(improved(filters.weight, sums, STEPS))
        if bool(dead.any()):
            worst = Unexplained(int(dead.sum()), float(self.coder.beta.min()))
            for batch, kept in zip(self.batches, self.kept, strict=True):
                if kept is not None:
                    worst.look(filters, left_by(self.dictionary, batch, self.dictionary.split(kept.dense())))
            weight, replaced = reseeded(filters.weight, dead, worst)
            filters.weight.copy_(weight)
            self.journal.reseeded += len(replaced)

    def _keep(self) -> None:
        tensors: dict[str, Tensor] = {"weight": filters_of(self.dictionary).weight}
        for i, kept in enumerate(self.kept):
            if kept is not None:
                tensors |= {f"places.{i}": kept.places, f"values.{i}": kept.values}
        self.journal.keep(tensors, {"iteration": self.iteration, "goal": self.goal, "before": self.before})

    def _resume(self) -> None:
        found = self.journal.resumed()
        if found is None:
            return
        tensors, state = found
        weight = filters_of(self.dictionary).weight
        weight.copy_(tensors["weight"])
        self.iteration, self.goal, self.before = state["iteration"], state["goal"], state["before"]
        for i, batch in enumerate(self.batches):
            x, D = batch.signal, self.dictionary
            shape = torch.Size((len(x), sum(D.rows), *(D.code_size(x.shape) if D.dims else ())))
            self.kept[i] = Kept(shape, *(tensors[f"{name}.{i}"].to(weight.device) for name in ("places", "values")))
