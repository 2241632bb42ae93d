"""A run of ``pursuitnet learn``: files in, a folder out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pursuitnet.dictionaries import ConvDictionary, Dictionary, WithIdentity
from pursuitnet.problems import Learned
from pursuitnet.problems import learn as learn_from
from pursuitnet.problems.learning import Report
from pursuitnet.problems.learning.filters import filters_of
from pursuitnet.problems.learning.start import from_patches
from pursuitnet.program.factories import device_of
from pursuitnet.program.learn import pixels
from pursuitnet.program.learn.page import write_page
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.writable import write_whole

CHECKPOINT, DICTIONARY, HISTORY, SETTINGS, PAGE = (
    "checkpoint.safetensors",
    "dictionary.safetensors",
    "history.jsonl",
    "settings.json",
    "learn.html",
)
FIRST = 20
"""Images that the atoms of a stream start from."""


@dataclass(frozen=True)
class Settings:
    """What was asked for, as the command describes it."""

    atoms: int = 100
    size: int = 11
    beta: float = 0.2
    nonnegative: bool = False
    robust: bool = False
    online: bool = False
    color: bool = False
    prepare: str = "contrast"
    iterations: int | None = None
    tol: float = 1e-4
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("atoms", 1), ("size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.robust and self.size % 2 == 0:
            raise ValueError(f"size is {self.size}; with --robust expected an odd one: codes have the images' size")
        if self.online and self.iterations is not None:
            raise ValueError("--online sees every image once; leave out --iterations")


def run(
    paths: Sequence[Path],
    out: Path,
    settings: Settings,
    resume: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Learned:
    """Learn from image files and leave dictionary, history and page in a folder.

    Args:
        paths: image files, and folders of them.
        out: the folder.
        settings: what to learn.
        resume: go on after the last finished round of the run in the folder.
        tell: is told of every round, and of the files.

    Raises:
        FileExistsError: if the folder holds a run and ``resume`` is not asked for.
        FileNotFoundError: if a file is not there, or no run to go on with.
        ValueError: for input that does not fit, or a run that was begun with other settings.
    """
    files, device = pixels.files_of(paths), device_of(Recipe(device=settings.device))
    _check_place(out, settings, resume)
    first = [
        pixels.read(path, settings.color, settings.prepare) for path in files[: FIRST if settings.online else None]
    ]
    batches = [batch.to(device) for batch in pixels.by_size(first)]
    dictionary = _start(settings, batches)
    stream = pixels.one_by_one(files, settings.color, settings.prepare, device)

    def told(report: Report, _: Dictionary) -> None:  # by then the input has been found good
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / SETTINGS, json.dumps(_asked(settings)) + "\n")
        tell(_line(report))

    found = learn_from(
        stream if settings.online else batches,
        dictionary,
        settings.beta,
        nonnegative=settings.nonnegative,
        max_iterations=settings.iterations,
        tol=settings.tol,
        seed=settings.seed,
        callback=told,
        checkpoint=out / CHECKPOINT,
    )
    _write(out, settings, found)
    page = write_page(out / PAGE, found, batches[0][:3], settings, len(files))
    tell(f"{out / DICTIONARY}\n{page}")
    return found


def _check_place(out: Path, settings: Settings, resume: bool) -> None:
    """Raise an error unless a run may begin, or go on, in a folder."""
    begun = out / SETTINGS
    if resume and not begun.is_file():
        raise FileNotFoundError(f"{out} holds no run of learn to resume; leave out --resume to begin one")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name another --out, or pass --resume to go on with what is there")
    if resume:
        before = json.loads(begun.read_text(encoding="utf-8"))
        changed = [name for name, value in _asked(settings).items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"--resume goes on with the settings the run was begun with; {', '.join(changed)} differ: give "
                f"{', '.join(f'--{name} {before.get(name)}' for name in changed)}, or another --out"
            )


def _asked(settings: Settings) -> dict[str, Any]:
    """Return what decides the result; a run may go on elsewhere, and for longer."""
    return {k: v for k, v in asdict(settings).items() if k not in ("device", "iterations", "tol")}


def _start(settings: Settings, batches: Sequence[Tensor]) -> Dictionary:
    """Return the dictionary to start from: patches of the images."""
    channels = 3 if settings.color else 1
    one = torch.zeros(1, channels, settings.size, settings.size, device=batches[0].device)
    padding = settings.size // 2 if settings.robust else settings.size - 1
    smallest = min(min(batch.shape[2:]) for batch in batches)
    if settings.size > smallest:
        raise ValueError(f"size is {settings.size} and the smallest image has {smallest} pixels; expected less")
    filters = from_patches(batches, ConvDictionary(one, padding=padding), settings.atoms, settings.seed)
    return WithIdentity(filters) if settings.robust else filters


def _line(report: Report) -> str:
    return (
        f"{report.iteration:4d}  objective {report.objective:.6g}  gap {report.gap:.1e}  non-zeros {report.nonzeros}  "
        f"{report.seconds:.1f} s"
    )


def _write(out: Path, settings: Settings, found: Learned) -> None:
    """Leave dictionary and history."""
    about = {**asdict(settings), "kind": "conv", "padding": list(_convolution(found).padding)}
    weight = filters_of(found.dictionary).weight.detach().cpu().contiguous()
    tensors = {"weight": weight, "usage": found.usage.cpu().contiguous()}
    write_whole(out / DICTIONARY, save(tensors, {"pursuitnet": json.dumps(about)}))
    write_whole(out / HISTORY, "".join(json.dumps(asdict(report)) + "\n" for report in found.history))


def _convolution(found: Learned) -> ConvDictionary:
    filters = filters_of(found.dictionary)
    if not isinstance(filters, ConvDictionary):
        raise TypeError(f"the dictionary is {filters}; expected filters")
    return filters
