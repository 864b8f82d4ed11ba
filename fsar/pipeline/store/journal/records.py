"""What the journal says: which chunks are stored, in which files, and what was announced and not finished."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.store.disk import FileEntry, list_names
from fsar.pipeline.store.format.files import JOURNAL, KEY_PATTERN, METADATA_KEY, STAGING, StoreFiles
from fsar.pipeline.store.format.names import checked_name, refuse_collisions
from fsar.pipeline.store.format.schema import INTENT, RECORD, check_entry, check_fields, check_record, read_document

Entries = dict[str, FileEntry]
_CHUNK_RECORD = re.compile(r"([0-9]{6,9})\.([0-9]{6,9})\.json")
_INTENT = re.compile(rf"{KEY_PATTERN}\.intent")


def chunk_key(index: int, n_rows: int) -> str:
    """Return the journal's name of chunk `index` with `n_rows` rows stored in it."""
    return f"{index:06d}.{n_rows:06d}"


def stored_rows(files: StoreFiles) -> dict[int, int]:
    """Return how many rows of each finished chunk are stored, by listing names only."""
    stored: dict[int, int] = {}
    for name in list_names(files.folder(JOURNAL)):
        found = _CHUNK_RECORD.fullmatch(name)
        if found:
            index, n_rows = map(int, found.groups())
            stored[index] = max(stored.get(index, 0), n_rows)
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
    return record if key == METADATA_KEY else check_record(record, str(path), int(key.partition(".")[2]))


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
    """Return the files that a record or manifest names. Raises InputError for names that lead out of the store."""
    refuse_collisions(record["files"], "a record of this store")
    entries = {
        checked_name(name): check_entry(entry, f"the record of {name}") for name, entry in record["files"].items()
    }
    return {name: FileEntry(entry["sha256"], entry["bytes"]) for name, entry in entries.items()}


def metadata_entries(files: StoreFiles) -> Entries:
    """Return the files of the metadata record."""
    return record_entries(read_record(files, METADATA_KEY))


@dataclass(frozen=True)
class Intent:
    """A publication that was announced: staged files that go to their places, step by step."""

    staging: Path
    replaces: bool
    steps: list[Entries]


def read_intent(files: StoreFiles, key: str) -> Intent:
    """Return what is announced under a key.

    Raises:
        FileNotFoundError: nothing is.
        TornIntentError: it was cut short while it was announced; nothing was moved.
        InputError: no writer of ours announced it: it names other files than a store has, or another staging folder.
    """
    path = intent_path(files, key)
    try:
        intent = read_document(path, INTENT)
    except InputError as error:
        raise TornIntentError(str(error)) from None
    if not re.fullmatch(rf"{re.escape(key)}-[0-9]+-[0-9a-f]{{8}}", intent["staging"]):
        raise InputError(f"{path} names the staging folder {intent['staging']!r}: fsar did not write it, remove it")
    steps = [record_entries(check_fields({"files": step}, RECORD, str(path))) for step in intent["steps"]]
    strange = [name for step in steps for name in step if not files.owns(name)]
    if strange:
        raise InputError(f"{path} names {strange[0]!r}, which no store has: fsar did not write it, remove it")
    return Intent(files.folder(f"{STAGING}/{intent['staging']}"), intent["replaces"], steps)


class TornIntentError(InputError):
    """An announcement that was not written whole."""


def intents(files: StoreFiles) -> list[str]:
    """Return the keys that were announced and not finished."""
    found = [_INTENT.fullmatch(name) for name in list_names(files.folder(JOURNAL))]
    return [match[1] for match in found if match]


def announced_files(files: StoreFiles) -> set[str]:
    """Return the names of files that unfinished publications are about to put in place, or already have."""
    names: set[str] = set()
    for key in intents(files):
        with suppress(FileNotFoundError, InputError):  # just finished, or not ours and then it moves nothing
            names |= {name for step in read_intent(files, key).steps for name in step}
    return names
