"""The program: arguments → command. PyTorch is loaded only when a command needs it."""

import sys
import warnings
from contextlib import suppress

from cyclopts import App, CycloptsError

from pursuitnet.program import arguments, hints, streams, threads
from pursuitnet.program.commands.apply import apply
from pursuitnet.program.commands.evaluate import evaluate
from pursuitnet.program.commands.export import export
from pursuitnet.program.commands.inspect import inspect
from pursuitnet.program.commands.learn import learn
from pursuitnet.program.commands.models import models
from pursuitnet.program.commands.predict import predict
from pursuitnet.program.commands.reproduce import reproduce
from pursuitnet.program.commands.runs import runs
from pursuitnet.program.commands.simulate import simulate
from pursuitnet.program.commands.train import train
from pursuitnet.utils.memory import keep_freed_memory
from pursuitnet.utils.version import __version__

app = App(
    name="pursuitnet",
    help="Train and look into networks whose layers are pursuits: a few steps of a sparse-coding solver.",
    version=__version__,
    help_on_error=False,
    config=arguments.STEPS,
)
for command in (train, evaluate, inspect, predict, apply, learn, export, simulate, reproduce, runs, models):
    app.command(command)


def main() -> None:
    """Run the program; what a user got wrong ends in one line and exit code 2, a closed pipe without a word."""
    threads.set_thread_defaults()  # before PyTorch is loaded
    keep_freed_memory()
    warnings.formatwarning = lambda message, *_, **__: f"pursuitnet: {message}\n"
    streams.prepare()
    try:
        code = _run()
        if code == 0:  # what has failed has been said once
            sys.stdout.flush()
    except BrokenPipeError:
        code = streams.GONE
    except OSError as error:  # of the streams themselves, such as a full disk behind them
        code = _fail(str(error))
    streams.discard_output()
    sys.exit(code)


def _run() -> int:
    """Run the program; return its exit code."""
    try:
        app(exit_on_error=False, print_error=False)
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        raise
    except CycloptsError as error:
        return _fail(hints.error_line(error))
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return _fail(
            "interrupted; what was done is kept: train and learn go on with --out DIR --resume, "
            "reproduce when it is called again",
            code=130,
        )


def _fail(message: str, code: int = 2) -> int:
    """Say what went wrong, if anyone listens; return the exit code."""
    with suppress(OSError):
        print(f"pursuitnet: {message}", file=sys.stderr, flush=True)
    return code
