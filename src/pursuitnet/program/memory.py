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
    """Keep freed memory for the next tensors, unless the user has set otherwise; return whether it is kept.

    The GNU C library returns it to the system, which clears every page when it is used again: that is a tenth to a
    third of the time of a training step. The largest memory of a process does not change.
    """
    chosen = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & environment.keys()
    if not sys.platform.startswith("linux") or chosen or "glibc.malloc" in environment.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_THRESHOLD: LARGEST_BLOCK}
    return all(library.mallopt(setting, value) for setting, value in settings.items())
