"""Programs that tests start: each in a session of its own, of which nothing is left when its test ends, however."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from pursuitnet.program import cli


@contextlib.contextmanager
def started(*arguments: object, **options) -> "Iterator[subprocess.Popen[str]]":
    """Start Python with these arguments; at the end all that it has started and that is left is killed."""
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, start_new_session=True, **{"text": True, **options}) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finished(*arguments: object, **options) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments to its end, however long it takes; return what it said."""
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        said, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)


def program(monkeypatch, capsys, *arguments):
    """Run the program here; return its code, what it printed and what it said."""
    with monkeypatch.context() as here:
        here.setattr(cli, "app", partial(cli.app, list(map(str, arguments))))
        here.setattr("warnings.formatwarning", None)  # put back afterwards
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, *capsys.readouterr()
    return 0, *capsys.readouterr()
