"""Output: whether it can be written, found out before the work is done, and files that are whole. Loads no PyTorch."""

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def check_file(path: Path, option: str = "--out") -> None:
    """Raise OSError if a file cannot be written where it is to be; its folder is not made."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder; make it, or name another {option}")
    check_folder(path.parent, path.name, option=option)


def beside(path: Path) -> Path:
    """Return where a file is written before it takes its place; what is there is left by a process that was killed."""
    return path.with_name(path.name + ".new")


def write_whole(path: Path, content: str | bytes, previous: Path | None = None) -> Path:
    """Write a file beside its place and move it there, so that it is always whole, the old one or the new one.

    Args:
        path: the file.
        content: what is to be in it; text is written in UTF-8.
        previous: where to move the file that was there; None if it is not kept.

    Returns:
        The path.

    Raises:
        OSError: if that cannot be done; what was there is as it was.
    """
    # the name of a folder need not be UTF-8, and a page that holds it is
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    new = beside(path)
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the name is moved: after a power cut the file would be empty
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return path


def write_picture(path: Path, figure: "Figure") -> Path:
    """Write a figure as PNG, as ``write_whole`` does; equal figures give equal bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": ""})
    return write_whole(path, picture.getvalue())
