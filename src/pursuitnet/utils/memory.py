"""Whether memory that tensors free is kept for the next ones or returned to the system."""

import ctypes
import os
import sys
from collections.abc import Mapping

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of two settings in malloc.h."""
LARGEST_BLOCK = 2**25
"""The largest block, in bytes, that the C library can keep; it returns larger ones as soon as they are freed."""


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Keep memory that tensors free for the next ones, in this process and until it ends.

    The C library of Linux returns it to the system, which clears every page when it is used again; that may take a
    third of the time of ``solve`` or of a training step on a CPU. The program calls this itself; a script that computes
    with images calls it once. The peak of the memory stays about the same.

    Args:
        environment: where the user may have chosen otherwise, by ``MALLOC_TRIM_THRESHOLD_``,
            ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES``.

    Returns:
        Whether freed memory is kept now: False where the user has chosen, and with another C library.

    Raises:
        TypeError: for an environment that is no mapping.
    """
    if not isinstance(environment, Mapping):
        raise TypeError(f"environment is {environment!r}; expected a mapping of names to values, such as os.environ")
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & environment.keys()
    if not sys.platform.startswith("linux") or chosen or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: LARGEST_BLOCK}
    return all(library.mallopt(setting, value) for setting, value in settings.items())
