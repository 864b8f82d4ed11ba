"""Shared memory in which a worker process leaves arrays and in which its parent reads them, without a copy between.

A place is lent with a task and is free again when the last array that lies in it is gone here, whoever held it.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

N_PLACES = 16
"""Of one worker process: as many clips as a batch takes, once more for the next batch."""
PLACE_BYTES = 64 << 20
"""What a place can hold, in addresses; memory is taken as it is needed."""
MIN_LENT_BYTES = 1 << 16
"""Smaller results are copied: who keeps one would keep a place."""
MAX_ROOM_BYTES = 1 << 30
SHARE_OF_FREE = 16
"""The places of a pool take at most this part of what is free, and no more than `MAX_ROOM_BYTES`."""
ALIGNED_BYTES = 64
"""Arrays begin on a line of the caches."""


@dataclass(frozen=True)
class PlacedParcel:
    """A value whose arrays lie in a place."""

    head: bytes
    """The value, pickled without them."""
    place: int
    spans: tuple[tuple[int, int], ...]
    """Start and length in bytes of each array, counted from the start of the place."""

    @property
    def n_bytes(self) -> int:
        """Of the place, as far as it is used."""
        return max((start + length for start, length in self.spans), default=0)


class Places:
    """The parent's side."""

    def __init__(self, path: Path, descriptor: int, room_bytes: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.room_bytes = room_bytes
        """That all places together may take."""
        os.ftruncate(descriptor, N_PLACES * PLACE_BYTES)  # a hole: takes no memory
        self._map = mmap.mmap(descriptor, N_PLACES * PLACE_BYTES)
        self._free = list(range(N_PLACES))

    @classmethod
    def create(cls, n_alike: int = 1) -> Places | None:
        """Make places in /dev/shm, of `n_alike` that share its room; None where it is not to be had.

        On a disk places would not pay.
        """
        shm = Path("/dev/shm")
        if not (shm.is_dir() and os.access(shm, os.W_OK) and hasattr(os, "posix_fallocate")):
            return None
        room_bytes = min(shutil.disk_usage(shm).free // SHARE_OF_FREE, MAX_ROOM_BYTES) // n_alike
        descriptor, path = tempfile.mkstemp(prefix="fsar-frames-", dir=shm)
        try:
            return cls(Path(path), descriptor, room_bytes)
        except OSError:  # a limit on the size of files or of addresses
            os.close(descriptor)
            Path(path).unlink()
            return None

    def lend(self) -> int | None:
        """Return a place for the next task, the one that came back last; None where all are taken."""
        return self._free.pop() if self._free else None

    def give_back(self, place: int) -> None:
        """Take a place back in which nothing lies; from any thread."""
        self._free.append(place)

    def take(self, parcel: PlacedParcel) -> Any:
        """Return the value whose arrays lie in a place; it is free again when none of them is left."""
        memory = np.frombuffer(self._map, np.uint8, parcel.n_bytes, parcel.place * PLACE_BYTES)
        if parcel.n_bytes < MIN_LENT_BYTES:
            memory = memory.copy()
            self.give_back(parcel.place)
        else:  # whatever is made of it holds it
            weakref.finalize(memory, self.give_back, parcel.place).atexit = False
        return pickle.loads(parcel.head, buffers=[memory[start : start + length] for start, length in parcel.spans])

    def unlink(self) -> None:
        """Take the name away once both sides hold it open, so that nothing is left behind by a kill."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the memory back, as soon as no array lies in it."""
        self.unlink()
        del self._map
        os.close(self._descriptor)


class Desk:
    """The worker's side: room for the arrays of one task after the other."""

    def __init__(self, path: str, room_bytes: int) -> None:
        self._descriptor, self._room_bytes = os.open(path, os.O_RDWR), room_bytes
        self._map = mmap.mmap(self._descriptor, N_PLACES * PLACE_BYTES)
        self._reserved = [0] * N_PLACES
        self.turn_to(0)

    def turn_to(self, place: int) -> None:
        """Begin another task, whose arrays go to a place."""
        self._place, self._n_used = place, 0
        self._memory = np.frombuffer(self._map, np.uint8, PLACE_BYTES, place * PLACE_BYTES)

    def empty(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return an uint8 array in the place, or in memory of this process where that has no room."""
        room = self._room(math.prod(shape))
        return np.empty(shape, np.uint8) if room is None else room.reshape(shape)

    def put(self, value: object) -> PlacedParcel | None:
        """Put the arrays of a value into the place, but for those that lie there; None where it has no room for all."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        spans = []
        for buffer in buffers:
            span = self._span(buffer.raw())
            if span is None:
                return None
            spans.append(span)
        return PlacedParcel(head, self._place, tuple(spans))

    def _span(self, array: memoryview) -> tuple[int, int] | None:
        if not array.nbytes:
            return 0, 0
        values = np.frombuffer(array, np.uint8)
        start = int(values.ctypes.data - self._memory.ctypes.data)
        if 0 <= start < self._n_used:
            return start, array.nbytes
        start, room = self._n_used, self._room(array.nbytes)
        if room is None:
            return None
        room[:] = values
        return start, array.nbytes

    def _room(self, n_bytes: int) -> npt.NDArray[np.uint8] | None:
        """Return so much of the place, in which nothing lies, or None."""
        start, end = self._n_used, self._n_used + n_bytes
        if end > PLACE_BYTES or not self._reserve(end):
            return None
        self._n_used = -(-end // ALIGNED_BYTES) * ALIGNED_BYTES
        return self._memory[start:end]

    def _reserve(self, n_bytes: int) -> bool:
        """Take memory for a place, so that a full /dev/shm shows here and not as a bus error later."""
        more = n_bytes - self._reserved[self._place]
        if more <= 0:
            return True
        if sum(self._reserved) + more > self._room_bytes:
            return False
        try:
            os.posix_fallocate(self._descriptor, self._place * PLACE_BYTES, n_bytes)
        except OSError:
            return False
        self._reserved[self._place] = n_bytes
        return True
