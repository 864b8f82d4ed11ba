"""What leaves this machine when a store is pushed: its files, without the paths that only mean something here.

`videos.csv` and `failures.csv` hold the path of every video, and messages of failures repeat it. Absolute paths tell
strangers about this machine and its users, and help nobody elsewhere, so a pushed store has them relative to the
folder that all its videos share. Only tables and records change; the numbers do not.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.store.disk import FileEntry
from fsar.pipeline.store.format.files import (
    FAILURE_COLUMNS,
    FAILURES_FILE,
    JOURNAL,
    MANIFEST_FILE,
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

_FOLDERS = re.compile(r"(?<![\w./~-])(?:[A-Za-z]:[\\/]|/)(?:[^/\\\s'\":,;()\[\]]+[/\\])+")
"""The folders of an absolute path somewhere in a text."""


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
    n_relative = sum(_is_absolute(video.path) for video in videos)
    changed = _without_paths(files, videos) if n_relative else {}
    listed = entries | {name: FileEntry.of([data]) for name, data in changed.items()}
    manifest = checked_json({"files": {name: _listed(listed[name]) for name in sorted(listed)}})
    sources: dict[str, Path | bytes] = {name: changed.get(name, files.locate(name)) for name in listed}
    identity = FileEntry.of([manifest]).sha256
    return Outgoing({**sources, MANIFEST_FILE: manifest}, listed, identity, n_relative)


def relative_paths(paths: Sequence[str]) -> list[str]:
    """Return paths relative to the folder that all absolute ones share; their names alone where they share none."""
    absolute = [PurePosixPath(path) for path in paths if path.startswith("/")]
    shared = PurePosixPath(os.path.commonpath([path.parent for path in absolute])) if absolute else PurePosixPath("/")

    def relative(path: str) -> str:
        if not _is_absolute(path):
            return path
        if path.startswith("/") and len(shared.parts) > 1:
            return PurePosixPath(os.path.normpath(path)).relative_to(os.path.normpath(shared)).as_posix()
        return PureWindowsPath(path).name if not path.startswith("/") else PurePosixPath(path).name

    return [relative(path) for path in paths]


def without_folders(text: str) -> str:
    """Return a message with every absolute path in it cut to its last part."""
    return _FOLDERS.sub("", text)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or PureWindowsPath(path).is_absolute()


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
    return [row, reason, without_folders(message.replace(own, names[own]))]


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
            if _is_absolute(text) and without_folders(text) != text:
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
