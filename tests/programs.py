"""The program and processes, as tests run them.

Where the claim is not about a process of its own, the program is called in this one (``called``, ``program``). Where it
is, but not about how Python starts, a process is split off one that has PyTorch already (``split_off``). Else it is
started (``started``, ``finished``), in a session of its own, of which nothing is left when its test ends, however.
"""

import contextlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from unittest.mock import patch

from pursuitnet.program import cli


def called(*arguments: object, cwd: Path | str = ".", code: int = 0) -> str:
    """Run the program here; return what it printed, or what it said about what went wrong."""
    said, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(errors),
        patch.object(cli, "app", partial(cli.app, list(map(str, arguments)))),
        patch("warnings.formatwarning"),  # the program sets its own; put back afterwards
    ):
        try:
            cli.main()
            found = 0
        except SystemExit as end:
            found = end.code or 0
    assert found == code, errors.getvalue()
    return said.getvalue() if code == 0 else errors.getvalue()


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


_SPLIT = multiprocessing.get_context("forkserver")
_SPLIT.set_forkserver_preload(
    ["pursuitnet.program.train", "pursuitnet.program.report", "sklearn.datasets", "torch._dynamo"]
)


def split_off(function: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Call a function of a test module in a process that is split off one with PyTorch in it.

    It does not see what a test has changed in this process. It is killed if this one ends before it.
    """
    process = _SPLIT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


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
