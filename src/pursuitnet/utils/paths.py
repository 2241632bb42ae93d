"""Paths as a user writes them, and as addresses of pages."""

import os
from pathlib import Path
from urllib.parse import quote


def expanded(path: str | Path) -> Path:
    """Return a path with ~ or ~NAME replaced by that home directory.

    Raises:
        TypeError: if it is not a path.
        ValueError: if that home directory is unknown.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path is {path!r:.50}; expected a string or a Path, such as 'runs/first'")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with a home that is not known; write the path out, or set HOME") from error


def link(page: Path, target: Path) -> str:
    """Return the address of a file, relative to the folder of a page."""
    return quote(os.path.relpath(target.resolve(), page.resolve().parent).replace(os.sep, "/"))
