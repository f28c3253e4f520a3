"""Keep freed memory in the process, instead of giving it back to the system after each use.

    keep_freed_memory()          # once, before training or decoding

glibc returns a large block to the system as soon as it is freed, and the system clears each page before the next use.
A training step allocates and frees the same blocks again and again: with 4 layers of 128 and 768 tokens that was 3,800
page faults and 8 ms of the system per step. Memory of the process grows to the largest step, and stays there.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of mallopt, from malloc.h of glibc.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
SETTINGS = {
    MMAP_THRESHOLD: 32 * 2**20,  # the largest that glibc takes; blocks above it are still given back
    TRIM_THRESHOLD: 2**30,  # free bytes at the end of the heap that are kept
    TOP_PAD: 16 * 2**20,  # bytes that the heap grows by, at least
}
OWN = ("MALLOC_", "GLIBC_TUNABLES")  # a user who set one of these has decided


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks up to 32 MiB. Returns whether it did.

    Nothing is done without glibc, and where the user has set the allocator in the environment.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(OWN) for name in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    taken = [library.mallopt(number, value) == 1 for number, value in SETTINGS.items()]
    return all(taken)
