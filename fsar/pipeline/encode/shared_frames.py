"""Frames from one process to another through a memory map, not through a pipe."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.encode.clip_task import DecodedClip

MIN_FREE_BYTES = 256 << 20
"""Room that /dev/shm must have to be used."""


@dataclass
class Exchange:
    """A file in memory that a decode process writes frames to and that we copy them from."""

    path: Path
    descriptor: int
    map: mmap.mmap | None = field(default=None, repr=False)

    @classmethod
    def create(cls) -> Exchange:
        """Make an empty one, in /dev/shm where there is room, else in the folder for temporary files."""
        descriptor, path = tempfile.mkstemp(prefix="fsar-frames-", dir=_memory_folder())
        return cls(Path(path), descriptor)

    @classmethod
    def open(cls, path: str) -> Exchange:
        """Open the one at `path`, in the decode process."""
        return cls(Path(path), os.open(path, os.O_RDWR))

    def write(self, frames: npt.NDArray[np.uint8]) -> None:
        """Put frames into it; it grows as needed. Raises OSError when memory or disk is full."""
        if self.map is None or len(self.map) < frames.nbytes:
            _reserve(self.descriptor, frames.nbytes)
            self.map = mmap.mmap(self.descriptor, frames.nbytes)
        np.frombuffer(self.map, np.uint8, frames.nbytes)[:] = frames.reshape(-1)

    def clip(self, parts: tuple[tuple[int, ...], dict[str, Any]]) -> DecodedClip:
        """Return the clip whose frames, of the given shape, lie here; they are copied."""
        shape, fields = parts
        n_bytes = int(np.prod(shape))
        if self.map is None or len(self.map) < n_bytes:
            self.map = mmap.mmap(self.descriptor, n_bytes, prot=mmap.PROT_READ)
        return DecodedClip(frames=np.frombuffer(self.map, np.uint8, n_bytes).reshape(shape).copy(), **fields)

    def unlink(self) -> None:
        """Take the name away once both sides hold it open, so that nothing is left behind by a kill."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the memory back."""
        self.unlink()
        self.map = None
        os.close(self.descriptor)


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
