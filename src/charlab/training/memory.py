"""How the process deals with memory that tensors on the CPU have freed."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3), in malloc.h
LIMIT_OF_OLD_VERSIONS = 32 * 2**20  # a larger threshold for mmap is refused by some


def keep_freed_memory() -> None:
    """Lets the C library keep what is freed for the next step, which needs the same again.

    By default glibc asks the system for each large block and gives it back when it is freed. The system fills every
    page with zeros when it is touched for the first time, so a small transformer spent a seventh of each step in that.
    Elsewhere than with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        largest = 2**31 - 1
        for threshold in (LIMIT_OF_OLD_VERSIONS, largest):
            mallopt(M_MMAP_THRESHOLD, threshold)
        mallopt(M_TRIM_THRESHOLD, largest)
