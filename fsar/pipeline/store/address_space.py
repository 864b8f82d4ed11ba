"""Chunk files side by side in one run of addresses, so that numpy sees a single array over all of them.

A range of addresses is reserved once and each chunk file is mapped into its own slot on first use. One fancy index over
that array then costs what it costs over one big .npy map; a Python loop over chunks costs several times that for small
rows. The Python object that reserved the range owns it and unmaps all of it, so no address outlives its array.

Python's mmap cannot map at a given address, so the C library's is called, with MAP_FIXED and only inside the range.
Whatever refuses (another system, too many chunks or mappings, files whose rows begin elsewhere in a page) raises
OSError, and `Gather` goes on with one ordinary map per chunk: the same numbers, small rows more slowly.
"""

import ctypes
import functools
import math
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fsar.files import open_plain
from fsar.pipeline.store.format.layout import ArraySpec

_MAP_PRIVATE, _MAP_FIXED = 0x02, 0x10
MAX_SLOTS = 16_384
"""The kernel allows 65,530 mappings per process by default."""
MAX_BYTES = 1 << 44


class AddressSpace:
    """A (slots * stride, *tail) array over chunk files; slot i begins at row i * `stride_rows`."""

    def __init__(self, spec: ArraySpec, chunk_rows: int, n_chunks: int, delta: int) -> None:
        """Reserve the range.

        Args:
            spec: the array.
            chunk_rows: rows in a chunk file.
            n_chunks: number of slots.
            delta: position of the rows in their first page, the same in every file.

        Raises:
            OSError: this system cannot, or grants no such range.
        """
        page = mmap.ALLOCATIONGRANULARITY
        step = math.lcm(page, spec.row_bytes)
        self.delta, self._map_bytes = delta, chunk_rows * spec.row_bytes + delta
        slot_bytes = -(-self._map_bytes // step) * step
        self.stride_rows = slot_bytes // spec.row_bytes
        total = slot_bytes * n_chunks + page
        if n_chunks > MAX_SLOTS or total > MAX_BYTES:
            raise OSError(f"{n_chunks} chunks of {slot_bytes} bytes are too many to lie side by side")
        self._place = _fixed_mapper()
        self._range = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        self._slot_bytes = slot_bytes
        self._address = np.frombuffer(self._range, np.uint8).ctypes.data
        shape = ((n_chunks * slot_bytes) // spec.row_bytes, *spec.tail)
        self.rows: np.ndarray[Any, Any] = np.ndarray(shape, spec.numpy_dtype, self._range, delta)

    def place(self, index: int, path: Path, offset: int) -> None:
        """Map the rows of chunk `index`, which begin at byte `offset` of the file."""
        with open_plain(path) as file:
            address = self._address + index * self._slot_bytes
            self._place(address, self._map_bytes, file.fileno(), offset - self.delta)

    def will_need(self, index: int, start: int, n_bytes: int) -> None:
        """Ask the kernel to fetch bytes of a slot from the disk, without waiting for them."""
        begin = index * self._slot_bytes + self.delta + start
        aligned = begin - begin % mmap.PAGESIZE
        self._range.madvise(mmap.MADV_WILLNEED, aligned, n_bytes + begin - aligned)


@functools.cache
def _fixed_mapper() -> Callable[[int, int, int, int], None]:
    """Return a function that maps part of a file at a given address inside a range of ours."""
    if sys.platform not in ("linux", "darwin"):
        raise OSError(f"no fixed mappings on {sys.platform}")
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    )

    def place(address: int, n_bytes: int, descriptor: int, offset: int) -> None:
        result = library.mmap(address, n_bytes, mmap.PROT_READ, _MAP_PRIVATE | _MAP_FIXED, descriptor, offset)
        if result != address:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot map a chunk: {os.strerror(error)}")

    return place
