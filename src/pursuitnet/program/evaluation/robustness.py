"""Accuracy on corrupted images, by corruption and strength, with the trained and with adapted thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from pursuitnet.program.evaluation.adaptation import Adaptation
from pursuitnet.program.evaluation.corruptions import SEVERITIES, Corruption
from pursuitnet.program.evaluation.settings import with_thresholds
from pursuitnet.program.train import accuracy, logits_of

ADAPTATION_IMAGES = 256
"""Number of images by which S is chosen."""


@dataclass(frozen=True)
class Row:
    """Accuracy on one kind of images at each of its strengths.

    Attributes:
        name: of the corruption, or "clean", which has one strength.
        accuracy: fraction classified correctly, at each strength.
        adapted: the same with the chosen thresholds; None without adaptation.
        factors: the chosen S.
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
    """Accuracy on clean and corrupted images; the means are over corruptions and strengths, without the clean images.

    Attributes:
        images: number of images tested of each kind.
        clean: on the original images.
        rows: one for each corruption.
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
    on_row: Callable[[Row], object] = lambda row: None,
) -> Robustness:
    """Return the accuracy of a network under every corruption at every strength.

    The random numbers of a corruption are the same at all strengths. S is chosen for each corruption and strength by
    the first few images, never by labels.

    Args:
        model: images → logits; it is left in evaluation mode.
        images: uint8 (N, C, H, W), at least one.
        labels: (N,).
        corruptions: at least one.
        prepare: turns a batch of the images into input of the network.
        adaptation: chooses the thresholds.
        seed: of the corruptions' random numbers.
        on_row: called with every row as soon as it is computed.
    """

    def test(name: str, strengths: Sequence[Callable[[], Tensor]]) -> Row:
        results = (_accuracies(model, images_at(), labels, prepare, adaptation) for images_at in strengths)
        plain, adapted, factors = zip(*results, strict=True)
        row = Row(name, plain, adapted, factors) if adaptation else Row(name, plain)
        on_row(row)
        return row

    clean = test("clean", [lambda: images])
    rows = tuple(test(c.name, [partial(c.seeded, images, s, seed) for s in SEVERITIES]) for c in corruptions)
    adapted = [r.adapted_mean for r in rows if r.adapted_mean is not None]
    return Robustness(len(images), clean, rows, _mean([r.mean for r in rows]), _mean(adapted) if adapted else None)


def _accuracies(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    prepare: Callable[[Tensor], Tensor],
    adaptation: Adaptation | None,
) -> tuple[float, float, float]:
    """Return the accuracy as trained, the accuracy with adapted thresholds, and S; without adaptation S is 1."""

    def measure() -> float:
        return accuracy(logits_of(model, images, prepare), labels)

    plain = measure()
    factor = 1.0 if adaptation is None else adaptation.factor(images[:ADAPTATION_IMAGES])
    if factor == 1:
        return plain, plain, factor
    with with_thresholds(model, factor):
        return plain, measure(), factor


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
