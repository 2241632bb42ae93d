"""Whether output can be written, found out before the work is done. Loads no PyTorch."""

import os
import tempfile
from pathlib import Path


def check_folder(folder: Path, *names: str, option: str = "--out") -> None:
    """Raise OSError if a folder cannot be made or written into, or holds a file of these names that cannot be replaced.

    It is tried, with a file that is gone at once: permissions do not tell of a file system that can only be read.

    Args:
        folder: where the output goes.
        names: of its files.
        option: that names another folder.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{folder} cannot be written to: {there} is no folder; name another {option}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise type(error)(f"{folder} cannot be written to ({error.strerror}); name another {option}") from error
    for path in (folder / name for name in names):
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise PermissionError(f"{path} cannot be replaced; name another {option}")


def check_file(path: Path) -> None:
    """Raise OSError if a file cannot be written where it is to be; its folder is not made."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it, or name another --out")
    check_folder(path.parent, path.name)
