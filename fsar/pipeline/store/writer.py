"""Claim chunks and commit them. Any number of processes may do so at once."""

import random
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fsar.pipeline.store.format.chunk_data import ChunkData, checked_arrays, padded
from fsar.pipeline.store.format.files import CLAIMS, JOURNAL, StoreFiles, read_store, record_run
from fsar.pipeline.store.format.layout import Chunk, pending_chunks
from fsar.pipeline.store.journal.chunk_rows import offset_of, stored_chunk
from fsar.pipeline.store.journal.claims import Claims, claimed_chunks, metadata_claim
from fsar.pipeline.store.journal.damage import refuse_damaged_chunk
from fsar.pipeline.store.journal.publish import publish, redo
from fsar.pipeline.store.journal.records import chunk_key, read_record, stored_rows
from fsar.pipeline.store.journal.seal import seal_files
from fsar.pipeline.store.partial import refuse_partial

FEW_CLAIMS = 8


class StoreWriter:
    """Commits chunks to a store. Use it as a context manager: leaving it gives unfinished claims back."""

    def __init__(self, files: StoreFiles) -> None:
        refuse_partial(files, "write to it")
        self.files = files
        self.layout, self.videos = read_store(files)
        self._claims = Claims(files.folder(CLAIMS))
        self._queue: deque[Chunk] = deque()
        self._draw = random.Random()

    @property
    def path(self) -> Path:
        """Where the store is."""
        return self.files.path

    @property
    def n_videos(self) -> int:
        """Rows of the store."""
        return len(self.videos)

    @property
    def n_rows_done(self) -> int:
        """Rows committed by anyone so far."""
        return sum(stored_rows(self.files).values())

    def pending_chunks(self) -> int:
        """Return how many chunks are not committed yet, in hand or not."""
        return len(self._pending())

    def claim(self, *, ahead: bool = False) -> Chunk | None:
        """Return a chunk to compute, or None when every chunk is committed or in another living writer's hand.

        Args:
            ahead: for later, while another is computed; None as well when that might leave another writer idle.

        Raises:
            InputError: the chunk is to grow and the files of its stored rows are not as they were written.
        """
        if not ahead:
            return self._claim_from_queue() or self._claim_from_queue(refill=True)
        n_free, n_others = self._refill()
        return self._claim_from_queue() if n_free > n_others else None

    def commit(self, chunk: Chunk, data: ChunkData) -> None:
        """Write the rows of a claimed chunk; when this returns they survive a power cut.

        If another writer has committed the chunk in the meantime, its rows stay and these are dropped.

        Raises:
            InputError: `data` does not fit the store.
            OSError: the disk is full or the like; the chunk stays pending and the store is unharmed.
        """
        arrays = checked_arrays(self.layout, chunk, data)
        rows = self.layout.chunk_range(chunk.index, self.n_videos)
        n_before = chunk.rows.start - rows.start
        if not self._is_stored(chunk.index):
            before = self._stored_arrays(chunk.index, n_before)
            specs = self.layout.arrays()
            full = {name: padded(specs[name], arrays[name], before.get(name), self.layout.chunk_rows) for name in specs}
            self._publish(chunk, full, data, n_before)
        if n_before:
            (self.files.folder(JOURNAL) / f"{chunk_key(chunk.index, n_before)}.json").unlink(missing_ok=True)
        self._claims.release(chunk.index)

    def release(self, chunk: Chunk) -> None:
        """Give a claimed chunk back without committing it."""
        self._claims.release(chunk.index)

    def seal(self) -> None:
        """Write the manifest, after which the store opens for everyone.

        Raises:
            InputError: chunks are missing; the message counts videos by split part.
        """
        seal_files(self.files)

    def record_run(self, run: Mapping[str, Any]) -> None:
        """Keep facts of this run that do not decide the numbers: device, batch size, library versions."""
        with metadata_claim(self.files.folder(CLAIMS)):  # who seals removes files that look unfinished
            record_run(self.files, dict(run))

    def pending_rows(self) -> list[int]:
        """Return the rows that nobody has committed yet, ascending."""
        return [row for chunk in self._pending() for row in chunk.rows]

    def missing_parts(self) -> Counter[str]:
        """Return the number of rows still to be committed, by split part."""
        return Counter(self.videos[row].part for row in self.pending_rows())

    def close(self) -> None:
        """Give unfinished claims back."""
        self._claims.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim_from_queue(self, *, refill: bool = False) -> Chunk | None:
        """Take the next chunk that nobody has; the store is listed anew only when the queue is used up or outdated."""
        if refill:
            self._refill()
        while self._queue:
            chunk = self._queue.popleft()
            if self._is_stored(chunk.index):
                continue
            if not self._claims.take(chunk.index):
                if refill:
                    continue
                return None  # others have come to where this one works: look where nobody is
            redo(self.files, self._key(chunk.index))  # what a crashed writer has announced
            if not self._is_stored(chunk.index):
                refuse_damaged_chunk(self.files, chunk.index, chunk.rows.start % self.layout.chunk_rows)
                return chunk
            self._claims.release(chunk.index)
        return None

    def _refill(self) -> tuple[int, int]:
        """Queue what is pending, chunks that nobody has first; return how many those are, and how many others have.

        Few writers go through a store from its beginning. Many begin at places of their own, or each would try every
        chunk that another has.
        """
        claimed, pending = claimed_chunks(self.files.folder(CLAIMS)), self._pending()
        free = deque(chunk for chunk in pending if chunk.index not in claimed)
        n_others = len(claimed - self._claims.held)
        if n_others > FEW_CLAIMS and free:
            free.rotate(self._draw.randrange(len(free)))
        self._queue = free
        n_free = len(free)
        self._queue.extend(
            chunk for chunk in pending if chunk.index in claimed and chunk.index not in self._claims.held
        )
        return n_free, n_others

    def _pending(self) -> list[Chunk]:
        return pending_chunks(self.layout, self.n_videos, stored_rows(self.files))

    def _key(self, index: int) -> str:
        return chunk_key(index, len(self.layout.chunk_range(index, self.n_videos)))

    def _is_stored(self, index: int) -> bool:
        n_rows = len(self.layout.chunk_range(index, self.n_videos))
        if n_rows < self.layout.chunk_rows:  # a short last chunk may have grown since this writer was opened
            return stored_rows(self.files).get(index, 0) >= n_rows
        return (self.files.folder(JOURNAL) / f"{self._key(index)}.json").exists()

    def _publish(
        self, chunk: Chunk, arrays: Mapping[str, np.ndarray[Any, Any]], data: ChunkData, n_before: int
    ) -> None:
        rows = self.layout.chunk_range(chunk.index, self.n_videos)
        made = self.files.format.chunk_files(self.layout, chunk.index, arrays)
        failures = [list(failure) for failure in sorted(data.failures)]
        if n_before:
            failures = read_record(self.files, chunk_key(chunk.index, n_before))["failures"] + failures
        details = {"offsets": made.offsets, "rows": [rows.start, rows.stop], "failures": failures}
        publish(self.files, self._key(chunk.index), made.files, details)

    def _stored_arrays(self, index: int, n_rows: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return the first `n_rows` of a chunk that grows; the bytes of these rows never change."""
        if not n_rows:
            return {}
        record = read_record(self.files, chunk_key(index, n_rows))
        return {
            name: stored_chunk(self.files, self.layout, spec, index, offset_of(spec, record))[:n_rows].copy()
            for name, spec in self.layout.arrays().items()
        }
