"""Paths as a user gives them."""

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Return a path with ~ or ~NAME as that home.

    Raises:
        TypeError: for what is no path.
        ValueError: if nobody knows where that is.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path is {path!r:.50}; expected a string or a Path, such as 'runs/first'")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with a home that is not known; write the path out, or set HOME") from error
