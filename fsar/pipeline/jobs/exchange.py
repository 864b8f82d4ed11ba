"""What a worker process found, on its way back: arrays through a memory map, only the rest through the pipe."""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import tempfile
from dataclasses import dataclass, field
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np

MIN_FREE_BYTES = 256 << 20
"""Room that /dev/shm must have to be used."""


@dataclass(frozen=True)
class Parcel:
    """A value whose arrays lie in an exchange."""

    head: bytes
    """The value, pickled without them."""
    sizes: tuple[int, ...]
    """Bytes of each array, one after the other from the start of the map."""

    @property
    def n_bytes(self) -> int:
        """Of the arrays."""
        return sum(self.sizes)


class NoRoomError(OSError):
    """Neither memory nor the folder for temporary files has room for a value's arrays."""

    def __init__(self, error: OSError, n_bytes: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.n_bytes = n_bytes


@dataclass
class Exchange:
    """A file in memory that a worker process writes arrays to and that we copy them from.

    It has no name that a kill could leave behind: a process that is started with it as an argument inherits it.
    """

    descriptor: int
    folder: str
    """Where its bytes lie."""
    map: mmap.mmap | None = field(default=None, repr=False)

    @classmethod
    def create(cls) -> Exchange:
        """Make an empty one, in /dev/shm where there is room, else in the folder for temporary files."""
        folder = _memory_folder() or tempfile.gettempdir()
        with tempfile.TemporaryFile(buffering=0, dir=folder) as file:
            return cls(os.dup(file.fileno()), folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherited, (reduction.DupFd(self.descriptor), self.folder)

    def put(self, value: object) -> Parcel:
        """Put the arrays of a value into it, over what was there; it grows as needed. Raises `NoRoomError`."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        parcel = Parcel(head, tuple(array.nbytes for array in arrays))
        try:
            self._grow(parcel.n_bytes)
        except OSError as error:
            raise NoRoomError(error, parcel.n_bytes) from error
        end = 0
        for array in filter(len, arrays):  # numpy copies several times as fast as the map's own slices
            start, end = end, end + array.nbytes
            np.frombuffer(self.map or b"", np.uint8, array.nbytes, start)[:] = np.frombuffer(array, np.uint8)
        return parcel

    def take(self, parcel: Parcel) -> Any:
        """Return the value whose arrays lie here; they are copied."""
        if parcel.n_bytes and (self.map is None or len(self.map) < parcel.n_bytes):
            self.map = mmap.mmap(self.descriptor, parcel.n_bytes, prot=mmap.PROT_READ)
        arrays, end = [], 0
        for n_bytes in parcel.sizes:
            start, end = end, end + n_bytes
            arrays.append(np.frombuffer(self.map or b"", np.uint8, n_bytes, start).copy())
        return pickle.loads(parcel.head, buffers=arrays)

    def close(self) -> None:
        """Give the memory back."""
        self.map = None
        os.close(self.descriptor)

    def _grow(self, n_bytes: int) -> None:
        if n_bytes and (self.map is None or len(self.map) < n_bytes):
            _reserve(self.descriptor, n_bytes)
            self.map = mmap.mmap(self.descriptor, n_bytes)


def _inherited(descriptor: Any, folder: str) -> Exchange:
    return Exchange(descriptor.detach(), folder)


def _reserve(descriptor: int, n_bytes: int) -> None:
    # Reserving is what makes a full /dev/shm an error here and not a bus error later. macOS cannot.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)


def _memory_folder() -> str | None:
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= MIN_FREE_BYTES:
        return str(shm)
    return None
