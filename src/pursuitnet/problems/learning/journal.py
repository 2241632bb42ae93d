"""Reports of learning while it runs, their history, and the checkpoint."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import Dictionary
from pursuitnet.problems.learning import saved
from pursuitnet.problems.learning.codes import CodedBatch


@dataclass(frozen=True)
class Report:
    """The state of learning, with the certificate of the codes.

    Attributes:
        iteration: number of rounds over all images, or of batches of a stream.
        images: number of images that the objective is summed over: all, or those of a batch.
        objective: Σ ½‖xₙ − DΓₙ‖² + β‖Γₙ‖₁ over these images.
        gap: proven distance of it from its minimum over the codes, relative to it.
        nonzeros: entries of the codes that are not zero.
        seconds: since learning began, those of resumed runs included.
        reseeded: atoms that have been replaced so far, because no image used them.
    """

    iteration: int
    images: int
    objective: float
    gap: float
    nonzeros: int
    seconds: float
    reseeded: int = 0


Callback = Callable[[Report, Dictionary], object]


@dataclass
class Journal:
    """Reports to a callback and a history, and writes the state to a checkpoint.

    Attributes:
        gap: largest gap of a report that enters the history.
        callback: called with every report and the dictionary.
        checkpoint: the file; None for no checkpoint.
        asked: the arguments of learning, which must be the same in a checkpoint.
        history: the certified reports.
        reseeded: atoms that have been replaced.
    """

    gap: float
    callback: Callback | None = None
    checkpoint: Path | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    history: list[Report] = field(default_factory=list)
    reseeded: int = 0
    began: float = field(default_factory=time.perf_counter)

    def report(self, iteration: int, coded: "CodeTotals", dictionary: Dictionary) -> Report:
        """Report on codes to the callback, and add the report to the history if it is certified."""
        seconds = time.perf_counter() - self.began
        report = Report(
            iteration, coded.images, coded.objective, coded.gap, coded.nonzeros, round(seconds, 3), self.reseeded
        )
        if report.gap <= self.gap and not self._is_repeated(report):
            self.history.append(report)
        if self.callback is not None:
            self.callback(report, dictionary)
        return report

    def _is_repeated(self, report: Report) -> bool:
        """Return whether a run that had already ended is resumed, and reports once more."""
        return bool(self.history) and replace(report, seconds=self.history[-1].seconds) == self.history[-1]

    def keep(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write tensors and state to the checkpoint, if there is one."""
        if self.checkpoint is not None:
            reports = {"history": [asdict(report) for report in self.history], "reseeded": self.reseeded}
            state = {**state, **reports, "seconds": time.perf_counter() - self.began}
            saved.write(self.checkpoint, tensors, self.asked, state)

    def resumed(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and state of the checkpoint, and continue its history; None if there is no checkpoint."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        tensors, state = saved.read(self.checkpoint, self.asked)
        self.history = [Report(**report) for report in state["history"]]
        self.reseeded = state["reseeded"]
        self.began = time.perf_counter() - state["seconds"]
        return tensors, state


@dataclass
class CodeTotals:
    """Totals of codes over batches.

    Attributes:
        images: number of images.
        objective: of all images.
        proven: Σ gap·objective.
        nonzeros: of all codes.
        usage: Σ|Γⱼ| of each atom.
    """

    images: int = 0
    objective: float = 0.0
    proven: float = 0.0
    nonzeros: int = 0
    usage: Tensor | float = 0.0

    def add(self, coded: CodedBatch) -> None:
        """Add the codes of a batch."""
        certificate = coded.certificate
        self.images += len(coded.batch.signal)
        self.objective += float(certificate.objective.sum())
        self.proven += float((certificate.gap * certificate.objective).sum())
        self.nonzeros += sum(int(torch.count_nonzero(part)) for part in coded.code)
        self.usage = self.usage + coded.code[-1].abs().sum([i for i in range(coded.code[-1].dim()) if i != 1])

    @property
    def gap(self) -> float:
        """Return the proven relative distance of the whole objective from its minimum over the codes."""
        return self.proven / self.objective if self.objective > 0 else 0.0
