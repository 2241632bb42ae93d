"""Paths as a user gives them."""

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Return a path with ~ or ~NAME as that home.

    Raises:
        ValueError: if nobody knows where that is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with a home that is not known; write the path out, or set HOME") from error
