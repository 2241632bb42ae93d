"""An evaluation as lines of text."""

from collections.abc import Iterator, Sequence

from pursuitnet.program.evaluation.adaptation import CRITERIA
from pursuitnet.program.evaluation.certification import Certification
from pursuitnet.program.evaluation.corruptions import SEVERITIES
from pursuitnet.program.evaluation.measures import Evaluation
from pursuitnet.program.evaluation.robustness import Robustness, Row

WEAKEST = 10
"""Number of classes to list if there are too many to list all."""


def lines(evaluation: Evaluation, robust: Robustness | None = None, adapt: str | None = None) -> Iterator[str]:
    """Yield what the program prints, accuracy first.

    Args:
        evaluation: the evaluation.
        robust: on corrupted images, if they were tested.
        adapt: name of the criterion by which the thresholds were chosen, of ``CRITERIA``; None if they were not.
    """
    top1, loss, count = evaluation.top1, evaluation.loss, evaluation.images
    yield f"accuracy {_percent(top1)} ({top1!r}), loss {loss:.4f}, {count} test images"
    if evaluation.top5 is not None:
        yield f"top-5 {_percent(evaluation.top5)}"
    yield from _classes(evaluation)
    yield from _calibration(evaluation)
    yield from _confusions(evaluation)
    if robust is not None:
        yield from _table(robust, adapt)


def certified_lines(certification: Certification) -> Iterator[str]:
    """Yield certified accuracy by radius, and the correctly classified images with the smallest radii."""
    shares = ", ".join(f"{_percent(share)} at {radius:.3g}" for radius, share in certification.accuracy)
    yield f"certified accuracy by ℓ₂ radius, of {certification.units}: {shares}"
    if certification.fragile:
        smallest = ", ".join(f"{i} ({certification.radii[i]:.2g})" for i in certification.fragile)
        yield f"smallest radii of correctly classified images: {smallest}"


def _classes(evaluation: Evaluation) -> Iterator[str]:
    known = [
        (share, name) for share, name in zip(evaluation.per_class, evaluation.classes, strict=True) if share is not None
    ]
    if len(known) <= 2 * WEAKEST:
        yield "by class: " + ", ".join(f"{name} {_percent(share)}" for share, name in known)
    else:
        weakest = sorted(known)[:WEAKEST]
        yield f"weakest of {len(known)} classes: " + ", ".join(f"{name} {_percent(share)}" for share, name in weakest)


def _calibration(evaluation: Evaluation) -> Iterator[str]:
    confidence = sum(b.count * b.confidence for b in evaluation.bins if b.confidence is not None) / evaluation.images
    yield (
        f"calibration: ECE {_percent(evaluation.ece)}; mean confidence {_percent(confidence)}, "
        f"accuracy {_percent(evaluation.top1)}"
    )
    yield f"  {'confidence':>16}  {'images':>6}  {'mean':>9}  {'accuracy':>9}"
    for b in evaluation.bins:
        if b.confidence is not None and b.accuracy is not None:
            span = f"{100 * b.lower:.1f} to {100 * b.upper:.1f} %"
            yield f"  {span:>16}  {b.count:>6}  {_percent(b.confidence):>9}  {_percent(b.accuracy):>9}"


def _confusions(evaluation: Evaluation) -> Iterator[str]:
    mistakes = evaluation.confusions()
    if not mistakes:
        yield "no image was misclassified"
    for name, other, count in mistakes:
        share = count / sum(evaluation.confusion[evaluation.classes.index(name)])
        images = "image" if count == 1 else "images"
        yield f"{name} predicted as {other}: {count} {images}, {_percent(share)} of {name}"


def _table(robust: Robustness, adapt: str | None) -> Iterator[str]:
    wide = max(len(row.name) for row in robust.rows) + 2
    yield f"accuracy in % on {robust.images} corrupted test images, by strength"
    yield f"{'':<{wide}}" + "".join(f"{s:>7}" for s in SEVERITIES) + f"{'mean':>9}"
    yield from _rows(robust.clean, wide)
    for row in robust.rows:
        yield from _rows(row, wide)
    yield f"{'mean of all':<{wide}}" + " " * 7 * len(SEVERITIES) + f"{100 * robust.mean:>9.1f}"
    if robust.adapted_mean is not None:
        yield f"{'  adapted':<{wide}}" + " " * 7 * len(SEVERITIES) + f"{100 * robust.adapted_mean:>9.1f}"
    if adapt is not None:
        yield f"adapted: thresholds × S, so that {CRITERIA[adapt].effect}; no labels"


def _rows(row: Row, wide: int) -> Iterator[str]:
    """Yield a row; with adaptation also the adapted accuracy and the chosen S."""
    blank = " " * 7 * (len(SEVERITIES) - len(row.accuracy))
    yield f"{row.name:<{wide}}" + _percents(row.accuracy) + blank + f"{100 * row.mean:>9.1f}"
    if row.adapted is not None and row.adapted_mean is not None and row.factors is not None:
        yield f"{'  adapted':<{wide}}" + _percents(row.adapted) + blank + f"{100 * row.adapted_mean:>9.1f}"
        yield f"{'  S':<{wide}}" + "".join(f"{S:>7.2f}" for S in row.factors)


def _percents(values: Sequence[float]) -> str:
    return "".join(f"{100 * value:>7.1f}" for value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
