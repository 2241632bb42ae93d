"""Progress of long work: a bar on a terminal, a line from time to time elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")

QUIET = 10.0
"""Minimum number of seconds before the first line and between two lines, without a terminal."""


class Advance(Protocol):
    """Called with the number of items done since the last call, and with their total if it was not known before."""

    def __call__(self, more: int = 1, total: int | None = None) -> object: ...


def nothing(more: int = 1, total: int | None = None) -> None:
    """Show nothing."""


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
    """Show progress on stderr; yields the function to call with the number of items done.

    Args:
        what: name of the items, such as "images".
        total: their number, if it is known already.
        done: number of items that were done before.
    """
    if not sys.stderr.isatty():
        yield _Lines(what, total, done).advance
        return
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    scaled = what.startswith("bytes")
    with tqdm(total=total, initial=done, unit=f" {what}", unit_scale=scaled, leave=False, dynamic_ncols=True) as bar:

        def advance(more: int = 1, total: int | None = None) -> None:
            bar.total = bar.total if total is None else total
            bar.update(more)

        yield advance


def say(line: str) -> None:
    """Print a line, above a bar if there is one."""
    if not sys.stderr.isatty():
        print(line, flush=True)  # noqa: T201 (its purpose)
        return
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)


def counted(items: Iterable[T], advance: Callable[[int], object]) -> Iterator[T]:
    """Yield items, and count each as done when the next one is requested."""
    for item in items:
        yield item
        advance(1)


class _Lines:
    """Prints progress as lines, at most every ``QUIET`` seconds."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self.what, self.total, self.done, self.printed = what, total, done, time.monotonic()

    def advance(self, more: int = 1, total: int | None = None) -> None:
        self.done, self.total = self.done + more, self.total if total is None else total
        if time.monotonic() - self.printed >= QUIET:
            self.printed = time.monotonic()
            of = "" if self.total is None else f" of {self.total:,}"
            print(f"{self.done:,}{of} {self.what}", file=sys.stderr, flush=True)  # noqa: T201
