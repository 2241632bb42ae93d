"""Who works in a run folder: one process at a time, told by a lock that dies with its process. Loads no PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pursuitnet.program.run_folder import RunFolder

LOCK_TIMEOUT = 2.0
"""Seconds to wait for a lock: whoever only looks whether a run is at work holds it for an instant."""


class LockedError(OSError):
    """Another process is at work in this run folder."""


@contextmanager
def run_lock(folder: Path, wait: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Own a run folder, which is made if it is not there; again and again in one thread, but no one else beside it.

    The lock is the operating system's: it ends with the process, however that ends, on another machine of a shared
    file system too (on NFS by its own locks, which a server gives up up to some minutes after a machine is lost).

    Args:
        folder: the run's.
        wait: seconds to wait for it.

    Raises:
        OSError: if the folder cannot be written to.
        LockedError: if another process owns it.
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
    """Raise LockedError if another process owns a run folder."""
    if RunFolder(folder).lock.exists():
        with run_lock(folder):
            pass


def is_locked(folder: Path) -> bool:
    """Return whether a process owns a run folder; one that cannot be looked at counts as owned while it says so."""
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
