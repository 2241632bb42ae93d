"""The program and processes, as tests run them.

Where the claim is not about a process of its own, the program is called in this one (``called``, ``program``). Where it
is, but not about how Python starts, a process is split off one that has PyTorch already (``split_off``, and
``LoadedPython`` for a command line). Else it is started (``started``, ``finished``), in a session of its own, of which
nothing is left when its test ends, however.
"""

import contextlib
import gc
import importlib
import io
import itertools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import forkserver, reduction, resource_tracker
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
_PRELOADED = [
    *("pursuitnet.program.train", "pursuitnet.program.report", "pursuitnet.program.commands.train"),
    *("pursuitnet.program.report.pictures", "sklearn.datasets", "torch._dynamo", "pytest", "rich.progress"),
]
_SPLIT.set_forkserver_preload(_PRELOADED)


def fork_server() -> None:
    """Fork the server from this process, which has imported most already, instead of starting a new Python for it.

    To be called before the first test: PyTorch computes no gradients in a process whose parent has computed some.
    """
    for name in _PRELOADED:
        importlib.import_module(name)
    _load_pages()
    gc.freeze()  # what is imported is not searched for garbage, here or there
    resource_tracker.ensure_running()  # in a Python of its own, before the next line
    with patch("multiprocessing.util.spawnv_passfds", _run_in_fork):
        forkserver.ensure_running()


def _load_pages() -> None:
    """Load fonts and compile templates, which nearly every process needs."""
    from pursuitnet.program.report import pictures, template

    pictures.curves([{"epoch": 1, "train_loss": 1.0, "test_loss": 1.0, "test_accuracy": 1.0}])
    environment = template._environment()
    for name in environment.list_templates(["j2"]):
        environment.get_template(name)


def _run_in_fork(_path: str, arguments: list[str | bytes], descriptors: list[int]) -> int:
    """Run Python's code, the last argument, in a copy of this process; the signature is that of what is replaced."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # other threads hold no locks
        process = os.fork()
    if process:
        return process
    try:
        importlib.reload(warnings)  # to pytest they are errors, which it keeps
        bounds = [2, *sorted(descriptors), os.sysconf("SC_OPEN_MAX")]
        for before, after in itertools.pairwise(bounds):
            os.closerange(before + 1, after)
        _open_streams()  # those of pytest are closed
        exec(arguments[-1], {})
    finally:
        os._exit(0)


def split_off(function: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """Call a function of a test module in a process that is split off one with PyTorch in it.

    It does not see what a test has changed in this process. It is killed if this one ends before it.
    """
    process = _SPLIT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


class _Descriptor:
    """A file descriptor that is handed to a process that is split off."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self):
        return _detached, (reduction.DupFd(self.number),)


def _detached(descriptor) -> int:
    return descriptor.detach()


def _become(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int], session: bool) -> None:
    """Be Python with these arguments, ``-m MODULE`` or ``-c CODE`` first, in the process that this is called in."""
    if session:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _open_streams()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the process that this is split off ignores it
    multiprocessing.set_start_method(None, force=True)  # its own processes are started as anywhere else
    option, what, *rest = arguments
    sys.argv = ["", *rest]
    sys.path.insert(0, folder)
    sys.modules.pop("pytest", None)  # by which cyclopts sees a test
    for place in filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)):
        if os.path.exists(f"{place}/sitecustomize.py"):
            runpy.run_path(f"{place}/sitecustomize.py")
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        _forget_the_library()
        exec(what, {"__name__": "__main__"})


def _open_streams() -> None:
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115


def _forget_the_library() -> None:
    """Let the library, but not PyTorch, be imported as for the first time."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("pursuitnet.")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "pursuitnet"]:
        del sys.modules[name]


class LoadedPython(subprocess.Popen):
    """``subprocess.Popen`` of ``[sys.executable, "-m" or "-c", …]`` that has PyTorch already: it is split off.

    All else is as there: streams, signals, the exit code, the folder, the environment and a ``sitecustomize`` in it.
    """

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more):
        stdin, to_stdin, from_stdout, stdout, from_stderr, stderr = more[3:9]
        ends = [own if own != -1 else number for number, own in enumerate((stdin, stdout, stderr))]
        given = [str(cwd or os.getcwd()), dict(os.environ if env is None else env), [*map(_Descriptor, ends)]]
        assert args[1] in ("-m", "-c")
        self._process = _SPLIT.Process(target=_become, args=(args[1:], *given, bool(more[14])))
        self._process.start()
        self.pid, self._child_created, self._closed_child_pipe_fds = self._process.pid, True, True
        for own, other in ((stdin, to_stdin), (stdout, from_stdout), (stderr, from_stderr)):
            if own != -1 and other != -1:  # else it is not a pipe of ours
                os.close(own)

    def _internal_poll(self, _deadstate=None, **_):
        if self.returncode is None:
            self._process.join(0)
            self.returncode = self._process.exitcode
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None:
            self._process.join(timeout)
            if self._internal_poll() is None:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def start_loaded(monkeypatch, module: types.ModuleType) -> None:
    """Let a module that starts Python start it as ``LoadedPython``."""
    monkeypatch.setattr(module, "subprocess", types.SimpleNamespace(**{**vars(subprocess), "Popen": LoadedPython}))


@contextlib.contextmanager
def started(*arguments: object, kind=subprocess.Popen, **options) -> "Iterator[subprocess.Popen[str]]":
    """Start Python with these arguments; at the end all that it has started and that is left is killed."""
    command = [sys.executable, *map(str, arguments)]
    with kind(command, start_new_session=True, **{"text": True, **options}) as process:
        try:
            yield process
        finally:
            process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finished(*arguments: object, **options) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments to its end, however long it takes; return what it said."""
    with started(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        said, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, said, errors)
