"""Predictions of a network for image files, and the table of them."""

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

BATCH, SHOWN_IMAGES = 64, 12  # files in one forward pass; images on the page
HEAD = "file,class,probability"
"""The first columns of a table of predictions."""


@dataclass(frozen=True)
class FilePrediction:
    """The prediction of a network for one file.

    Attributes:
        path: the file.
        top: the most probable classes with their probabilities, in descending order; none for a broken file.
        error: what is wrong with the file; empty if it could be read.
        pixels: input of the network, uint8 (C, H, W).
    """

    path: Path
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    pixels: Pixels | None = None

    def without_pixels(self) -> "FilePrediction":
        """Return the prediction without the pixels, to save memory."""
        return replace(self, pixels=None)

    def line(self) -> str:
        """Return the file and its classes as one line."""
        return f"{self.path}  " + ", ".join(f"{name} {fraction(p)}" for name, p in self.top)


def predictions(
    loaded: Trained,
    decode: Decoder,
    paths: Sequence[Path],
    top: int = 5,
    advance: Advance = nothing,
) -> Iterator[FilePrediction]:
    """Yield the prediction for each file, in order.

    Args:
        loaded: the network.
        decode: reads files as input of the network (``Trained.decoder``).
        paths: the files.
        top: most classes of each.
        advance: called with the number of files of each batch that is done.
    """
    for part in (paths[first : first + BATCH] for first in range(0, len(paths), BATCH)):
        yield from _predict_batch(loaded, part, list(decode.each(part)), top)
        advance(len(part))


def _predict_batch(
    loaded: Trained, paths: Sequence[Path], decoded: Sequence[Pixels | BrokenImageError], top: int
) -> Iterator[FilePrediction]:
    readable = [pixels for pixels in decoded if not isinstance(pixels, BrokenImageError)]
    same_size = len({pixels.shape for pixels in readable}) == 1
    groups = [np.stack(readable)] if same_size else [pixels[None] for pixels in readable]
    classes = iter([row for group in groups for row in loaded.predict(torch.from_numpy(group)).top(top)])
    for path, pixels in zip(paths, decoded, strict=True):
        if isinstance(pixels, BrokenImageError):
            yield FilePrediction(path, error=str(pixels))
        else:
            yield FilePrediction(path, tuple(next(classes)), pixels=pixels)


def table(rows: Iterable[FilePrediction], top: int) -> str:
    """Return predictions as CSV: file, class, probability, class_2, probability_2, …, error."""
    numbered = [f"{what}_{rank}" for rank in range(2, top + 1) for what in ("class", "probability")]
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\n")
    write.writerow([*HEAD.split(","), *numbered, "error"])
    for row in rows:
        values = [cell for name, p in row.top for cell in (name, f"{p:.6g}")]
        write.writerow([row.path, *values, *[""] * (2 * top - len(values)), row.error])
    return out.getvalue()


def write_table(path: Path, rows: Iterable[FilePrediction], top: int) -> Path:
    """Write predictions as a CSV file and return its path."""
    return write_whole(path, table(rows, top))


def check_table(path: Path) -> None:
    """Raise FileExistsError if the file exists and is not a table of predictions, which would be overwritten."""
    check_replaceable(path, HEAD, "a table of predictions")


def check_replaceable(path: Path, mark: str, what: str, option: str = "--csv") -> None:
    """Raise FileExistsError if the file exists and its first bytes do not contain a mark.

    Args:
        path: the file.
        mark: text in files that may be replaced.
        what: name of such files in the message.
        option: that gives another path.
    """
    if path.exists() and mark.encode() not in path.read_bytes()[:4096]:
        raise FileExistsError(f"{path} exists and is not {what}; name another {option}")
