"""What the C library does with memory that is no longer used."""

import ctypes
import sys


def keep_big_buffers() -> None:
    """Tell glibc to keep the memory of big batches between batches; elsewhere do nothing.

    By default it hands every buffer of some MB back to the system and faults it in again, which costs a ResNet on a CPU
    up to half of its rate, and a decode process a fifth to a third of its time. Call it before torch is imported: a
    thread that has a heap of its own keeps it. In a program of one's own, MALLOC_ARENA_MAX=1 in the environment does
    the same for the heaps.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8
        _ = mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 1 << 25)  # all that an older glibc takes
        mallopt(trim_threshold, 1 << 30)
        mallopt(arena_max, 1)  # the heaps of other threads are too small for big buffers
