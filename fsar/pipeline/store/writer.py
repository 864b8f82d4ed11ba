"""Create a store, claim chunks, commit them. Any number of processes may do so at once."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.chunk_data import ChunkData, checked_arrays, padded
from fsar.pipeline.store.claims import Claims, live_claims
from fsar.pipeline.store.disk import Buffer, list_names
from fsar.pipeline.store.files import (
    CLAIMS,
    JOURNAL,
    MANIFEST_FILE,
    METADATA_KEY,
    STORE_FILE,
    VIDEOS_FILE,
    StoreFiles,
    read_store,
    record_run,
    store_json,
    videos_csv,
)
from fsar.pipeline.store.identity import differing_fields
from fsar.pipeline.store.journal import chunk_key, metadata_entries, publish, read_record, redo, stored_rows
from fsar.pipeline.store.layout import Chunk, Layout, TapSpec, VideoRow, check_videos, plan_layout
from fsar.pipeline.store.seal import describe_missing, seal_files

DEFAULT_CHUNK_BYTES = 32 << 20


def create_store(
    path: str | Path,
    *,
    videos: Sequence[VideoRow],
    taps: Mapping[str, TapSpec],
    n_views: int,
    n_slots: int,
    recipe: Mapping[str, Any],
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    chunk_rows: int | None = None,
) -> "StoreWriter":
    """Return a writer on the store at `path` (NAME.zarr or NAME.h5), made now or resumed.

    Args:
        path: where the store is or shall be.
        videos: its rows, in order.
        taps: name -> shape and dtype per frame.
        n_views: V, stored views of each video.
        n_slots: T, stored frames of each view.
        recipe: what decides the numbers, as JSON data.
        chunk_bytes: size of a chunk of the biggest tap; only used when the store is made.
        chunk_rows: rows of a chunk instead, at most 256 by default.

    Raises:
        InputError: another store is there: the message names what differs.
    """
    check_videos(videos)
    layout = plan_layout(
        taps, n_views=n_views, n_slots=n_slots, recipe=recipe, chunk_bytes=chunk_bytes, chunk_rows=chunk_rows
    )
    files = StoreFiles.at(path)
    if not files.exists():
        redo(files, METADATA_KEY)
    if not files.exists():
        _refuse_strangers(files)
        publish(files, METADATA_KEY, metadata_contents(files, layout, videos))
    writer = StoreWriter(files)
    _refuse_differences(writer, layout, videos)
    return writer


def extend_store(path: str | Path, videos: Sequence[VideoRow]) -> "StoreWriter":
    """Return a writer on an existing store whose rows are continued by those of `videos` that it lacks.

    Stored rows keep their numbers and their place; a short last chunk grows. The store counts as unsealed until the new
    rows are committed and it is sealed again. Nothing changes when there is nothing new.
    """
    check_videos(videos)
    files = StoreFiles.at(path)
    redo(files, METADATA_KEY)
    layout, old = read_store(files)
    known = {video.video_id for video in old}
    new = [video for video in videos if video.video_id not in known]
    if new:
        busy = live_claims(files.folder(CLAIMS))
        if busy:
            raise InputError(f"{path} is being written ({len(busy)} chunks in hand); add videos when that is done")
        files.locate(MANIFEST_FILE).unlink(missing_ok=True)
        contents = metadata_contents(files, layout, [*old, *new])
        publish(files, METADATA_KEY, contents, keep=metadata_entries(files))
    return StoreWriter(files)


def open_writer(path: str | Path) -> "StoreWriter":
    """Return a writer on an existing store, to compute what it lacks by the recipe that it holds."""
    files = StoreFiles.at(path)
    redo(files, METADATA_KEY)
    return StoreWriter(files)


def metadata_contents(files: StoreFiles, layout: Layout, videos: Sequence[VideoRow]) -> dict[str, list[Buffer]]:
    """Return all files of a store that do not hold its numbers."""
    tables = files.format.read_tables(files.path) if files.exists() else {}
    own: dict[str, list[Buffer]] = {STORE_FILE: [store_json(layout, videos)], VIDEOS_FILE: [videos_csv(videos)]}
    return own | files.format.metadata_files(files.path, layout, len(videos), tables)


def _refuse_strangers(files: StoreFiles) -> None:
    ours = {JOURNAL, CLAIMS, "staging"}
    strangers = [name for name in list_names(files.home) if name not in ours]
    created_here = any(files.folder(name).exists() for name in ours)
    if (strangers and not created_here) or (files.path != files.home and files.path.exists() and not created_here):
        raise InputError(f"{files.path} exists and is not a store of fsar: choose another name or remove it")


def _refuse_differences(writer: "StoreWriter", layout: Layout, videos: Sequence[VideoRow]) -> None:
    stored = writer.layout
    lines = differing_fields(stored.recipe, layout.recipe)
    shape = {"n_views": stored.n_views, "n_slots": stored.n_slots, "taps": stored.to_dict()["taps"]}
    wanted = {"n_views": layout.n_views, "n_slots": layout.n_slots, "taps": layout.to_dict()["taps"]}
    lines += differing_fields(shape, wanted)
    path = writer.files.path
    if lines:
        raise InputError(f"{path} holds another recipe ({'; '.join(lines)}): choose another name or the same recipe")
    if _identity(writer.videos) != _identity(videos):
        raise InputError(f"{path} holds other videos ({_video_differences(writer.videos, videos)}), see fsar-store add")


def _identity(videos: Sequence[VideoRow]) -> list[tuple[str, str, str]]:
    """Return what makes rows the same videos; a data set may be mounted at another path the next day."""
    return [(video.video_id, video.class_name, video.part) for video in videos]


def _video_differences(stored: Sequence[VideoRow], wanted: Sequence[VideoRow]) -> str:
    a, b = {video.video_id for video in stored}, {video.video_id for video in wanted}
    if a == b:
        row = next(row for row, (x, y) in enumerate(zip(_identity(stored), _identity(wanted), strict=True)) if x != y)
        return f"row {row} is {_identity(stored)[row]}, not {_identity(wanted)[row]}"
    return f"{len(a - b)} of its {len(a)} are not in this list, {len(b - a)} of this list are not in it"


class StoreWriter:
    """Commits chunks to a store. Use it as a context manager: leaving it gives unfinished claims back."""

    def __init__(self, files: StoreFiles) -> None:
        self.files = files
        self.layout, self.videos = read_store(files)
        self._claims = Claims(files.folder(CLAIMS))
        self._queue: deque[Chunk] = deque()

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

    def claim(self) -> Chunk | None:
        """Return a chunk to compute, or None when every chunk is committed or in another living writer's hand."""
        return self._claim_from_queue() or self._claim_from_queue(refill=True)

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
        pending = self._pending()
        for chunk in pending:
            redo(self.files, self._key(chunk.index))
        if pending:
            pending = self._pending()
        if pending:
            missing = describe_missing(self.videos, [row for chunk in pending for row in chunk.rows])
            raise InputError(f"{self.path} cannot be sealed: {missing}; run the command that encodes them again")
        seal_files(self.files)

    def record_run(self, run: Mapping[str, Any]) -> None:
        """Keep facts of this run that do not decide the numbers: device, batch size, library versions."""
        record_run(self.files, dict(run))

    def missing_parts(self) -> Counter[str]:
        """Return the number of rows still to be committed, by split part."""
        return Counter(self.videos[row].part for chunk in self._pending() for row in chunk.rows)

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
        """Take the next chunk that nobody has; the journal is listed only when the queue is used up."""
        if refill:
            self._queue.extend(self._pending())
        while self._queue:
            chunk = self._queue.popleft()
            if self._is_stored(chunk.index) or not self._claims.take(chunk.index):
                continue
            redo(self.files, self._key(chunk.index))  # what a crashed writer has announced
            if not self._is_stored(chunk.index):
                return chunk
            self._claims.release(chunk.index)
        return None

    def _pending(self) -> list[Chunk]:
        stored = stored_rows(self.files)
        chunks = []
        for index in range(self.layout.n_chunks(self.n_videos)):
            rows = self.layout.chunk_range(index, self.n_videos)
            if stored.get(index, 0) < len(rows):
                chunks.append(Chunk(index, rows[stored.get(index, 0) :]))
        return chunks

    def _key(self, index: int) -> str:
        return chunk_key(index, len(self.layout.chunk_range(index, self.n_videos)))

    def _is_stored(self, index: int) -> bool:
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
        from fsar.pipeline.store.rows import stored_chunk

        record = read_record(self.files, chunk_key(index, n_rows))
        return {
            name: stored_chunk(self.files, self.layout, spec, index, record)[:n_rows].copy()
            for name, spec in self.layout.arrays().items()
        }
