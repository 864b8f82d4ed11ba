"""Publish a set of files as one step: staged, announced, renamed, recorded.

    staging/<key>-<token>/…     every file and the record, written and flushed
    journal/<key>.intent        names them with their sha256; created exclusively: the first of two writers wins
    (rename each to its place)
    journal/<key>.json          the record, renamed last: from here on the files are final; the intent goes

Whoever finds an intent can carry it out again (`redo`), several at a time, so a crash after the intent loses nothing
and a crash before it leaves only staged files. An intent that comes after a record of its key is dropped, unless it is
to replace that record. Records hold no clock, order or process id: equal content, equal bytes.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.files import read_plain, sync_folder
from fsar.pipeline.store.disk import (
    NO_ROOM,
    Buffer,
    FileEntry,
    cannot_write,
    create_exclusive,
    file_entry,
    is_whole,
    list_names,
    make_folder,
    replace,
    write_all,
)
from fsar.pipeline.store.format.files import JOURNAL, METADATA_KEY, STAGING, StoreFiles
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.format.names import inside
from fsar.pipeline.store.journal.records import (
    Entries,
    TornIntentError,
    chunk_key,
    intent_path,
    read_intent,
    record_path,
    stored_rows,
)

LastFile = Callable[[Entries, bytes], dict[str, bytes]]


def remove_superseded(files: StoreFiles) -> None:
    """Remove the records of chunks that have grown since."""
    folder = files.folder(JOURNAL)
    newest = {chunk_key(index, n_rows) for index, n_rows in stored_rows(files).items()}
    for name in list_names(folder):
        key, _, suffix = name.rpartition(".")
        if suffix == "json" and key != METADATA_KEY and not name.startswith(".") and key not in newest:
            (folder / name).unlink(missing_ok=True)


def publish(
    files: StoreFiles,
    key: str,
    contents: Mapping[str, list[Buffer]],
    details: Mapping[str, Any] | None = None,
    *,
    keep: Entries | None = None,
    last: LastFile | None = None,
) -> bool:
    """Make `contents` (file name -> buffers) appear as one step; return whether it was ours that did.

    Args:
        files: the store.
        key: name of the record.
        contents: the files.
        details: what else the record says.
        keep: files of an older record under the same key that stay as they are; without it an older record wins. Who
            replaces a record must hold the metadata claim.
        last: makes a file that may only appear after the record, from all entries and the record's bytes.
    """
    token = f"{key}-{os.getpid()}-{secrets.token_hex(4)}"
    folder = files.folder(STAGING) / token
    try:
        steps = _stage(folder, key, contents, details or {}, keep or {}, last)
        intent = {"staging": token, "replaces": keep is not None, "steps": [_listed(step) for step in steps]}
        ours = _announce(files, key, checked_json(intent), folder, replaces=keep is not None)
        if ours and not redo(files, key):
            raise InputError(f"{folder} was removed while it was being published")
        return ours
    except FileNotFoundError:  # another writer published the same, sealed the store and cleared what was staged
        if keep is None and record_path(files, key).exists():
            return False
        raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise cannot_write(files.path, error) from error
    finally:
        if not _is_announced(files, key, token):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # others may have files in it
            folder.parent.rmdir()


def _stage(
    folder: Path,
    key: str,
    contents: Mapping[str, list[Buffer]],
    details: Mapping[str, Any],
    keep: Entries,
    last: LastFile | None,
) -> list[Entries]:
    """Write every file below `folder`; return them in the steps in which they must appear."""
    make_folder(folder)
    entries = write_all(folder, contents)
    record = checked_json({"files": _listed(keep | entries), **details})
    steps = [entries, write_all(folder, {f"{JOURNAL}/{key}.json": [record]})]
    if last:
        steps.append(write_all(folder, {name: [data] for name, data in last(keep | entries, record).items()}))
    return steps


def _announce(files: StoreFiles, key: str, intent: bytes, folder: Path, *, replaces: bool) -> bool:
    path = intent_path(files, key)
    while not create_exclusive(path, intent, folder / "intent"):
        if redo(files, key) and not replaces:
            return False
    if not replaces and record_path(files, key).exists():
        path.unlink(missing_ok=True)  # another writer finished between our check and our intent
        return False
    return True


def _is_announced(files: StoreFiles, key: str, token: str) -> bool:
    try:
        return token.encode() in read_plain(intent_path(files, key))
    except (FileNotFoundError, InputError):
        return False


def redo(files: StoreFiles, key: str) -> bool:
    """Carry out an announced publication; return whether there is a record of it now.

    An intent whose staged files are gone or torn is discarded.

    Raises:
        InputError: the intent is none of ours; nothing is touched.
    """
    path, record = intent_path(files, key), record_path(files, key)
    try:
        intent = read_intent(files, key)
    except FileNotFoundError:
        return record.exists()
    except TornIntentError:
        path.unlink(missing_ok=True)
        return False
    if record.exists() and not intent.replaces:
        sync_folder(record.parent)
        done = True
    else:
        done = all(_move_all(files, intent.staging, step) for step in intent.steps)
    path.unlink(missing_ok=True)
    shutil.rmtree(intent.staging, ignore_errors=True)
    return done


def _move_all(files: StoreFiles, staging: Path, entries: Entries) -> bool:
    if not all(_move(files, staging, name, entry) for name, entry in entries.items()):
        return False
    for folder in sorted({files.locate(name).parent for name in entries}):
        sync_folder(folder)
    return True


def _move(files: StoreFiles, staging: Path, name: str, entry: FileEntry) -> bool:
    source, target = inside(staging, name), files.locate(name)
    try:
        if not is_whole(source, entry):
            return False
        replace(source, target)
    except FileNotFoundError:  # moved before a crash, or by another process at this moment
        return file_entry(target, entry.n_bytes) == entry
    return True


def _listed(entries: Entries) -> dict[str, dict[str, Any]]:
    return {name: {"sha256": entry.sha256, "bytes": entry.n_bytes} for name, entry in sorted(entries.items())}
