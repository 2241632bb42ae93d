"""The program's standard streams, whatever they lead to: a terminal with few letters, a pipe that closes, nothing."""

import codecs
import io
import os
import sys

GONE = 128 + 13
"""Exit code after the reader of the output has gone, as of a program that SIGPIPE ends."""


def prepare() -> None:
    """Make standard output and error take any text, and stand for those that the program was started without."""
    _fill_descriptors()
    codecs.register_error("pursuitnet", _shown)
    sys.stdout, sys.stderr = sys.stdout or _null_stream(), sys.stderr or _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="pursuitnet")


def discard_output() -> None:
    """Send what is still to be written to nowhere; else the interpreter would complain of it as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _fill_descriptors() -> None:
    """Let closed ones lead nowhere, so that no file is opened in their place and written into by mistake."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)


def _null_stream() -> io.TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for a letter that a stream cannot write: the byte itself of a name that is not UTF-8, or ?."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = ord(error.object[error.start])
    return bytes([letter - 0xDC00]) if 0xDC80 <= letter <= 0xDCFF else "?", error.start + 1
