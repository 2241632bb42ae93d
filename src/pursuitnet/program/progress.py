"""How far a long command has come: a bar on a terminal, a line now and then elsewhere. Loads no PyTorch."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET = 10.0
"""Seconds before the first line, and at least between two, where there is no terminal."""


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on stderr how many are done; what is yielded takes how many more are.

    Args:
        what: is counted, such as "images".
        total: how many there are.
    """
    if not sys.stderr.isatty():
        yield _Lines(what, total)
        return
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    with tqdm(total=total, unit=f" {what}", leave=False, dynamic_ncols=True) as bar:
        yield bar.update


class _Lines:
    """Says how far it is, not more often than every ``QUIET`` seconds."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self.told = what, total, 0, time.monotonic()

    def __call__(self, more: int = 1) -> None:
        self.done += more
        if time.monotonic() - self.told >= QUIET:
            self.told = time.monotonic()
            print(f"{self.done:,} of {self.total:,} {self.what}", file=sys.stderr, flush=True)  # noqa: T201
