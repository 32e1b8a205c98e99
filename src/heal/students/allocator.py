"""glibc's allocator, told to keep the memory of one training step for the next.

By itself it gives memory back to the system as soon as enough is free, and the next step gets it
again page by page: a sixth of a step's time on a CPU (LOG.md). Blocks over 32 MB still go back:
kept ones would not be found again, for glibc 2.36 wants more than an aligned block to hold another.
With any other allocator nothing is changed.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keeps_memory"]

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""`mallopt`'s names for its settings."""
KEEPING = {MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 1 << 26}
USUAL = {MMAP_THRESHOLD: 1 << 25, TRIM_THRESHOLD: 1 << 26, TOP_PAD: 1 << 17}
"""Where glibc's own rule arrives in a process that has freed large blocks."""


@contextmanager
def keeps_memory() -> Iterator[None]:
    """Freed memory stays with this process while this lasts, and is given back behind it."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    _set(libc, KEEPING)
    try:
        yield
    finally:
        _set(libc, USUAL)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for name, value in values.items():
        libc.mallopt(name, value)
