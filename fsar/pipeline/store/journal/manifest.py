"""What a finished store says of itself: the manifest, its failures, and in words what is missing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fsar.pipeline.store.format.files import MANIFEST_FILE, StoreFiles
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.format.schema import RECORD, read_document
from fsar.pipeline.store.journal.records import Entries, record_entries

MAX_MANIFEST_BYTES = 256 << 20
PARTS = ("train", "val", "test", "")


def is_sealed(files: StoreFiles) -> bool:
    """Return whether the store has a manifest."""
    return files.locate(MANIFEST_FILE).exists()


def read_manifest(files: StoreFiles) -> Entries:
    """Return file name -> sha256 and size.

    Raises:
        InputError: the manifest itself is damaged.
    """
    return record_entries(read_document(files.locate(MANIFEST_FILE), RECORD, max_bytes=MAX_MANIFEST_BYTES))


def failures_in(records: Iterable[Mapping[str, Any]]) -> list[tuple[int, str, str]]:
    """Return (row, reason, message) of every failed row, in row order."""
    return sorted((int(row), reason, message) for record in records for row, reason, message in record["failures"])


def describe_missing(videos: Sequence[VideoRow], rows: Iterable[int]) -> str:
    """Return how many videos of which split part are missing: "12 of 40 videos are missing (train 8, test 4)"."""
    missing = Counter(videos[row].part for row in rows)
    parts = [part for part in PARTS if missing[part]] + sorted(missing.keys() - set(PARTS))
    listed = ", ".join(f"{part or 'no part'} {missing[part]}" for part in parts)
    return f"{missing.total()} of {len(videos)} videos are missing ({listed})"
