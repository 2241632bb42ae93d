"""Evaluate a trained run: what the program prints and the files it writes."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pursuitnet.data import in_memory
from pursuitnet.data.progress import Advance, nothing
from pursuitnet.multilayer import unfolded
from pursuitnet.program.evaluation.adaptation import CRITERIA, Adaptation
from pursuitnet.program.evaluation.certification import Certification, certification
from pursuitnet.program.evaluation.corruptions import SEVERITIES, named
from pursuitnet.program.evaluation.measures import Evaluation, evaluate
from pursuitnet.program.evaluation.robustness import ADAPTATION_IMAGES, Robustness, robustness
from pursuitnet.program.evaluation.settings import with_thresholds, with_unfolding
from pursuitnet.program.evaluation.text import certified_lines, lines
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.train import open_run
from pursuitnet.program.versions import versions
from pursuitnet.program.writable import write_picture, write_whole
from pursuitnet.prox.threshold import Threshold
from pursuitnet.utils.nearest import require_known


@dataclass(frozen=True)
class Settings:
    """What to evaluate.

    Attributes:
        unfolding: steps after the first; None for those of the training.
        threshold: factor S of all thresholds; None for 1.
        corruptions: names; an empty tuple for all, None for no test of robustness.
        adapt: criterion of S for corrupted images, without labels: "reconstruction" or "usage"; None for S = 1.
        test_images: number of test images, the first ones; None for all.
        certify: also compute the radius inside which the label of an image cannot change, for certified networks.
    """

    unfolding: int | None = None
    threshold: float | None = None
    corruptions: tuple[str, ...] | None = None
    adapt: str | None = None
    test_images: int | None = None
    certify: bool = False

    def __post_init__(self) -> None:
        if self.unfolding is not None and self.unfolding < 0:
            raise ValueError(f"unfolding is {self.unfolding}; expected a whole number ≥ 0, the steps after the first")
        if self.threshold is not None and not 0 <= self.threshold < float("inf"):
            raise ValueError(f"threshold is {self.threshold}; expected a number ≥ 0, which multiplies every threshold")
        if self.test_images is not None and self.test_images < 1:
            raise ValueError(f"test_images is {self.test_images}; expected at least 1 image")
        named(self.corruptions or ())
        if self.adapt is not None:
            require_known("adaptation", self.adapt, CRITERIA)
        if self.adapt and self.corruptions is None:
            raise ValueError("adapt chooses thresholds for corrupted images; add --corruptions")
        if self.adapt and self.threshold is not None:
            raise ValueError("adapt chooses the thresholds itself; leave out --threshold")

    def notes(self, model: nn.Module) -> Iterator[str]:
        """Yield descriptions of what differs from the training."""
        if self.unfolding is not None:
            trained = sorted({pursuit.unfolding for pursuit in unfolded(model)})
            yield f"unfolding {self.unfolding}, trained with {' and '.join(map(str, trained))}"
        if self.threshold is not None:
            thresholds = [module for module in model.modules() if isinstance(module, Threshold)]
            with_penalty = sum(module.atom_weight is not None for module in thresholds)
            yield f"thresholds × {self.threshold:g} in {with_penalty} of {len(thresholds)} layers"

    def of(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context in which a network has these steps and thresholds.

        Raises:
            ValueError: if it has no steps or no thresholds to change.
        """
        with ExitStack() as stack:
            if self.unfolding is not None:
                stack.enter_context(with_unfolding(model, self.unfolding))
            if self.threshold is not None:
                stack.enter_context(with_thresholds(model, self.threshold))
            return stack.pop_all()


