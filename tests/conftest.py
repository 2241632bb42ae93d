"""What holds for all tests: threads that do not fight over the cores, and no process that outlives its test."""

import os
import signal
import subprocess
import sys

import pytest

from pursuitnet.cores import settle

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch is loaded, here and in the programs that tests start
settle()


@pytest.fixture
def start():
    """Start a program in a session of its own; what is left of it when the test ends, however it ends, is killed."""
    started = []

    def begin(*arguments, **options):
        started.append(
            subprocess.Popen([sys.executable, *map(str, arguments)], start_new_session=True, text=True, **options)
        )
        return started[-1]

    yield begin
    for process in started:
        with process:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
