"""A run of ``pursuitnet learn``: from image files to a folder of results."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import ComposedDictionary, ConvDictionary, Dictionary, WithIdentity
from pursuitnet.problems import Learned
from pursuitnet.problems import learn as learn_from
from pursuitnet.problems.learning import Report
from pursuitnet.problems.learning.factors import factors_of
from pursuitnet.problems.learning.filters import filters_of, norms_of
from pursuitnet.problems.learning.images import check_images
from pursuitnet.problems.learning.start import from_patches
from pursuitnet.program.factories import device_of
from pursuitnet.program.learn import pixels
from pursuitnet.program.learn.dictionary import DICTIONARY, write_dictionary
from pursuitnet.program.learn.page import write_page
from pursuitnet.program.learn.settings import Settings
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.writable import write_whole
from pursuitnet.utils.records import record_of

CHECKPOINT, HISTORY, SETTINGS, PAGE = "checkpoint.safetensors", "history.jsonl", "settings.json", "learn.html"
FIRST = 20
"""Images from which the initial atoms are drawn with --online."""


def learn_from_files(
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    resume: bool = False,
    report_line: Callable[[str], None] = lambda line: None,
    report_failure: Callable[[str], None] = lambda message: None,
) -> Learned:
    """Learn a dictionary from image files and write dictionary, history and page into a folder.

    Args:
        paths: image files, and folders of them.
        out: the folder.
        settings: of the run.
        resume: continue after the last finished round of the run in the folder.
        report_line: called with a line of text after every round, and with the paths of the results.
        report_failure: called with a sentence about each file that cannot be used and is left out.

    Raises:
        FileExistsError: if the folder is not empty and ``resume`` is False.
        FileNotFoundError: if a file is missing, or there is no run to resume.
        ValueError: if no image can be used, input does not fit, or the run was started with other settings.
    """
    files, device = pixels.files_of(paths), device_of(Recipe(device=settings.device))
    _check_folder(out, settings, resume)
    reader = pixels.Reader(settings.color, settings.prepare, settings.effective_size, report_failure)
    first = reader.some(files[: FIRST if settings.online else None])
    batches = [batch.to(device) for batch in pixels.by_size(first)]
    dictionary = initial_dictionary(settings, batches)
    if settings.online:  # a stream itself is checked at its end
        check_images(batches, filters_of(factors_of(dictionary).dictionary), settings.beta)
    stream = reader.each(files, device)

    def on_round(report: Report, _: Dictionary) -> None:  # the folder is created only after the input is checked
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / SETTINGS, json.dumps(settings.fixed()) + "\n")
        report_line(_line(report))

    learned = learn_from(
        stream if settings.online else batches,
        dictionary,
        settings.beta,
        nonnegative=settings.nonnegative,
        max_iterations=settings.iterations,
        tol=settings.tol,
        seed=settings.seed,
        atom_nonzeros=settings.atom_nonzeros,
        callback=on_round,
        checkpoint=out / CHECKPOINT,
    )
    _write(out, settings, learned)
    page = write_page(out / PAGE, learned, batches[0][:3], settings, len(files) - len(reader.failures))
    report_line(f"{out / DICTIONARY}\n{page}")
    return learned


def _check_folder(out: Path, settings: Settings, resume: bool) -> None:
    """Raise an error unless a run can begin, or continue, in a folder."""
    saved = out / SETTINGS
    if resume and not saved.is_file():
        raise FileNotFoundError(f"{out} holds no run of learn to resume; leave out --resume to start one")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name another --out, or pass --resume to continue the run in it")
    if resume:
        before = record_of(saved, {})
        before |= {name: str(before[name]) for name in ("atoms", "size") if name in before}  # numbers in older versions
        changed = [name for name, value in settings.fixed().items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"--resume continues with the settings of the start of the run, and {', '.join(changed)} "
                f"{'differs' if len(changed) == 1 else 'differ'}: {_advice({n: before.get(n) for n in changed})}, or "
                "name another --out"
            )


def _advice(settings: dict[str, Any]) -> str:
    """Return which options to give and which to leave out for these settings."""
    options = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    absent = {name for name, value in options.items() if value is None or value is False}
    given = [name if value is True else f"{name} {value}" for name, value in options.items() if name not in absent]
    left = [name for name in options if name in absent]
    parts = [f"{verb} {', '.join(names)}" for verb, names in (("give", given), ("leave out", left)) if names]
    return " and ".join(parts)


def initial_dictionary(settings: Settings, batches: Sequence[Tensor]) -> Dictionary:
    """Return the initial dictionary: patches of the images, and in further layers what correlates with patches."""
    padding = settings.effective_size // 2 if settings.robust else settings.effective_size - 1
    layers = [_patches(batches, settings.atoms[0], settings.size[0], padding, settings.seed)]
    for number, (atoms, size) in enumerate(zip(settings.atoms[1:], settings.size[1:], strict=True), 1):
        before = filters_of(ComposedDictionary(layers).effective())
        side = before.weight.shape[-1] + size - 1
        patches = _patches(batches, atoms, side, side - 1, settings.seed + number).weight
        with torch.no_grad():
            correlations = ConvDictionary(before.weight).analyze(patches)
        layers.append(ConvDictionary(correlations / norms_of(correlations)))
    if settings.robust:
        return WithIdentity(layers[0])
    return layers[0] if len(layers) == 1 else ComposedDictionary(layers)


def _patches(batches: Sequence[Tensor], atoms: int, size: int, padding: int, seed: int) -> ConvDictionary:
    """Return a dictionary of patches of the images."""
    shape_only = torch.zeros(1, batches[0].shape[1], size, size, device=batches[0].device)
    return ConvDictionary(
        from_patches(batches, ConvDictionary(shape_only, padding=padding), atoms, seed).weight, padding=padding
    )


def _line(report: Report) -> str:
    return (
        f"{report.iteration:4d}  objective {report.objective:.6g}  gap {report.gap:.1e}  non-zeros {report.nonzeros}  "
        f"{report.seconds:.1f} s"
    )


def _write(out: Path, settings: Settings, learned: Learned) -> None:
    """Write dictionary and history."""
    layers = layers_of(learned.dictionary)
    metadata = {**asdict(settings), "kind": "conv", "padding": list(layers[0].padding)}
    write_dictionary(out / DICTIONARY, [layer.weight for layer in layers], learned.usage, metadata)
    write_whole(out / HISTORY, "".join(json.dumps(asdict(report)) + "\n" for report in learned.history))


def layers_of(dictionary: Dictionary) -> list[ConvDictionary]:
    """Return the convolutions of a learned dictionary, one for each layer."""
    layers = dictionary.layers if isinstance(dictionary, ComposedDictionary) else (filters_of(dictionary),)
    return [layer for layer in layers if isinstance(layer, ConvDictionary)]
