"""Accuracy on corrupted images, by corruption and strength, with the thresholds as trained and adapted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from pursuitnet.program.evaluation.adaptation import Adaptation
from pursuitnet.program.evaluation.corruptions import SEVERITIES, Corruption
from pursuitnet.program.evaluation.settings import with_thresholds
from pursuitnet.program.train import accuracy, logits_of

LOOKED_AT = 256
"""Images that S is chosen by."""


@dataclass(frozen=True)
class Row:
    """One kind of images at each of its strengths.

    Attributes:
        name: of the corruption, or "clean", which has one strength.
        accuracy: share recognized, at each strength.
        adapted: the same with the chosen thresholds; None without adaptation.
        factors: the S that was chosen.
    """

    name: str
    accuracy: tuple[float, ...]
    adapted: tuple[float, ...] | None = None
    factors: tuple[float, ...] | None = None

    @property
    def mean(self) -> float:
        """Mean accuracy over the strengths."""
        return _mean(self.accuracy)

    @property
    def adapted_mean(self) -> float | None:
        """Mean accuracy over the strengths with the chosen thresholds."""
        return None if self.adapted is None else _mean(self.adapted)


@dataclass(frozen=True)
class Robustness:
    """Accuracy on clean and corrupted images; the means are over corruptions and strengths, clean ones left out.

    Attributes:
        images: how many of each were tested.
        clean: the images as they are.
        rows: a row for each corruption.
        mean: mean accuracy.
        adapted_mean: with the chosen thresholds; None without adaptation.
    """

    images: int
    clean: Row
    rows: tuple[Row, ...]
    mean: float
    adapted_mean: float | None


def robustness(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    corruptions: Sequence[Corruption],
    prepare: Callable[[Tensor], Tensor],
    *,
    adaptation: Adaptation | None = None,
    seed: int = 0,
    tell: Callable[[Row], object] = lambda row: None,
) -> Robustness:
    """Return the accuracy of a network under every corruption at every strength.

    The draws of a corruption are the same at all strengths. S is chosen for each corruption and strength by the first
    few images, never by labels.

    Args:
        model: images → logits; it is left in evaluation mode.
        images: uint8 (N, C, H, W), at least one.
        labels: (N,).
        corruptions: at least one.
        prepare: brings a batch of the images to what the network expects.
        adaptation: chooses the thresholds.
        seed: of the corruptions' draws.
        tell: is told of every row as soon as it is known.
    """

    def row(name: str, each: Sequence[Callable[[], Tensor]]) -> Row:
        plain, adapted, factors = zip(*(_tested(model, e(), labels, prepare, adaptation) for e in each), strict=True)
        made = Row(name, plain, adapted, factors) if adaptation else Row(name, plain)
        tell(made)
        return made

    clean = row("clean", [lambda: images])
    rows = tuple(row(c.name, [partial(c.seeded, images, s, seed) for s in SEVERITIES]) for c in corruptions)
    adapted = [r.adapted_mean for r in rows if r.adapted_mean is not None]
    return Robustness(len(images), clean, rows, _mean([r.mean for r in rows]), _mean(adapted) if adapted else None)


def _tested(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    adaptation: Adaptation | None,
) -> tuple[float, float, float]:
    """Return the accuracy as trained, the accuracy adapted, and S; the first again and 1 without adaptation."""

    def tested() -> float:
        return accuracy(logits_of(model, images, prepare), labels)

    plain = tested()
    factor = 1.0 if adaptation is None else adaptation.factor(images[:LOOKED_AT])
    if factor == 1:
        return plain, plain, factor
    with with_thresholds(model, factor):
        return plain, tested(), factor


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
