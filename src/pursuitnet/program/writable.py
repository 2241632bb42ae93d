"""Output: checked for being writable before the work starts, and files written whole. Loads no PyTorch."""

import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_folder(folder: Path, *names: str, option: str = "--out") -> None:
    """Raise OSError if a folder cannot be created or written to, or a file of these names in it cannot be replaced.

    It is tried with a temporary file: permissions do not show that a file system is read-only.

    Args:
        folder: where the output goes.
        names: of its files.
        option: the option that gives another folder.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{folder} cannot be written to: {existing} is not a folder; name another {option}")
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise type(error)(f"{folder} cannot be written to ({error.strerror}); name another {option}") from error
    for path in (folder / name for name in names):
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise PermissionError(f"{path} cannot be replaced; name another {option}")


def check_file(path: Path, option: str = "--out") -> None:
    """Raise OSError if a file cannot be written at its path; its folder is not created."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is not a folder; create it, or name another {option}")
    check_folder(path.parent, path.name, option=option)


def temporary_path(path: Path) -> Path:
    """Return where a file is written before it is moved to its path; a killed process may leave it behind."""
    return path.with_name(path.name + ".new")


def write_whole(path: Path, content: str | bytes, previous: Path | None = None) -> Path:
    """Write a file next to its path and move it there, so that the path always holds a whole file, old or new.

    Args:
        path: the file.
        content: of the file; text is written in UTF-8.
        previous: where to move the file that was there; None if it is not kept.

    Returns:
        The path.

    Raises:
        OSError: if it cannot be written; the old file is unchanged.
    """
    # pages are UTF-8, but the folder names in them need not be
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    new = temporary_path(path)
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before it is moved: otherwise the file may be empty after a power cut
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return path


def write_picture(path: Path, figure: "Figure", dpi: int = 110) -> Path:
    """Write a figure as PNG, as ``write_whole`` does; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    figure.set_dpi(dpi)
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": ""})  # type: ignore[no-untyped-call]  # savefig draws twice
    return write_whole(path, picture.getvalue())
