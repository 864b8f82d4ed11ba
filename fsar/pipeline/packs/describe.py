"""What a pack holds, as plain data for people and machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fsar.files import sha256_file
from fsar.pipeline.packs.layout import pack_files, read_pack
from fsar.pipeline.store.format.files import MANIFEST_FILE
from fsar.pipeline.store.journal.manifest import failures_in
from fsar.pipeline.store.journal.records import chunk_records, stored_rows
from fsar.pipeline.store.partial import listed_failures, read_partial


def describe_pack(path: str | Path) -> dict[str, Any]:
    """Return settings, counts, sizes, failures by reason and completeness of a pack, as JSON data.

    `identity` is the sha256 of its manifest, None until it is finished.
    """
    files = pack_files(path)
    layout, videos = read_pack(files)
    manifest = files.locate(MANIFEST_FILE)
    partial = read_partial(files)
    failures = listed_failures(files, videos) if partial else failures_in(chunk_records(files).values())
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
