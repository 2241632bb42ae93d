"""Run cells, each in its own process, several at once, on this machine or on a cluster."""

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
from pursuitnet.utils.memory import keep_freed_memory

__all__ = ["RETRY_TIMEOUT", "Job", "LockedError", "local", "run_all", "run_in_subprocess", "run_job", "start_process"]

RETRY_TIMEOUT = 120.0
"""Seconds that a run waits for the lock of its folder: a file server needs about this time to notice that the machine
of the last worker is gone, and a run that is retried at once must not fail until then."""


@dataclass(frozen=True)
class Job:
    """A run whose record is to be added to the ledger.

    Attributes:
        recipe: with its seed, its data_dir and its device.
        key: name of its record.
        ledger: folder of the records.
        runs: folder of the run folders, which is shared by all machines.
        deadline: time (as of ``time.time``) at which it is stopped, to be continued another time; None for none.
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
    """Train in this process, continuing from the last checkpoint, and add the record; return its key.

    A run whose loss diverges gets a record too, which says so and has no accuracy.

    Args:
        job: what to run.
        wait: seconds to wait for another process that is running it.

    Raises:
        LockedError: if another process is still running it.
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
        raise ValueError(f"the data in {job.recipe.data_dir} is not that of the plan; plan again")
    with run_lock(job.folder, wait):
        if job.key in ledger:  # added by the process that held the lock before
            return job.key
        run = RunFolder(job.folder)
        try:
            train.train(job.recipe, job.folder, resume=True)  # starts if there is no checkpoint yet
            epochs, record = run.read_epochs(), run.read_record()
        except FloatingPointError as error:
            epochs = run.read_epochs()
            outcome = {"seconds": sum(epoch["seconds"] for epoch in epochs), "diverged": str(error.__cause__ or error)}
            device = train.device_of(job.recipe)
            precision = number_formats(epochs, precision_name(precision_of(job.recipe, device)))
            record = {**train.versions(), "device": str(device), "precision": precision, **outcome}
        recipe = {**job.recipe.to_json(), "data_dir": None}
        data = checksum(job.recipe.data, job.recipe.data_dir)
        ledger.add(job.key, {**record, "recipe": recipe, "data": data, "machine": machine(), "epochs": epochs})
    return job.key


def run_in_subprocess(job: Job, at_once: int = 1, stop: Event | None = None) -> str:
    """Train in a separate process, so that a crash loses only this run; return the key.

    Args:
        job: what to run.
        at_once: number of such processes that share this machine's cores.
        stop: once it is set, the process saves a checkpoint and ends.

    Raises:
        RuntimeError: if it failed, with its last line.
        TimeoutError: at the deadline or after ``stop``; the run can be continued another time.
    """
    stop = stop or Event()
    if reason := _stop_reason(job, stop):
        raise TimeoutError(f"not started: {reason}")
    with start_process("pursuitnet.program.reproduce.jobs", at_once) as process:
        content: str | None = job.to_json()
        while True:
            try:
                stderr = process.communicate(content, timeout=0.2)[1]
                break
            except subprocess.TimeoutExpired:
                content = None  # it has been sent
            if reason := _stop_reason(job, stop):
                process.terminate()
                process.communicate()
                raise TimeoutError(f"stopped: {reason}; it continues from its checkpoint next time")
    if process.returncode:
        last = (stderr.strip().splitlines() or [f"process ended with {process.returncode}"])[-1]
        raise RuntimeError(last)
    return job.key


def _stop_reason(job: Job, stop: Event) -> str:
    """Return why a job must stop, or an empty string if it need not."""
    if stop.is_set():
        return "interrupted"
    return "the time is up" if job.deadline is not None and time.time() > job.deadline else ""


def environment(at_once: int) -> dict[str, str]:
    """Return the environment of one of ``at_once`` processes: its share of the cores, unless the user has set it."""
    return {"OMP_NUM_THREADS": str(max(1, available() // at_once)), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}


def start_process(module: str, at_once: int) -> "subprocess.Popen[str]":
    """Start a module in a process that uses its share of the cores, unless OMP_NUM_THREADS is set."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        env=environment(at_once),
        text=True,
        errors="replace",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C goes to the parent process, which then ends this one
    )


def local(at_once: int) -> Executor:
    """Return an executor that runs ``at_once`` processes at a time on this machine."""
    return ThreadPoolExecutor(at_once, "run")


def run_all(
    jobs: Iterable[Job],
    executor: Executor,
    ended: Callable[[Job, str | BaseException], None],
    function: Callable[[Job], str] = run_in_subprocess,
    **options: Any,
) -> int:
    """Run jobs with an executor; return the number of those that did not end in the ledger.

    Args:
        jobs: to run.
        executor: of ``concurrent.futures``, or Dask's.
        ended: called with every job and its key, or its error.
        function: ``run_in_subprocess`` on this machine, or ``run_job`` if the executor has its own processes.
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
    """Run the job given on standard input; an error is the last line of standard error."""
    from pursuitnet.program.train import StoppedError

    try:
        run_job(Job.from_json(sys.stdin.read()), wait=LOCK_TIMEOUT)
    except StoppedError as stop:
        sys.exit(128 + stop.signal)
    except Exception as error:  # the parent process reads only the last line
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    keep_freed_memory()
    main()
