"""Paths as a user writes them."""

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Return a path with ~ or ~NAME replaced by that home directory.

    Raises:
        ValueError: if that home directory is unknown.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path} begins with a home that is not known; write the path out, or set HOME") from error
