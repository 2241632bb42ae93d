"""Inspect a trained run, and the text that the program prints."""

import warnings
from collections.abc import Iterator
from pathlib import Path

from pursuitnet.data.progress import Advance, nothing
from pursuitnet.program import train
from pursuitnet.program.report.text import fraction, number
from pursuitnet.program.whitebox.inspection import Inspection, inspect


def inspect_run(
    folder: Path,
    images: int = 64,
    unfolding: int = 4,
    test_images: int = 1000,
    data_dir: Path | None = None,
    device: str = "auto",
    advance: Advance = nothing,
) -> Inspection:
    """Inspect the network of a run folder on the first test images of its data set.

    Args:
        folder: as written by ``pursuitnet train``.
        images: number of images to measure the layers on.
        unfolding: most steps after the first to try without training again.
        test_images: number of images to measure the accuracy on, for every number of steps.
        data_dir: where the data set is now; None if it has not moved.
        device: where to compute.
        advance: called with the number of further layers and numbers of steps that are done, and the total.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run, or the data are missing.
        ValueError: if a number does not fit, a file is damaged, or the data set has classes that the network does not
            have.
    """
    for name, value in (("images", images), ("test_images", test_images)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    run = train.open_run(folder, data_dir, device)
    if changed := run.changes("test"):
        warnings.warn(changed, stacklevel=2)
    data, (pixels, labels) = run.images, run.images.test
    labeled = (data.prepared(pixels[:test_images]), labels[:test_images])
    title = f"{run.recipe.model} on {run.recipe.data}"
    return inspect(
        run.model, data.prepared(pixels[:images]), labeled, unfolding=unfolding, title=title, advance=advance
    )


LEGEND = (
    "Lemma 1, 2: non-zeros of the code, and of a stripe, over what the lemma allows; it applies below 1×",
    "error: ‖x − DΓ‖/‖x‖; unsuccessful: |x − DΓ| > 2β; objective and minimum in units of ½‖x‖², that of Γ = 0",
    "gap: the objective exceeds the minimum by at most this fraction of it",
)
"""What the columns of the printed table mean."""


def summary(inspection: Inspection) -> Iterator[str]:
    """Yield a line for every layer, for what was read, for every module that was not, and for every number of steps."""
    width = max(len(layer.name) for layer in inspection.layers)
    yield (
        f"{'layer':<{width}}  {'μ':>6} {'Lemma 1':>9} {'Lemma 2':>9} {'non-zero':>9} {'error':>7} {'unsuccessful':>13}"
        f" {'objective':>10} {'minimum':>8} {'gap':>8}"
    )
    for layer in inspection.layers:
        mu = layer.coherence if layer.identity_density is None else layer.coherence_with_identity
        ratios = (number(lemma.ratio) + ("×" if lemma.ratio else "") for lemma in (layer.lemma1, layer.lemma2))
        one, two = ratios
        solving = layer.solving
        yield (
            f"{layer.name:<{width}}  {number(mu):>6} {one:>9} {two:>9} {fraction(layer.density):>9} "
            f"{number(layer.error):>7} {fraction(layer.unsuccessful):>13} {number(solving.objective):>10} "
            f"{number(solving.minimum[1]):>8} {fraction(solving.gap[0]):>8}"
        )
    yield from LEGEND
    yield inspection.headline
    for name, reason in inspection.unread:
        yield f"not read: {name}: {reason}"
    for at in inspection.steps:
        accuracy = f"accuracy {fraction(at.accuracy)} of {inspection.labeled} images, " if inspection.labeled else ""
        trained = "  (as trained)" if at.trained else ""
        yield f"unfolding {at.unfolding}: {accuracy}gap {fraction(at.gap)} in the median layer{trained}"
