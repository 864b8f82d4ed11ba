"""Memory for large results that goes back on a shelf when nobody holds the result any more.

The system zeroes every page of a fresh array before it is written, which for rows of megabytes costs as much as copying
them. A training loop drops one batch as it reads the next, so a batch can lie where an earlier one lay.
"""

import ctypes
import math
import weakref
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SMALLEST_BYTES = 1 << 20
"""Below this the allocator recycles memory itself."""
KEPT_BYTES = 1 << 30
"""Memory kept while nobody uses it, at most."""


class RecycledMemory:
    """Hands out arrays and takes their memory back once they, and every view of them, are gone.

    There is no lock, which a fork could leave closed for ever: each step on the shelf is one operation of a dict.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_bytes = kept_bytes
        self._shelf: dict[int, Array] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array of undefined content, C-contiguous and writable, like `np.empty`."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < SMALLEST_BYTES:
            return np.empty(shape, dtype)
        block = self._take(n_bytes)
        # numpy lets a view hold the innermost owner alone, so what is watched lies beneath them all.
        lease: Any = (ctypes.c_char * n_bytes).from_buffer(block.data)
        weakref.finalize(lease, self._give_back, block).atexit = False
        return np.frombuffer(lease, dtype).reshape(shape)

    def kept_bytes(self) -> int:
        """Return how much memory waits for its next use."""
        return sum(block.nbytes for block in list(self._shelf.values()))

    def _take(self, n_bytes: int) -> Array:
        """Return the smallest block on the shelf that fits without wasting half of it, else a new one."""
        blocks = list(self._shelf.values())  # one step; others may come back while we sort
        for block in sorted(blocks, key=lambda block: block.nbytes):
            if n_bytes <= block.nbytes <= 2 * n_bytes and self._shelf.pop(id(block), None) is not None:
                return block
        return np.empty(n_bytes, np.uint8)

    def _give_back(self, block: Array) -> None:
        """Keep a block; the oldest ones go where there is too much."""
        self._shelf[id(block)] = block
        for key in list(self._shelf):
            if self.kept_bytes() <= self._kept_bytes:
                return
            self._shelf.pop(key, None)
