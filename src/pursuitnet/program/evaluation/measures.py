"""What a classifier's answers are worth: loss, accuracy, calibration, and what is taken for what."""

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
    """The answers whose confidence lies in (lower, upper]; means are None where there are none."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """A classifier on labeled images; shares are between 0 and 1.

    Attributes:
        classes: their names, by label.
        images: how many were tested.
        loss: mean cross-entropy, in nats.
        top1: share whose label has the largest logit, the first of several that are equally large.
        top5: share whose label is among the five largest; None where there are five classes or fewer.
        per_class: share of each class that is recognized; None for a class without images.
        ece: expected calibration error, Σ (count/images)·|accuracy − confidence| over the bins.
        bins: 15 of equal width over the largest softmax probability, for a reliability diagram.
        confusion: how many images of each class (row) were taken for each class (column).
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
        """Return the most frequent mistakes: (the class, what it was taken for, how often)."""
        found = [
            (self.classes[i], self.classes[j], count)
            for i, row in enumerate(self.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(found, key=lambda mistake: -mistake[2])[:most]


def evaluate(
    model: nn.Module,
    images: Pixels,
    labels: Tensor,
    classes: Sequence[str],
    *,
    prepare: Callable[[Tensor], Tensor] | None = None,
    size: int = 500,
    tell: Advance = nothing,
) -> Evaluation:
    """Return what a network's answers to labeled images are worth.

    Args:
        model: images → logits (B, classes); it is left in evaluation mode.
        images: (N, C, H, W).
        labels: (N,), from 0.
        classes: names of the classes.
        prepare: brings a batch of the images to what the network expects; by default they are as it does.
        size: images a batch.
        tell: is told how many more are done.

    Raises:
        ValueError: for no images, or labels that are not those of the images or of the classes.
        FloatingPointError: if a logit is not finite.
    """
    if not len(images) or labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images and labels {tuple(labels.shape)}; expected as many, and at least one")
    return measured(logits_of(model, images, prepare, size, tell), labels, classes)


def measured(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> Evaluation:
    """Return what logits (N, classes) are worth for labels (N,).

    Raises:
        ValueError: for labels or a number of logits that are not those of the classes.
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
    predicted, found = order[:, 0], order == labels[:, None]
    table = confusion(labels, predicted, K)
    bins = reliability(logits, predicted == labels)
    return Evaluation(
        classes=tuple(classes),
        images=count,
        loss=float(F.cross_entropy(logits, labels, reduction="sum")) / count,
        top1=int(found[:, 0].sum()) / count,
        top5=int(found[:, :TOP].sum()) / count if K > TOP else None,
        per_class=tuple(int(row[i]) / int(row.sum()) if row.any() else None for i, row in enumerate(table)),
        ece=calibration_error(bins),
        bins=bins,
        confusion=tuple(tuple(row) for row in table.tolist()),
    )


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return how many images of each class (row) were taken for each class (column), (classes, classes)."""
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
