"""Metrics of a classifier: loss, accuracy, calibration, and the confusion matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pursuitnet.data import Pixels
from pursuitnet.data.progress import Advance, nothing
from pursuitnet.program.train import logits_of

BINS = 15
TOP = 5


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence is in (lower, upper]; their means are None if there are none."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a classifier on labeled images; fractions are between 0 and 1.

    Attributes:
        classes: their names, by label.
        images: number of images tested.
        loss: mean cross-entropy, in nats.
        top1: fraction whose label has the largest logit; of equal logits the first counts.
        top5: fraction whose label is among the five largest; None if there are five classes or fewer.
        per_class: fraction of each class that is classified correctly; None for a class without images.
        ece: expected calibration error, Σ (count/images)·|accuracy − confidence| over the bins.
        bins: 15 of equal width over the largest softmax probability, for a reliability diagram.
        confusion: number of images of each class (row) that were predicted as each class (column).
    """

    classes: tuple[str, ...]
    images: int
    loss: float
    top1: float
    top5: float | None
    per_class: tuple[float | None, ...]
    ece: float
    bins: tuple[CalibrationBin, ...]
    confusion: tuple[tuple[int, ...], ...]

    def confusions(self, most: int = 5) -> list[tuple[str, str, int]]:
        """Return the most frequent confusions: (true class, predicted class, count)."""
        mistakes = [
            (self.classes[i], self.classes[j], count)
            for i, row in enumerate(self.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(mistakes, key=lambda mistake: -mistake[2])[:most]


def evaluate(
    model: nn.Module,
    images: Pixels,
    labels: Tensor,
    classes: Sequence[str],
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    size: int = 500,
    advance: Advance = nothing,
) -> Evaluation:
    """Return the metrics of a network on labeled images.

    Args:
        model: images → logits (B, classes); it is left in evaluation mode.
        images: (N, C, H, W).
        labels: (N,), from 0.
        classes: names of the classes.
        prepare: turns a batch of the images into input of the network; by default they are that already.
        size: images per batch.
        advance: called with the number of images of each batch that is done.

    Raises:
        ValueError: if there are no images, or the labels do not fit the images or the classes.
        FloatingPointError: if a logit is not finite.
    """
    if not len(images) or labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images and labels {tuple(labels.shape)}; expected as many, and at least one")
    return metrics_of(logits_of(model, images, prepare, size, advance), labels, classes)


def metrics_of(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Evaluation:
    """Return the metrics of logits (N, classes) for labels (N,).

    Raises:
        ValueError: if the labels or the number of logits do not fit the classes.
        FloatingPointError: if a logit is not finite.
    """
    count, K = len(labels), len(classes)
    if logits.shape != (count, K) or not bool(((labels >= 0) & (labels < K)).all()):
        raise ValueError(
            f"logits are {tuple(logits.shape)} and labels {int(labels.min())} to {int(labels.max())}; "
            f"expected {(count, K)} and labels from 0 to {K - 1}"
        )
    if broken := int((~logits.isfinite()).any(dim=1).sum()):
        raise FloatingPointError(f"the network's output is not finite for {broken} of {count} images")
    order = logits.argsort(dim=1, descending=True, stable=True)
    predicted, is_label = order[:, 0], order == labels[:, None]
    table = confusion(labels, predicted, K)
    bins = reliability(logits, predicted == labels)
    return Evaluation(
        classes=tuple(classes),
        images=count,
        loss=float(F.cross_entropy(logits, labels, reduction="sum")) / count,
        top1=int(is_label[:, 0].sum()) / count,
        top5=int(is_label[:, :TOP].sum()) / count if K > TOP else None,
        per_class=tuple(int(row[i]) / int(row.sum()) if row.any() else None for i, row in enumerate(table)),
        ece=calibration_error(bins),
        bins=bins,
        confusion=tuple(tuple(row) for row in table.tolist()),
    )


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return the number of images of each class (row) predicted as each class (column), (classes, classes)."""
    return torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)


def reliability(logits: Tensor, right: Tensor) -> tuple[CalibrationBin, ...]:
    """Return the bins ((m − 1)/M, m/M] of confidence, M = 15, of logits (N, classes) and whether each is right (N,).

    Source: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks (2017), Eqs. 1 and 2.
    """
    confidence = logits.double().softmax(dim=1).amax(dim=1)
    edges = torch.arange(BINS + 1, dtype=torch.float64, device=logits.device) / BINS
    place = torch.bucketize(confidence, edges[1:-1])
    counts = torch.bincount(place, minlength=BINS).tolist()
    sums = (torch.bincount(place, value, minlength=BINS).tolist() for value in (confidence, right.double()))
    return tuple(
        CalibrationBin(lower, upper, n, c / n if n else None, r / n if n else None)
        for lower, upper, n, c, r in zip(edges[:-1].tolist(), edges[1:].tolist(), counts, *sums, strict=True)
    )


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return Σ (count/N)·|accuracy − confidence|, between 0 and 1 (Guo et al., Eq. 3)."""
    gaps = (
        b.count * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    )
    return sum(gaps) / sum(b.count for b in bins)