@dataclass(frozen=True)
class EvaluationRecord:
    """The results of evaluating a run.

    Attributes:
        title: network and data set.
        settings: of the evaluation.
        evaluation: on the original test images.
        robustness: on corrupted ones, if requested.
        notes: descriptions of what differs from the training.
        certification: certified accuracy, if requested.
        fragile_images: the images with the smallest radii, uint8 (n, C, H, W), for the figure.
    """

    title: str
    settings: Settings
    evaluation: Evaluation
    robustness: Robustness | None
    notes: tuple[str, ...] = ()
    certification: Certification | None = None
    fragile_images: Tensor | None = field(default=None, repr=False, compare=False)

    def lines(self) -> Iterator[str]:
        """Yield what the program prints, accuracy first."""
        first, *others = lines(self.evaluation, self.robustness, self.settings.adapt)
        certified = () if self.certification is None else certified_lines(self.certification)
        yield from (first, *self.notes, *certified, *others)

    def save(self, folder: Path, plot: bool = False) -> list[Path]:
        """Write evaluation.json and, with plot, evaluation.png into a folder, and return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {k: v for k, v in asdict(self).items() if k != "fragile_images"}
        text = json.dumps(content | {"versions": versions("matplotlib")}, indent=1, allow_nan=False)
        paths = [write_whole(RunFolder(folder).evaluation, text + "\n")]
        if plot:
            from pursuitnet.program.evaluation.plots import plot_evaluation

            figure = plot_evaluation(self.title, self.evaluation, self.robustness)
            paths.append(write_picture(RunFolder(folder).evaluation_picture, figure))
            if self.certification is not None and self.fragile_images is not None:
                from pursuitnet.program.evaluation.certification_plot import plot_certification

                figure = plot_certification(self.title, self.certification, self.fragile_images)
                paths.append(write_picture(RunFolder(folder).certification_picture, figure))
        return paths


def evaluate_run(
    folder: Path,
    settings: Settings,
    advance: Advance = nothing,
    data_dir: Path | None = None,
    device: str = "auto",
) -> EvaluationRecord:
    """Evaluate the network of a run folder on the test images of its data set.

    Args:
        folder: as written by ``pursuitnet train``.
        settings: what to evaluate.
        advance: called with the number of further images that have been tested, corrupted ones included, and the
            total.
        data_dir: where the data set is now; None if it has not moved.
        device: where to compute.

    Raises:
        FileNotFoundError: if the folder is not that of a finished run, or the data are missing.
        ValueError: if a file is damaged, the data set has classes that the network does not have, or the network has
            no steps or thresholds to change, or no radius that can be certified.
        FloatingPointError: if the network's output is not finite.
    """
    run = open_run(folder, data_dir, device)
    recipe, model, images = run.recipe, run.model, run.images
    pixels, labels = images.test[0][: settings.test_images], images.test[1][: settings.test_images]
    splits = ("test", "train") if settings.adapt else ("test",)
    changed = dict.fromkeys(filter(None, map(run.changes, splits)))
    notes = (*settings.notes(model), *changed)
    with settings.of(model):
        kinds = () if settings.corruptions is None else named(settings.corruptions)
        total = len(labels) * (1 + (1 + len(SEVERITIES) * len(kinds) if kinds else 0))
        count = partial(advance, total=total)
        evaluation = evaluate(model, pixels, labels, run.classes, prepare=images.prepared, advance=count)
        robust = certified = fragile = None
        if settings.certify:
            loaded = in_memory(pixels)
            certified = certification(model, loaded, labels, images.prepared, images.std)
            fragile = loaded[list(certified.fragile)].cpu()
        if settings.corruptions is not None:
            clean, pixels = in_memory(images.train[0][:ADAPTATION_IMAGES]), in_memory(pixels)
            adaptation = Adaptation.to(clean, model, images.prepared, settings.adapt) if settings.adapt else None
            robust = robustness(
                model, pixels, labels, kinds, images.prepared, adaptation=adaptation,
                on_row=lambda row: count(len(labels) * len(row.accuracy)),
            )  # fmt: skip
    title = f"{recipe.model} on {recipe.data}"
    return EvaluationRecord(title, settings, evaluation, robust, notes, certified, fragile)
