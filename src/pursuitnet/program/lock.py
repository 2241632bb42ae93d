"""The lock of a run folder: one process at a time, released when that process ends. Loads no PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pursuitnet.program.run_folder import RunFolder

LOCK_TIMEOUT = 2.0
"""Seconds to wait for a lock; a process that only checks whether a run is active holds it for an instant."""


class LockedError(OSError):
    """Another process is using this run folder."""


@contextmanager
def run_lock(folder: Path, wait: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if missing; reentrant in one thread, exclusive between processes.

    The lock is the operating system's: it is released when the process ends, however it ends, also for processes on
    other machines of a shared file system (on NFS by its own locks, which a server may release some minutes after it
    has lost a machine).

    Args:
        folder: the run folder.
        wait: seconds to wait for it.

    Raises:
        OSError: if the folder cannot be written to.
        LockedError: if another process holds the lock.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(RunFolder(folder.resolve()).lock, is_singleton=True)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise LockedError(
            f"{folder} is being run by another process; wait until it has ended, or stop it first"
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_free(folder: Path) -> None:
    """Raise LockedError if another process holds the lock of a run folder."""
    if RunFolder(folder).lock.exists():
        with run_lock(folder):
            pass


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock of a run folder.

    A lock that cannot be tried counts as held as long as the folder has a running.json.
    """
    from filelock import FileLock, Timeout

    path = RunFolder(folder.resolve()).lock
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's folder, or one that can only be read
        return RunFolder(folder).running.exists()
