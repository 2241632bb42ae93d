"""How far long work has come: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")

QUIET = 10.0
"""Seconds before the first line, and at least between two, where there is no terminal."""


class Advance(Protocol):
    """Takes how many more are done, and how many there are if that was not known before."""

    def __call__(self, more: int = 1, total: int | None = None) -> object: ...


def nothing(more: int = 1, total: int | None = None) -> None:
    """Show nothing."""


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
    """Show on stderr how many are done; what is yielded takes how many more are.

    Args:
        what: is counted, such as "images".
        total: how many there are, if that is known yet.
        done: how many were before.
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
        print(line, flush=True)  # noqa: T201 (this is what it is for)
        return
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)


def counted(items: Iterable[T], advance: Callable[[int], object]) -> Iterator[T]:
    """Yield items, each of which counts when whoever asked for it asks for the next."""
    for item in items:
        yield item
        advance(1)


class _Lines:
    """Says how far it is, not more often than every ``QUIET`` seconds."""

    def __init__(self, what: str, total: int | None, done: int) -> None:
        self.what, self.total, self.done, self.told = what, total, done, time.monotonic()

    def advance(self, more: int = 1, total: int | None = None) -> None:
        self.done, self.total = self.done + more, self.total if total is None else total
        if time.monotonic() - self.told >= QUIET:
            self.told = time.monotonic()
            of = "" if self.total is None else f" of {self.total:,}"
            print(f"{self.done:,}{of} {self.what}", file=sys.stderr, flush=True)  # noqa: T201
