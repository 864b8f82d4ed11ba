"""Pick rows of one array out of its chunk files."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.journal.chunk_rows import offset_of, stored_chunk
from fsar.pipeline.store.journal.records import read_chunk_record

Array = np.ndarray[Any, Any]
LARGE_BYTES = 16 << 10
"""Pieces of this size are copied one by one."""
MAX_MAPS = 16_384
"""Chunks of one array that are mapped at a time; Linux allows a process 65,530 mappings."""
SHARE_OF_FILES = 4
"""So many arrays may be mapped side by side: Python keeps a file open for each chunk."""


def max_maps() -> int:
    """Return how many chunks of one array may be mapped at a time, by the limit of open files as it is now."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_MAPS if soft == resource.RLIM_INFINITY else min(max(soft // SHARE_OF_FILES, 1), MAX_MAPS)


class Gather:
    """Rows of one array; maps chunk files on first use. Threads may share it, processes make their own."""

    def __init__(
        self,
        files: StoreFiles,
        layout: Layout,
        spec: ArraySpec,
        stored: Mapping[int, int],
        n_videos: int,
        ensure: Callable[[Iterable[int]], None] | None = None,
    ) -> None:
        self._files, self._layout, self._spec, self._stored = files, layout, spec, stored
        self._n_videos, self._ensure = n_videos, ensure
        self._lock = threading.Lock()
        self._chunks: dict[int, Array] = {}
        self._offsets: dict[int, int] = {}

    def read(self, rows: Array, views: Array | int | None, frames: Array | None) -> Array:
        """Return a fresh array of the rows (R, …), one or all of their views, some or all of their slots."""
        of_row, inside = np.divmod(rows, self._layout.chunk_rows)
        index, depth = _pieces(inside, views, frames, self._spec.tail)
        shape = self._spec.tail[depth - 1 :]
        out = np.empty((*index.shape, *shape), self._spec.numpy_dtype)
        one_by_one = math.prod(shape) * out.itemsize >= LARGE_BYTES
        if not len(rows):
            return out
        order = np.argsort(of_row, kind="stable")
        numbers, starts = np.unique(of_row[order], return_index=True)
        for chunk, own in zip(self._each_mapped(numbers.tolist()), np.split(order, starts[1:]), strict=True):
            pieces = chunk.reshape(-1, *shape)
            if one_by_one:  # numpy would gather them beside their place, and copy them again
                for row in own.tolist():
                    for place, piece in np.ndenumerate(index[row]):
                        out[(row, *place)] = pieces[piece]
            else:
                out[own] = pieces[index[own]]
        return out

    def chunk(self, index: int) -> Array:
        """Return a whole chunk, padding included, mapped read-only."""
        offset = self._offsets.get(index)
        if offset is None:
            offset = self._offsets[index] = offset_of(self._spec, self._record(index))
        return stored_chunk(self._files, self._layout, self._spec, index, offset)

    def _record(self, index: int) -> dict[str, Any]:
        n_stored = self._stored.get(index, 0)
        if not n_stored:
            rows = self._layout.chunk_range(index, self._n_videos)
            raise InputError(
                f"rows {rows.start} to {rows.stop - 1} of {self._files.path} are not encoded yet: "
                "run the command that encodes them again"
            )
        return read_chunk_record(self._files, index, n_stored)

    def _each_mapped(self, numbers: list[int]) -> Iterator[Array]:
        """Yield chunks; where no more may be mapped, those that were mapped first give way."""
        missing = [number for number in numbers if number not in self._chunks]
        if missing and self._ensure:
            with self._lock:
                self._ensure(missing)
        for number in numbers:
            chunk = self._chunks.get(number)
            yield self._map(number) if chunk is None else chunk

    def _map(self, number: int) -> Array:
        with self._lock:  # not on the usual way: a fork at that moment would leave it closed for ever
            if number not in self._chunks:
                while len(self._chunks) >= max_maps():
                    del self._chunks[next(iter(self._chunks))]
                self._chunks[number] = np.asarray(self.chunk(number))
            return self._chunks[number]


def _pieces(rows: Array, views: Array | int | None, frames: Array | None, tail: tuple[int, ...]) -> tuple[Array, int]:
    """Return which pieces of a chunk (rows, *tail) are meant, (R, …), and how many axes a piece does not have.

    Whatever is chosen, it is a list of equal pieces of the file: rows, views of rows or slots of views.
    """
    index, depth = rows, 1
    if views is not None:
        index, depth = rows * tail[0] + views, 2
    elif frames is not None:
        index, depth = rows[:, None] * tail[0] + np.arange(tail[0]), 2
    if frames is not None:
        own = frames if frames.ndim == 1 or views is not None else frames[:, None]
        index, depth = index[..., None] * tail[1] + own, 3
    return index, depth
