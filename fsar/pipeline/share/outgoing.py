"""What leaves this machine when a store is pushed: its files, without the paths that only mean something here.

`videos.csv` and `failures.csv` hold the path of every video, and messages of failures repeat it. In stores of fsar 0.1
they are absolute, which tells strangers about this machine and its users, and helps nobody elsewhere: pushed, such a
store has them relative, as newer ones have from the beginning. Only tables and records change; the numbers do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.files import read_plain
from fsar.pipeline.store.disk import FileEntry
from fsar.pipeline.store.format.files import (
    FAILURE_COLUMNS,
    FAILURES_FILE,
    JOURNAL,
    MANIFEST_FILE,
    MAX_TABLE_BYTES,
    METADATA_KEY,
    STORE_FILE,
    VIDEOS_FILE,
    StoreFiles,
    csv_bytes,
    read_store,
    store_json,
    videos_csv,
)
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.manifest import failures_in, read_manifest
from fsar.pipeline.store.journal.records import chunk_key, chunk_records, read_record
from fsar.pipeline.store.portable import is_absolute, portable_message, relative_paths, without_folders


@dataclass(frozen=True)
class Outgoing:
    """A store as it leaves."""

    sources: Mapping[str, Path | bytes]
    """File -> where its bytes are; the manifest is among them."""
    entries: Mapping[str, FileEntry]
    """Every file but the manifest."""
    identity: str
    n_relative: int
    """Videos whose absolute path was made relative."""

    @property
    def n_bytes(self) -> int:
        """Size of all files but the manifest."""
        return sum(entry.n_bytes for entry in self.entries.values())


def outgoing(files: StoreFiles) -> Outgoing:
    """Return what is pushed of a sealed store.

    Raises:
        InputError: a path stands where none can be taken out: in the recipe or in what describes a text table.
    """
    _refuse_paths(files)
    entries = read_manifest(files)
    _, videos = read_store(files)
    n_relative = sum(is_absolute(video.path) for video in videos)
    changed = _without_paths(files, videos) if n_relative else {}
    listed = entries | {name: FileEntry.of([data]) for name, data in changed.items()}
    manifest = checked_json({"files": {name: _listed(listed[name]) for name in sorted(listed)}})
    sources: dict[str, Path | bytes] = {name: changed.get(name, files.locate(name)) for name in listed}
    identity = FileEntry.of([manifest]).sha256
    return Outgoing({**sources, MANIFEST_FILE: manifest}, listed, identity, n_relative)


def outgoing_pack(files: StoreFiles) -> Outgoing:
    """Return what is pushed of a finished pack: its files as they are, since packs hold no path of a machine.

    Raises:
        InputError: somebody has put such a path in.
    """
    from fsar.pipeline.packs.layout import read_pack

    _, videos = read_pack(files)
    if absolute := [video.path for video in videos if is_absolute(video.path)]:
        raise InputError(f"{files.path} is not pushed: it holds a path of a machine, {absolute[0][:100]!r}")
    entries = read_manifest(files)
    manifest = read_plain(files.locate(MANIFEST_FILE), MAX_TABLE_BYTES)
    sources: dict[str, Path | bytes] = {name: files.locate(name) for name in entries}
    return Outgoing({**sources, MANIFEST_FILE: manifest}, entries, FileEntry.of([manifest]).sha256, 0)


def _without_paths(files: StoreFiles, videos: Sequence[VideoRow]) -> dict[str, bytes]:
    """Return the files that change, by name."""
    layout, _ = read_store(files)
    paths = relative_paths([video.path for video in videos])
    rows = [VideoRow(v.video_id, v.class_name, v.part, path) for v, path in zip(videos, paths, strict=True)]
    names = {video.path: path for video, path in zip(videos, paths, strict=True)}
    records = {
        index: {**record, "failures": [_cleaned(failure, videos, names) for failure in record["failures"]]}
        for index, record in chunk_records(files).items()
    }
    failures = [
        [rows[row].video_id, rows[row].path, "encode", reason, message]
        for row, reason, message in failures_in(records.values())
    ]
    changed = {
        STORE_FILE: store_json(layout, rows),
        VIDEOS_FILE: videos_csv(rows, _results(files, len(rows))),
        FAILURES_FILE: csv_bytes(FAILURE_COLUMNS, failures),
    }
    metadata = read_record(files, METADATA_KEY)
    own = {name: _listed(FileEntry.of([data])) for name, data in changed.items()}
    changed[f"{JOURNAL}/{METADATA_KEY}.json"] = checked_json({**metadata, "files": {**metadata["files"], **own}})
    for index, record in records.items():
        key = chunk_key(index, len(range(*record["rows"])))
        changed[f"{JOURNAL}/{key}.json"] = checked_json(record)
    return changed


def _cleaned(failure: Sequence[Any], videos: Sequence[VideoRow], names: Mapping[str, str]) -> list[Any]:
    """Return a failure whose message names its video as the pushed tables do, and no folder of this machine."""
    row, reason, message = failure
    own = videos[row].path
    return [row, reason, portable_message(message, own, names[own])]


def _results(files: StoreFiles, n_videos: int) -> list[tuple[int, int, str]]:
    from fsar.pipeline.store import open_store

    store = open_store(files.path)
    hashes = [bytes(row).hex() for row in store.source_sha256]
    return list(zip(store.status.tolist(), store.n_frames.tolist(), hashes, strict=True))[:n_videos]


def _refuse_paths(files: StoreFiles) -> None:
    layout, _ = read_store(files)
    places = {"its recipe": dict(layout.recipe)}
    places |= {
        f"text table {name!r}": dict(table.encoder) for name, table in files.format.read_tables(files.path).items()
    }
    for place, value in places.items():
        for text in _texts(value):
            if is_absolute(text) and without_folders(text) != text:
                raise InputError(
                    f"{files.path} is not pushed: {place} holds a path of this machine, {text[:100]!r}; make that "
                    "part anew from a relative path"
                )


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [text for item in items for text in _texts(item)]


def _listed(entry: FileEntry) -> dict[str, Any]:
    return {"sha256": entry.sha256, "bytes": entry.n_bytes}
