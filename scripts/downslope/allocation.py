"""What large tensors free stays with the process, for the next ones.

By default glibc gives freed blocks of tens of megabytes back to the system at once, and takes the
next ones from there: each layer's results are then pages that the kernel has to find and to fill
with zeros, which took up to a sixth of the time of scoring on a CPU.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h; the numbers are part of glibc's interface.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_GROWN = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _MMAP_MAX: 65536}
"""What glibc's own adjustment comes to, at most, in a process with large blocks."""
_KEPT = {_TRIM_THRESHOLD: (1 << 31) - 1, _MMAP_MAX: 0, _ARENA_MAX: 1}
"""One heap for all threads that begin from here on: those of their own come and go with what they
hold, and what one lane frees is of no use to the other."""


def keep_freed_memory() -> bool:
    """From here on, keep up to 2 GB of freed memory; False where the C library is another one."""
    return _set(_KEPT)


@contextmanager
def ordinary_allocation() -> Iterator[None]:
    """Inside, memory is taken and given back as in a process that has asked for nothing, but for
    the one heap, on which glibc does not go back; behind, it is kept."""
    if _set(_GROWN):
        ctypes.CDLL(None).malloc_trim(0)  # what has been kept so far would go on being used
    try:
        yield
    finally:
        keep_freed_memory()


def _set(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        logging.getLogger("downslope").debug("the C library has no mallopt")
        return False
    taken = [mallopt(option, value) == 1 for option, value in options.items()]
    return all(taken)
