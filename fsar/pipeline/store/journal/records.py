"""What the journal says: which chunks are stored, in which files, and what was announced and not finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.store.disk import FileEntry, list_names
from fsar.pipeline.store.format.files import JOURNAL, METADATA_KEY, StoreFiles
from fsar.pipeline.store.format.schema import FILE_ENTRY, INTENT, RECORD, check_fields, check_record, read_document

Entries = dict[str, FileEntry]


def chunk_key(index: int, n_rows: int) -> str:
    """Return the journal's name of chunk `index` with `n_rows` rows stored in it."""
    return f"{index:06d}.{n_rows:06d}"


def stored_rows(files: StoreFiles) -> dict[int, int]:
    """Return how many rows of each finished chunk are stored, by listing names only."""
    stored: dict[int, int] = {}
    for name in list_names(files.folder(JOURNAL)):
        index, _, rest = name.partition(".")
        n_rows, _, suffix = rest.partition(".")
        if index.isdigit() and n_rows.isdigit() and suffix == "json":
            stored[int(index)] = max(stored.get(int(index), 0), int(n_rows))
    return stored


def intent_path(files: StoreFiles, key: str) -> Path:
    """Return where a publication under this key is announced."""
    return files.folder(JOURNAL) / f"{key}.intent"


def record_path(files: StoreFiles, key: str) -> Path:
    """Return where the record of this key lies once it is published."""
    return files.folder(JOURNAL) / f"{key}.json"


def read_record(files: StoreFiles, key: str) -> dict[str, Any]:
    """Return the record of a published set of files: files (name -> sha256, bytes) and what its writer added.

    Raises:
        FileNotFoundError: there is none of that key.
        InputError: it is damaged, or another version of fsar wrote it.
    """
    path = record_path(files, key)
    record = read_document(path, RECORD)
    return record if key == METADATA_KEY else check_record(record, str(path))


def read_chunk_record(files: StoreFiles, index: int, n_rows: int) -> dict[str, Any]:
    """Return the record of a chunk with at least `n_rows` rows: it may have grown since they were counted."""
    try:
        return read_record(files, chunk_key(index, n_rows))
    except FileNotFoundError:
        grown = stored_rows(files).get(index, 0)
        if grown <= n_rows:
            raise
        return read_record(files, chunk_key(index, grown))


def chunk_records(files: StoreFiles) -> dict[int, dict[str, Any]]:
    """Return the record of every finished chunk, by its index."""
    return {index: read_record(files, chunk_key(index, rows)) for index, rows in sorted(stored_rows(files).items())}


def record_entries(record: Mapping[str, Any]) -> Entries:
    """Return the files that a record names."""
    entries = {
        name: check_fields(entry, FILE_ENTRY, f"the record of {name}") for name, entry in record["files"].items()
    }
    return {name: FileEntry(entry["sha256"], entry["bytes"]) for name, entry in entries.items()}


def metadata_entries(files: StoreFiles) -> Entries:
    """Return the files of the metadata record."""
    return record_entries(read_record(files, METADATA_KEY))


def intents(files: StoreFiles) -> list[str]:
    """Return the keys that were announced and not finished."""
    names = list_names(files.folder(JOURNAL))
    return [name.removesuffix(".intent") for name in names if name.endswith(".intent") and not name.startswith(".")]


def announced_files(files: StoreFiles) -> set[str]:
    """Return the names of files that unfinished publications are about to put in place, or already have."""
    names: set[str] = set()
    for key in intents(files):
        path = intent_path(files, key)
        try:
            intent = read_document(path, INTENT)
        except (FileNotFoundError, InputError):  # just finished, or torn: then it moved nothing
            continue
        names |= {name for step in intent["steps"] for name in step}
    return names
