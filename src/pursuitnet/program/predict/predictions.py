"""What a network says of image files, file by file, and the table of it."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pursuitnet.data.pixels import BrokenImageError
from pursuitnet.data.progress import Advance, nothing
from pursuitnet.data.unlabeled import Decoder, Pixels
from pursuitnet.program.report.text import fraction
from pursuitnet.program.sharing import Trained
from pursuitnet.program.writable import write_whole

BATCH, SHOWN_IMAGES = 64, 12  # files in one forward pass; of those on a page
HEAD = "file,class,probability"
"""What a table of predictions begins with."""


@dataclass(frozen=True)
class Answer:
    """What a network says of one file.

    Attributes:
        path: the file.
        top: its most probable classes with their probabilities, falling; none for a broken file.
        error: what is wrong with the file; nothing where it has been read.
        pixels: what the network was shown, uint8 (C, H, W).
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    pixels: Pixels | None = None

    def without_pixels(self) -> "Answer":
        """Return the answer alone, where many of them are kept."""
        return replace(self, pixels=None)

    def line(self) -> str:
        """Return the file with its classes in words."""
        return f"{self.path}  " + ", ".join(f"{name} {fraction(p)}" for name, p in self.top)


def answers(
    about: Trained,
    decode: Decoder,
    paths: Sequence[Path],
    top: int = 5,
    tell: Advance = nothing,
) -> Iterator[Answer]:
    """Yield what a network says of each file, in order.

    Args:
        about: the network.
        decode: brings files to what it expects (``Trained.decoder``).
        paths: the files.
        top: classes to name of each, at most.
        tell: is told how many more files are done.
    """
    for part in (paths[at : at + BATCH] for at in range(0, len(paths), BATCH)):
        yield from _answered(about, part, list(decode.each(part)), top)
        tell(len(part))


def _answered(
    about: Trained, paths: Sequence[Path], found: Sequence[Pixels | BrokenImageError], top: int
) -> Iterator[Answer]:
    whole = [pixels for pixels in found if not isinstance(pixels, BrokenImageError)]
    together = len({pixels.shape for pixels in whole}) == 1
    groups = [np.stack(whole)] if together else [pixels[None] for pixels in whole]
    classes = iter([row for group in groups for row in about.predict(torch.from_numpy(group)).top(top)])
    for path, pixels in zip(paths, found, strict=True):
        if isinstance(pixels, BrokenImageError):
            yield Answer(path, error=str(pixels))
        else:
            yield Answer(path, tuple(next(classes)), pixels=pixels)


def table(rows: Iterable[Answer], top: int) -> str:
    """Return answers as CSV: file, class, probability, class_2, probability_2, …, error."""
    numbered = [f"{what}_{rank}" for rank in range(2, top + 1) for what in ("class", "probability")]
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow([*HEAD.split(","), *numbered, "error"])
    for row in rows:
        said = [value for name, p in row.top for value in (name, f"{p:.6g}")]
        write.writerow([row.path, *said, *[""] * (2 * top - len(said)), row.error])
    return out.getvalue()


def write_table(path: Path, rows: Iterable[Answer], top: int) -> Path:
    """Write answers as a CSV file; return its path."""
    return write_whole(path, table(rows, top))


def check_table(path: Path) -> None:
    """Raise FileExistsError if a file is there that is no table of predictions, and would be lost."""
    check_replaceable(path, HEAD, "a table of predictions")


def check_replaceable(path: Path, mark: str, what: str, option: str = "--csv") -> None:
    """Raise FileExistsError if a file is there whose first bytes do not hold a mark.

    Args:
        path: the file.
        mark: what those that may be replaced hold.
        what: they are.
        option: that names another one.
    """
    if path.exists() and mark.encode() not in path.read_bytes()[:4096]:
        raise FileExistsError(f"{path} exists and is not {what}; name another {option}")
