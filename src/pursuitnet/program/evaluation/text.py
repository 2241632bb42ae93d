"""An evaluation as lines of text."""

from collections.abc import Iterator, Sequence

from pursuitnet.program.evaluation.adaptation import CRITERIA
from pursuitnet.program.evaluation.certification import Certification
from pursuitnet.program.evaluation.corruptions import SEVERITIES
from pursuitnet.program.evaluation.measures import Evaluation
from pursuitnet.program.evaluation.robustness import Robustness, Row

WEAKEST = 10
"""Classes that are listed where there are too many to list all."""


def lines(found: Evaluation, hard: Robustness | None = None, adapt: str | None = None) -> Iterator[str]:
    """Yield what the program prints, accuracy first.

    Args:
        found: the evaluation.
        hard: on corrupted images, if they were tested.
        adapt: name of what the thresholds were then chosen by, of ``CRITERIA``; None if they were not.
    """
    yield f"accuracy {_percent(found.top1)} ({found.top1!r}), loss {found.loss:.4f}, {found.images} test images"
    if found.top5 is not None:
        yield f"top-5 {_percent(found.top5)}"
    yield from _classes(found)
    yield from _calibration(found)
    yield from _confusions(found)
    if hard is not None:
        yield from _table(hard, adapt)


def certified_lines(found: Certification) -> Iterator[str]:
    """Yield certified accuracy by radius, and which images are the most fragile."""
    shares = ", ".join(f"{_percent(share)} at {radius:.3g}" for radius, share in found.accuracy)
    yield f"certified accuracy by ℓ₂ radius, of {found.units}: {shares}"
    if found.fragile:
        yield "most fragile of those that are right: " + ", ".join(f"{i} ({found.radii[i]:.2g})" for i in found.fragile)


def _classes(found: Evaluation) -> Iterator[str]:
    known = [(share, name) for share, name in zip(found.per_class, found.classes, strict=True) if share is not None]
    if len(known) <= 2 * WEAKEST:
        yield "by class: " + ", ".join(f"{name} {_percent(share)}" for share, name in known)
    else:
        weakest = sorted(known)[:WEAKEST]
        yield f"weakest of {len(known)} classes: " + ", ".join(f"{name} {_percent(share)}" for share, name in weakest)


def _calibration(found: Evaluation) -> Iterator[str]:
    confidence = sum(b.count * b.confidence for b in found.bins if b.confidence is not None) / found.images
    yield (
        f"calibration: ECE {_percent(found.ece)}; on average {_percent(confidence)} confident and "
        f"{_percent(found.top1)} right"
    )
    yield f"  {'confidence':>16}  {'images':>6}  {'confident':>9}  {'right':>9}"
    for b in found.bins:
        if b.confidence is not None and b.accuracy is not None:
            span = f"{100 * b.lower:.1f} to {100 * b.upper:.1f} %"
            yield f"  {span:>16}  {b.count:>6}  {_percent(b.confidence):>9}  {_percent(b.accuracy):>9}"


def _confusions(found: Evaluation) -> Iterator[str]:
    mistakes = found.confusions()
    if not mistakes:
        yield "no image was taken for another class"
    for name, other, count in mistakes:
        share = count / sum(found.confusion[found.classes.index(name)])
        images = "image" if count == 1 else "images"
        yield f"{name} taken for {other}: {count} {images}, {_percent(share)} of {name}"


def _table(hard: Robustness, adapt: str | None) -> Iterator[str]:
    wide = max(len(row.name) for row in hard.rows) + 2
    yield f"accuracy in % on {hard.images} corrupted test images, by strength"
    yield f"{'':<{wide}}" + "".join(f"{s:>7}" for s in SEVERITIES) + f"{'mean':>9}"
    yield from _rows(hard.clean, wide)
    for row in hard.rows:
        yield from _rows(row, wide)
    yield f"{'mean of all':<{wide}}" + " " * 7 * len(SEVERITIES) + f"{100 * hard.mean:>9.1f}"
    if hard.adapted_mean is not None:
        yield f"{'  adapted':<{wide}}" + " " * 7 * len(SEVERITIES) + f"{100 * hard.adapted_mean:>9.1f}"
    if adapt is not None:
        yield f"adapted: thresholds × S, so that {CRITERIA[adapt].brings}; no labels"


def _rows(row: Row, wide: int) -> Iterator[str]:
    """Yield a row; with adaptation also what it brings and the S that was chosen."""
    blank = " " * 7 * (len(SEVERITIES) - len(row.accuracy))
    yield f"{row.name:<{wide}}" + _shares(row.accuracy) + blank + f"{100 * row.mean:>9.1f}"
    if row.adapted is not None and row.adapted_mean is not None and row.factors is not None:
        yield f"{'  adapted':<{wide}}" + _shares(row.adapted) + blank + f"{100 * row.adapted_mean:>9.1f}"
        yield f"{'  S':<{wide}}" + "".join(f"{S:>7.2f}" for S in row.factors)


def _shares(values: Sequence[float]) -> str:
    return "".join(f"{100 * value:>7.1f}" for value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
