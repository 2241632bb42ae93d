"""The program's standard streams, wherever they go: a terminal with a small character set, a closed pipe, nothing."""

import codecs
import io
import os
import sys

GONE = 128 + 13
"""Exit code after the reader of the output has closed it, as for a program that SIGPIPE ends."""


def prepare() -> None:
    """Make standard output and error accept any text, and replace those that the program was started without."""
    _fill_descriptors()
    codecs.register_error("pursuitnet", _encodable)
    sys.stdout, sys.stderr = sys.stdout or _null_stream(), sys.stderr or _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pursuitnet")


def discard_output() -> None:
    """Discard what is not written yet; otherwise the interpreter would report an error as it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fill_descriptors() -> None:
    """Open closed ones on the null device, so that no file takes their number and is written into by mistake."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _null_stream() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the replacement of a character that a stream cannot write: the raw byte of a name not in UTF-8, or "?"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = ord(error.object[error.start])
    return bytes([character - 0xDC00]) if 0xDC80 <= character <= 0xDCFF else "?", error.start + 1
