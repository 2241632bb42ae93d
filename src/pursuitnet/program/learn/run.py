"""A run of ``pursuitnet learn``: from image files to a folder of results."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary, Dictionary, WithIdentity
from pursuitnet.problems import Learned
from pursuitnet.problems import learn as learn_from
from pursuitnet.problems.learning import Report
from pursuitnet.problems.learning.filters import filters_of
from pursuitnet.problems.learning.start import from_patches
from pursuitnet.program.factories import device_of
from pursuitnet.program.learn import pixels
from pursuitnet.program.learn.dictionary import DICTIONARY, write_dictionary
from pursuitnet.program.learn.page import write_page
from pursuitnet.program.learn.settings import Settings
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.writable import write_whole

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
    reader = pixels.Reader(settings.color, settings.prepare, settings.size, report_failure)
    first = reader.some(files[: FIRST if settings.online else None])
    batches = [batch.to(device) for batch in pixels.by_size(first)]
    dictionary = _initial_dictionary(settings, batches)
    stream = reader.each(files, device)

    def on_round(report: Report, _: Dictionary) -> None:  # the folder is created only after the input is checked
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / SETTINGS, json.dumps(_fixed_settings(settings)) + "\n")
        report_line(_line(report))

    learned = learn_from(
        stream if settings.online else batches,
        dictionary,
        settings.beta,
        nonnegative=settings.nonnegative,
        max_iterations=settings.iterations,
        tol=settings.tol,
        seed=settings.seed,
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
        before = json.loads(saved.read_text(encoding="utf-8"))
        changed = [name for name, value in _fixed_settings(settings).items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"--resume continues with the settings of the start of the run; {', '.join(changed)} differ: give "
                f"{', '.join(f'--{name} {before.get(name)}' for name in changed)}, or another --out"
            )


def _fixed_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that must not change on resume: all but the device and when to stop."""
    return {k: v for k, v in asdict(settings).items() if k not in ("device", "iterations", "tol")}


def _initial_dictionary(settings: Settings, batches: Sequence[Tensor]) -> Dictionary:
    """Return the initial dictionary: patches of the images."""
    channels = 3 if settings.color else 1
    shape_only = torch.zeros(1, channels, settings.size, settings.size, device=batches[0].device)
    padding = settings.size // 2 if settings.robust else settings.size - 1
    filters = from_patches(batches, ConvDictionary(shape_only, padding=padding), settings.atoms, settings.seed)
    return WithIdentity(filters) if settings.robust else filters


def _line(report: Report) -> str:
    return (
        f"{report.iteration:4d}  objective {report.objective:.6g}  gap {report.gap:.1e}  non-zeros {report.nonzeros}  "
        f"{report.seconds:.1f} s"
    )


def _write(out: Path, settings: Settings, learned: Learned) -> None:
    """Write dictionary and history."""
    metadata = {**asdict(settings), "kind": "conv", "padding": list(_convolution(learned).padding)}
    write_dictionary(out / DICTIONARY, filters_of(learned.dictionary).weight, learned.usage, metadata)
    write_whole(out / HISTORY, "".join(json.dumps(asdict(report)) + "\n" for report in learned.history))


def _convolution(learned: Learned) -> ConvDictionary:
    filters = filters_of(learned.dictionary)
    if not isinstance(filters, ConvDictionary):
        raise TypeError(f"the dictionary is {filters}; expected filters")
    return filters
