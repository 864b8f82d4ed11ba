"""The end of a pack: results in videos.csv, failures.csv, the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from fsar.errors import InputError
from fsar.files import remove_leftovers
from fsar.pipeline.packs.index import FAILED, OK
from fsar.pipeline.packs.layout import PackLayout, read_pack
from fsar.pipeline.packs.reader import FramePack
from fsar.pipeline.store.disk import Buffer
from fsar.pipeline.store.format.files import (
    CLAIMS,
    FAILURE_COLUMNS,
    FAILURES_FILE,
    MANIFEST_FILE,
    STAGING,
    VIDEOS_FILE,
    StoreFiles,
    csv_bytes,
    videos_csv,
)
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.claims import drop_chunk_claims, metadata_claim
from fsar.pipeline.store.journal.manifest import describe_missing, failures_in
from fsar.pipeline.store.journal.publish import redo
from fsar.pipeline.store.journal.records import chunk_records, intents, stored_rows
from fsar.pipeline.store.journal.seal import publish_metadata

STAGE = "extract"


def pack_failures(files: StoreFiles, videos: Sequence[VideoRow]) -> list[tuple[str, str, str, str]]:
    """Return (video_id, path, reason, message) of every failed video."""
    found = failures_in(chunk_records(files).values())
    return [(videos[row].video_id, videos[row].path, reason, message) for row, reason, message in found]


def seal_pack(files: StoreFiles) -> None:
    """Write videos.csv with its results, failures.csv and the manifest, and clear the traces of work.

    Raises:
        InputError: shards are missing; the message counts videos by split part.
    """
    with metadata_claim(files.folder(CLAIMS)):
        for key in intents(files):
            redo(files, key)
        if not files.locate(MANIFEST_FILE).exists():
            layout, videos = read_pack(files)
            _refuse_missing(files, layout, videos)
            failures = [[*row[:2], STAGE, *row[2:]] for row in pack_failures(files, videos)]
            contents: dict[str, list[Buffer]] = {
                VIDEOS_FILE: [videos_csv(videos, _results(files, videos))],
                FAILURES_FILE: [csv_bytes(FAILURE_COLUMNS, failures)],
            }
            publish_metadata(files, contents, sealed=True)
        remove_leftovers(files.home)
        shutil.rmtree(files.folder(STAGING), ignore_errors=True)
        drop_chunk_claims(files.folder(CLAIMS))


def _refuse_missing(files: StoreFiles, layout: PackLayout, videos: Sequence[VideoRow]) -> None:
    stored = stored_rows(files)
    missing = [row for number in range(layout.n_shards) if number not in stored for row in layout.rows(number)]
    if missing:
        raise InputError(f"{files.path} cannot be sealed: {describe_missing(videos, missing)}; run the command again")


def _results(files: StoreFiles, videos: Sequence[VideoRow]) -> list[tuple[int, int, str]]:
    pack = FramePack.open(files.path, allow_unsealed=True)
    found = [pack.video(video.video_id) for video in videos]
    return [(OK if v.n_stored else FAILED, v.n_frames, v.source_sha256.hex()) for v in found]
