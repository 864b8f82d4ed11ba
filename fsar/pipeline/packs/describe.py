"""What a pack holds, as plain data for people and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fsar.files import read_plain, sha256_file
from fsar.pipeline.packs.layout import pack_files, read_pack
from fsar.pipeline.store.format.files import FAILURES_FILE, MANIFEST_FILE, MAX_TABLE_BYTES, StoreFiles
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.manifest import failures_in
from fsar.pipeline.store.journal.records import chunk_records, stored_rows
from fsar.pipeline.store.partial import listed_cells, read_partial


def describe_pack(path: str | Path) -> dict[str, Any]:
    """Return settings, counts, sizes, failures by reason and completeness of a pack, as JSON data.

    `identity` is the sha256 of its manifest, None until it is finished.
    """
    files = pack_files(path)
    layout, videos = read_pack(files)
    manifest = files.locate(MANIFEST_FILE)
    partial = read_partial(files)
    failures = _listed(files, videos) if partial else failures_in(chunk_records(files).values())
    failed = Counter(videos[row].part for row, _, _ in failures)
    counts = Counter(video.part for video in videos)
    return {
        "path": str(path),
        "format": "frames",
        "sealed": manifest.exists(),
        "identity": sha256_file(manifest) if manifest.exists() else None,
        "settings": asdict(layout.settings),
        "how": layout.settings.describe(),
        "videos": len(videos),
        "pending": 0 if partial else len(videos) - sum(stored_rows(files).values()),
        "partial": {"source": partial.source, "videos_here": sum(stored_rows(files).values())} if partial else None,
        "classes": len({video.class_name for video in videos}),
        "shards": layout.n_shards,
        "bytes_on_disk": files.bytes_on_disk(),
        "parts": {part: {"videos": counts[part], "failed": failed[part]} for part in sorted(counts)},
        "failures": dict(sorted(Counter(reason for _, reason, _ in failures).items())),
    }


def _listed(files: StoreFiles, videos: Sequence[VideoRow]) -> list[tuple[int, str, str]]:
    """Return the failures of a partial copy, which has the table of all of them, but not all records."""
    path, row_of = files.locate(FAILURES_FILE), {video.video_id: row for row, video in enumerate(videos)}
    cells = listed_cells(read_plain(path, MAX_TABLE_BYTES), ("video_id", "reason", "message"), str(path))
    return [(row_of[video_id], reason, message) for video_id, reason, message in cells if video_id in row_of]
