"""Whether memory that tensors free is kept for the next ones or returned to the system."""

import ctypes
import os
import sys
from collections.abc import Mapping

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Numbers of settings in malloc.h."""
ALL = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
"""Nothing is returned, and no block, however large, is a mapping of its own, which would be returned when freed."""
SMALL = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 65_536, M_MMAP_THRESHOLD: 2**25}
"""Blocks above 32 MiB, the largest limit that the C library takes, are such mappings."""
CHOICES = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"}
"""Variables by which a user chooses otherwise, beside GLIBC_TUNABLES."""


def keep_freed_memory(environment: Mapping[str, str] = os.environ, *, large: bool = True) -> bool:
    """Keep memory that tensors free for the next ones, in this process and until it ends.

    The C library of Linux returns it to the system, which clears every page when it is used again; that may take a
    third of the time of ``solve`` or of a training step on a CPU, and two thirds for large images. The program calls
    this itself; a script that computes with images calls it once.

    Args:
        environment: where the user may have chosen otherwise, by ``MALLOC_TRIM_THRESHOLD_``,
            ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_MMAP_MAX_`` or ``GLIBC_TUNABLES``.
        large: whether blocks above 32 MiB are kept, too. That saves most of the time for large images, and lets the
            peak of the memory grow by up to a third.

    Returns:
        Whether freed memory is kept now: False where the user has chosen, and with another C library.

    Raises:
        TypeError: for an environment that is no mapping.
    """
    if not isinstance(environment, Mapping):
        raise TypeError(f"environment is {environment!r}; expected a mapping of names to values, such as os.environ")
    chosen = CHOICES & environment.keys()
    if not sys.platform.startswith("linux") or chosen or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(setting, value) for setting, value in (ALL if large else SMALL).items())
