"""The manifest: sha256 and size of every file, written last. A store without one is unfinished."""

import shutil
from collections.abc import Sequence
from typing import Any

from fsar.errors import InputError
from fsar.files import remove_leftovers
from fsar.pipeline.store.disk import Buffer, FileEntry, list_names
from fsar.pipeline.store.format.files import (
    CLAIMS,
    FAILURE_COLUMNS,
    FAILURES_FILE,
    JOURNAL,
    MANIFEST_FILE,
    METADATA_KEY,
    STAGING,
    VIDEOS_FILE,
    StoreFiles,
    csv_bytes,
    read_store,
    videos_csv,
)
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.format.layout import Layout, VideoRow, pending_chunks
from fsar.pipeline.store.journal.chunk_rows import read_column
from fsar.pipeline.store.journal.claims import METADATA_CLAIM, drop_chunk_claims, is_stale, metadata_claim
from fsar.pipeline.store.journal.manifest import describe_missing, failures_in, is_sealed
from fsar.pipeline.store.journal.publish import publish, redo, remove_superseded
from fsar.pipeline.store.journal.records import (
    Entries,
    chunk_key,
    chunk_records,
    intents,
    metadata_entries,
    record_entries,
    stored_rows,
)


def seal_files(files: StoreFiles) -> None:
    """Write videos.csv with its results, failures.csv and the manifest, and clear the traces of work; or nothing.

    Raises:
        InputError: chunks are missing; the message counts videos by split part.
    """
    if is_sealed(files) and not _has_traces(files):
        return
    with metadata_claim(files.folder(CLAIMS)):  # two encoders may end at the same moment
        for key in intents(files):
            redo(files, key)
        remove_superseded(files)
        if not is_sealed(files):
            layout, videos = read_store(files)
            _refuse_missing(files, layout, videos)
            records = chunk_records(files)
            names = ("status", "n_frames", "source_sha256")
            columns = [read_column(files, layout, len(videos), name, records) for name in names]
            results = [(int(s), int(n), bytes(h).hex()) for s, n, h in zip(*columns, strict=True)]
            failures = [_failure_row(videos, failure) for failure in failures_in(records.values())]
            contents: dict[str, list[Buffer]] = {
                VIDEOS_FILE: [videos_csv(videos, results)],
                FAILURES_FILE: [csv_bytes(FAILURE_COLUMNS, failures)],
            }
            publish_metadata(files, contents, sealed=True)
        remove_leftovers(files.home)
        shutil.rmtree(files.folder(STAGING), ignore_errors=True)
        drop_chunk_claims(files.folder(CLAIMS))


def _has_traces(files: StoreFiles) -> bool:
    """Return whether something was cut short, be it the removal of its own traces, or is in hand."""
    claims = set(list_names(files.folder(CLAIMS)))
    if not is_stale(files.folder(CLAIMS) / METADATA_CLAIM):  # whoever has it tidies up by himself
        claims.discard(METADATA_CLAIM)
    return bool(intents(files) or list_names(files.folder(STAGING)) or claims)


def _refuse_missing(files: StoreFiles, layout: Layout, videos: Sequence[VideoRow]) -> None:
    pending = pending_chunks(layout, len(videos), stored_rows(files))
    if pending:
        missing = describe_missing(videos, [row for chunk in pending for row in chunk.rows])
        raise InputError(f"{files.path} cannot be sealed: {missing}; run the command that encodes them again")


def publish_metadata(files: StoreFiles, contents: dict[str, list[Buffer]], *, sealed: bool) -> None:
    """Replace some of the files that do not hold numbers, as one step, with a new manifest if the store is sealed."""

    def manifest(entries: Entries, record: bytes) -> dict[str, bytes]:
        own = {f"{JOURNAL}/{METADATA_KEY}.json": FileEntry.of([record])}
        every = chunk_entries(files) | entries | own
        listed = {name: {"sha256": entry.sha256, "bytes": entry.n_bytes} for name, entry in sorted(every.items())}
        return {MANIFEST_FILE: checked_json({"files": listed})}

    keep = metadata_entries(files)
    publish(files, METADATA_KEY, contents, keep=keep, last=manifest if sealed else None)


def chunk_entries(files: StoreFiles) -> Entries:
    """Return the files of all stored chunks and of their records."""
    entries: Entries = {}
    for index, record in chunk_records(files).items():
        key = chunk_key(index, len(range(*record["rows"])))
        entries[f"{JOURNAL}/{key}.json"] = FileEntry.of([checked_json(record)])
        entries |= record_entries(record)
    return entries


def _failure_row(videos: Sequence[VideoRow], failure: tuple[int, str, str]) -> list[Any]:
    row, reason, message = failure
    return [videos[row].video_id, videos[row].path, "encode", reason, message]
