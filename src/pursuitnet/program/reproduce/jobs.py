"""Running cells: each in a process of its own, several at once, on this machine or on a cluster."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from pursuitnet.program.lock import LOCK_TIMEOUT, LockedError, run_lock
from pursuitnet.program.recipe import Recipe
from pursuitnet.program.run_folder import RunFolder
from pursuitnet.program.threads import available

__all__ = ["RETRY_TIMEOUT", "Job", "LockedError", "local", "run_all", "run_in_subprocess", "run_job", "started"]

RETRY_TIMEOUT = 120.0
"""Seconds that a run waits for its folder where a worker may have been lost with it: a file server needs as many to see
that a machine is gone, and a run that is tried again at once must not be refused until then."""


@dataclass(frozen=True)
class Job:
    """A run that is to end in the ledger.

    Attributes:
        recipe: with its seed, its data_dir and its device.
        key: name of its record.
        ledger: folder of the records.
        runs: folder of the run folders, which is shared by all machines.
        deadline: time (as of ``time.time``) at which it is stopped, to go on another day; None for none.
    """

    recipe: Recipe
    key: str
    ledger: str
    runs: str
    deadline: float | None = None

    @property
    def folder(self) -> Path:
        return Path(self.runs, self.key)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "recipe": self.recipe.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        values = json.loads(text)
        return cls(**{**values, "recipe": Recipe.from_json(values["recipe"])})


def run_job(job: Job, wait: float = RETRY_TIMEOUT) -> str:
    """Train in this process, going on where the run was cut off, and add the record; return its key.

    A loss that stops being a number is a result too: its record says so and has no accuracy.

    Args:
        job: what to run.
        wait: seconds to wait for another process that is at it.

    Raises:
        LockedError: if another process is still at it.
        StoppedError: if it was asked to stop; and what ``train`` raises.
    """
    from pursuitnet.program import train
    from pursuitnet.program.reproduce.ledger import Ledger, checksum, key, machine
    from pursuitnet.program.train.run import number_formats
    from pursuitnet.program.train.trainer import precision_name, precision_of

    ledger = Ledger(Path(job.ledger))
    if job.key in ledger:
        return job.key
    if key(job.recipe, checksum(job.recipe.data, job.recipe.data_dir)) != job.key:
        raise ValueError(f"the data in {job.recipe.data_dir} is not that of the plan; plan anew")
    with run_lock(job.folder, wait):
        if job.key in ledger:  # by whoever had the folder before
            return job.key
        run = RunFolder(job.folder)
        try:
            train.train(job.recipe, job.folder, resume=True)  # which begins where there is no checkpoint yet
            epochs, record = run.read_epochs(), run.read_record()
        except FloatingPointError as error:
            epochs = run.read_epochs()
            said = {"seconds": sum(epoch["seconds"] for epoch in epochs), "diverged": str(error.__cause__ or error)}
            device = train.device_of(job.recipe)
            precision = number_formats(epochs, precision_name(precision_of(job.recipe, device)))
            record = {**train.versions(), "device": str(device), "precision": precision, **said}
        recipe = {**job.recipe.to_json(), "data_dir": None}
        data = checksum(job.recipe.data, job.recipe.data_dir)
        ledger.add(job.key, {**record, "recipe": recipe, "data": data, "machine": machine(), "epochs": epochs})
    return job.key


def run_in_subprocess(job: Job, at_once: int = 1, stop: Event | None = None) -> str:
    """Train in a process of its own, so that a crash loses this run alone; return the key.

    Args:
        job: what to run.
        at_once: how many such processes share this machine's cores.
        stop: once it is set, the process keeps what it has and ends.

    Raises:
        RuntimeError: if it failed, with its last line.
        TimeoutError: if the deadline or ``stop`` came; the run can go on another day.
    """
    stop = stop or Event()
    if over := _over(job, stop):
        raise TimeoutError(f"not begun: {over}")
    with started("pursuitnet.program.reproduce.jobs", at_once) as process:
        content: str | None = job.to_json()
        while True:
            try:
                said = process.communicate(content, timeout=0.2)[1]
                break
            except subprocess.TimeoutExpired:
                content = None  # it has been handed over
            if over := _over(job, stop):
                process.terminate()
                process.communicate()
                raise TimeoutError(f"cut off: {over}; it goes on from its checkpoint next time")
    if process.returncode:
        last = (said.strip().splitlines() or [f"process ended with {process.returncode}"])[-1]
        raise RuntimeError(last)
    return job.key


def _over(job: Job, stop: Event) -> str:
    """Return why no more of a job is to be run, or nothing."""
    if stop.is_set():
        return "interrupted"
    return "the time is up" if job.deadline is not None and time.time() > job.deadline else ""


def environment(at_once: int) -> dict[str, str]:
    """Return the environment of one of so many processes: its share of the cores, unless the user says otherwise."""
    return {"OMP_NUM_THREADS": str(max(1, available() // at_once)), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def started(module: str, at_once: int) -> "subprocess.Popen[str]":
    """Start a module in a process that takes its share of the cores, unless OMP_NUM_THREADS says how many."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        env=environment(at_once),
        text=True,
        errors="replace",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the one who started it, who then ends it
    )


def local(at_once: int) -> Executor:
    """Return an executor that runs so many processes at once on this machine."""
    return ThreadPoolExecutor(at_once, "run")


def run_all(
    jobs: Iterable[Job],
    executor: Executor,
    ended: Callable[[Job, str | BaseException], None],
    function: Callable[[Job], str] = run_in_subprocess,
    **options: Any,
) -> int:
    """Run jobs through any executor; return how many did not end in the ledger.

    Args:
        jobs: what is missing.
        executor: of ``concurrent.futures``, or Dask's.
        ended: is told of every job and its key, or what went wrong with it.
        function: what is run: ``apart`` in this machine's processes, ``work`` where the executor has its own.
        options: for the executor's ``submit``, such as Dask's resources and retries.
    """
    futures: dict[Future[str], Job] = {executor.submit(function, job, **options): job for job in jobs}
    failed = 0
    try:
        for future in as_completed(futures):
            error = future.exception()
            failed += error is not None
            ended(futures[future], error or future.result())
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    return failed


def main() -> None:
    """Run the job on standard input; the last line of standard error says what went wrong."""
    from pursuitnet.program.train import StoppedError

    try:
        run_job(Job.from_json(sys.stdin.read()), wait=LOCK_TIMEOUT)
    except StoppedError as stop:
        sys.exit(128 + stop.signal)
    except Exception as error:  # its last line is all that the other side reads
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
