"""Memory of a training process on a CPU."""

import ctypes
import sys

# Of <malloc.h>: when memory at the end of the heap goes back, by how much it grows, how many pieces live outside it.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees, if its allocator is glibc's; whether it is.

    By default glibc returns every large tensor's memory when it is freed, and the system clears it again, page by page,
    for the next one. A training step needs the same memory as the one before it.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    options = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    return set_option is not None and all(set_option(name, value) for name, value in options.items())
