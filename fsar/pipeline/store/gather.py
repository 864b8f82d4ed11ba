"""Pick rows of one array out of its chunk files."""

import mmap
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.address_space import AddressSpace
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.journal.chunk_rows import stored_chunk
from fsar.pipeline.store.journal.records import read_chunk_record
from fsar.pipeline.store.recycled import RecycledMemory

Array = np.ndarray[Any, Any]
WILL_NEED_BYTES = 128 << 10
"""Rows of this size and more are asked for ahead the first time they are read: the disk then serves many at once."""


class Gather:
    """Rows of one array; maps chunk files on first use. Threads may share it, processes make their own."""

    def __init__(
        self,
        files: StoreFiles,
        layout: Layout,
        spec: ArraySpec,
        stored: Mapping[int, int],
        n_videos: int,
        memory: RecycledMemory,
        ensure: Callable[[Iterable[int]], None] | None = None,
    ) -> None:
        self._files, self._layout, self._spec, self._stored = files, layout, spec, stored
        self._n_videos, self._memory, self._ensure = n_videos, memory, ensure
        self._lock = threading.Lock()
        self._n_chunks = layout.n_chunks(n_videos)
        self._ready = np.zeros(self._n_chunks, bool)
        self._touched = np.zeros(n_videos, bool)
        self._space: AddressSpace | None = None
        self._chunks: dict[int, Array] = {}
        self._portable = False

    def read(self, rows: Array, views: Array | int | None, frames: Array | None) -> Array:
        """Return a fresh array of the rows (R, …), one or all of their views, some or all of their slots."""
        if not len(rows):
            return _pick(np.empty((1, *self._spec.tail), self._spec.numpy_dtype), rows, views, frames, self._memory)
        chunks, inside = np.divmod(rows, self._layout.chunk_rows)
        if not self._ready[chunks].all():
            self._map(np.unique(chunks[~self._ready[chunks]]))
        space = self._space
        if space is None:
            return self._read_by_chunk(chunks, inside, views, frames)
        if self._spec.row_bytes >= WILL_NEED_BYTES and not self._touched[rows].all():
            self._fetch(space, rows, chunks, inside)
        return _pick(space.rows, chunks * space.stride_rows + inside, views, frames, self._memory)

    def chunk(self, index: int) -> Array:
        """Return a whole chunk, padding included, mapped read-only."""
        return stored_chunk(self._files, self._layout, self._spec, index, self._record(index))

    def _record(self, index: int) -> dict[str, Any]:
        n_stored = self._stored.get(index, 0)
        if not n_stored:
            rows = self._layout.chunk_range(index, self._n_videos)
            raise InputError(
                f"rows {rows.start} to {rows.stop - 1} of {self._files.path} are not encoded yet: "
                "run the command that encodes them again"
            )
        return read_chunk_record(self._files, index, n_stored)

    def _map(self, chunks: Array) -> None:
        with self._lock:
            if self._ensure:
                self._ensure(chunks.tolist())
            for index in map(int, chunks):
                if not self._ready[index]:
                    self._map_one(index)
                    self._ready[index] = True

    def _map_one(self, index: int) -> None:
        offset = self._record(index)["offsets"].get(self._spec.name, 0)
        chunk = self.chunk(index)  # also checks that the file is there and long enough
        if not self._portable:
            try:
                self._place(index, offset)
                return
            except OSError:
                self._leave_address_space()
        self._chunks[index] = chunk

    def _place(self, index: int, offset: int) -> None:
        delta = offset % mmap.ALLOCATIONGRANULARITY
        if self._space is None:
            self._space = AddressSpace(self._spec, self._layout.chunk_rows, self._n_chunks, delta)
        if delta != self._space.delta:
            raise OSError("chunk files differ in where their rows begin")
        self._space.place(index, self._files.locate(self._files.format.chunk_file(self._spec, index)), offset)

    def _leave_address_space(self) -> None:
        """Go on with one map per chunk, where the system grants no range of addresses."""
        self._portable = True
        for index in map(int, np.flatnonzero(self._ready)):
            self._chunks[index] = self.chunk(index)
        self._space = None

    def _fetch(self, space: AddressSpace, rows: Array, chunks: Array, inside: Array) -> None:
        fresh = ~self._touched[rows]
        self._touched[rows] = True
        for index, row in zip(chunks[fresh].tolist(), inside[fresh].tolist(), strict=True):
            space.will_need(index, row * self._spec.row_bytes, self._spec.row_bytes)

    def _read_by_chunk(self, chunks: Array, inside: Array, views: Array | int | None, frames: Array | None) -> Array:
        def pieces(part: Array) -> Array:
            own_views = views[part] if isinstance(views, np.ndarray) else views
            own_frames = frames[part] if frames is not None and frames.ndim == 2 else frames
            return _pick(self._chunks[int(chunks[part[0]])], inside[part], own_views, own_frames, self._memory)

        parts = [np.flatnonzero(chunks == index) for index in np.unique(chunks)]
        first = pieces(parts[0])
        out = self._memory.empty((len(chunks), *first.shape[1:]), first.dtype)
        out[parts[0]] = first
        for part in parts[1:]:
            out[part] = pieces(part)
        return out


def _pick(array: Array, rows: Array, views: Array | int | None, frames: Array | None, memory: RecycledMemory) -> Array:
    """Return array[rows, views, frames] for a contiguous array (rows, V, T, …), always a copy.

    Whatever is chosen, it is a list of equal pieces of the file: rows, views of rows or slots of views.
    """
    index, depth = rows, 1
    if views is not None:
        index, depth = rows * array.shape[1] + views, 2
    elif frames is not None:
        index, depth = rows[:, None] * array.shape[1] + np.arange(array.shape[1]), 2
    if frames is not None:
        own = frames if frames.ndim == 1 or views is not None else frames[:, None]
        index, depth = index[..., None] * array.shape[2] + own, 3
    pieces = array.reshape(-1, *array.shape[depth:])
    out = memory.empty((*index.shape, *pieces.shape[1:]), array.dtype)
    return np.take(pieces, index, axis=0, out=out, mode="clip")  # "raise" would copy once more; rows are checked
