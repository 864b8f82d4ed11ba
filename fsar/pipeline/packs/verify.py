"""Re-read every byte of a pack and say what is wrong, by file and by video."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK, open_plain
from fsar.pipeline.packs.layout import PackLayout, data_name, index_name, pack_files, read_pack
from fsar.pipeline.packs.reader import FramePack
from fsar.pipeline.store.disk import FileEntry
from fsar.pipeline.store.format.files import CLAIMS, JOURNAL, MANIFEST_FILE, METADATA_KEY, STAGING, StoreFiles
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.manifest import read_manifest
from fsar.pipeline.store.journal.records import (
    Entries,
    announced_files,
    chunk_key,
    intents,
    read_record,
    record_entries,
    stored_rows,
)
from fsar.pipeline.store.verify import Problem, Verification
from fsar.pipeline.video.clip import VideoError

N_THREADS = 4
_TRACE = re.compile(rf"({CLAIMS}|{STAGING})/.+|{JOURNAL}/({METADATA_KEY}|\d+\.\d+)\.intent")
_RECORD = re.compile(rf"{JOURNAL}/(\d+)\.(\d+)\.json")


def verify_pack(path: str | Path, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Check every file against the manifest (the journal of an unfinished pack), then every frame against its index.

    Raises:
        FileNotFoundError: there is no pack.
    """
    files = pack_files(path)
    if not files.locate(MANIFEST_FILE).exists() and not files.path.exists():
        read_pack(files)  # says that there is none
    sealed = files.locate(MANIFEST_FILE).exists()
    problems: list[Problem] = []
    expected = _expected(files, sealed, problems)
    owners = _owners(files, problems)
    moving = announced_files(files)
    for name, what in _check(files, {n: e for n, e in expected.items() if n not in moving}, advance):
        problems.append(Problem(name, what, owners.get(name, ())))
    known = expected.keys() | moving | {MANIFEST_FILE}
    for name in sorted(set(files.names()) - known):
        own = TEMPORARY_MARK in name or _TRACE.fullmatch(name) or (not sealed and _RECORD.fullmatch(name))
        if not own:
            problems.append(Problem(name, "foreign: no file of this pack"))
    if not problems:
        problems += _frame_problems(files)
    notes = [] if sealed else ["the pack is not finished: checked against its journal"]
    notes += [
        f"{key} was announced and not finished; the command that made the pack finishes it" for key in intents(files)
    ]
    return Verification(sealed, len(expected), sum(entry.n_bytes for entry in expected.values()), problems, notes)


def _expected(files: StoreFiles, sealed: bool, problems: list[Problem]) -> Entries:
    """Return every file that must be there."""
    if sealed:
        try:
            return read_manifest(files)
        except InputError as error:
            problems.append(Problem(MANIFEST_FILE, str(error)))
    entries: Entries = {}
    for key in [METADATA_KEY, *(chunk_key(number, n_rows) for number, n_rows in stored_rows(files).items())]:
        name = f"{JOURNAL}/{key}.json"
        try:
            entries |= record_entries(read_record(files, key))
            entry = _entry(files.locate(name))
        except FileNotFoundError:
            problems.append(Problem(name, "missing"))
        except InputError as error:
            problems.append(Problem(name, str(error)))
        else:
            entries[name] = entry
    return entries


def _owners(files: StoreFiles, problems: list[Problem]) -> dict[str, tuple[str, ...]]:
    """Return the ids of the videos in each file."""
    layout: PackLayout
    videos: list[VideoRow]
    try:
        layout, videos = read_pack(files)
    except (InputError, OSError) as error:
        problems.append(Problem("pack", f"cannot tell which videos are hit: {error}"))
        return {}
    owners: dict[str, tuple[str, ...]] = {}
    for number in range(layout.n_shards):
        ids = tuple(videos[row].video_id for row in layout.rows(number))
        key = f"{JOURNAL}/{chunk_key(number, len(ids))}.json"
        owners |= dict.fromkeys((data_name(number), index_name(number), key), ids)
    return owners


def _check(files: StoreFiles, expected: Entries, advance: Callable[[int], None] | None) -> list[tuple[str, str]]:
    def check(name: str) -> tuple[str, str] | None:
        wanted = expected[name]
        try:
            entry = _entry(files.locate(name), wanted.n_bytes)
        except FileNotFoundError:
            return name, "missing"
        except (InputError, OSError) as error:
            return name, f"unreadable: {error}"
        if entry.n_bytes != wanted.n_bytes:
            return name, f"damaged: {entry.n_bytes} bytes instead of {wanted.n_bytes}"
        return None if entry == wanted else (name, "damaged: its bytes have changed")

    with ThreadPoolExecutor(N_THREADS) as pool:
        wrong = []
        for result in pool.map(check, sorted(expected)):
            if result:
                wrong.append(result)
            if advance:
                advance(1)
    return wrong


def _entry(path: Path, wanted_bytes: int | None = None) -> FileEntry:
    """Return size and hash of a plain file; a file of another size than `wanted_bytes` is not read."""
    with open_plain(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if wanted_bytes is not None and n_bytes != wanted_bytes:
            return FileEntry("", n_bytes)
        return FileEntry(hashlib.file_digest(file, "sha256").hexdigest(), n_bytes)


def _frame_problems(files: StoreFiles) -> list[Problem]:
    """Return what the index and the frames themselves say, where all files are as they were written."""
    pack = FramePack.open(files.path, allow_unsealed=True)
    problems = []
    done = stored_rows(files)
    for number in range(pack.layout.n_shards):
        for row in pack.layout.rows(number) if number in done else ():
            video_id = pack.videos[row].video_id
            try:
                video = pack.video(video_id)
                if video.n_stored:
                    pack.jpegs(video_id, range(video.n_stored))
            except (InputError, VideoError) as error:
                problems.append(Problem(data_name(number), str(error), (video_id,)))
    return problems
