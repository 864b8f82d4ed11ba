"""Re-read every byte of a store and say what is wrong, by file and by video."""

import re
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK
from fsar.pipeline.store.disk import file_entry
from fsar.pipeline.store.format.files import (
    CLAIMS,
    JOURNAL,
    KEY_PATTERN,
    MANIFEST_FILE,
    MAX_TABLE_BYTES,
    METADATA_KEY,
    RUNS,
    STAGING,
    StoreFiles,
    read_runs,
    read_store,
)
from fsar.pipeline.store.format.layout import Layout, VideoRow
from fsar.pipeline.store.journal.chunk_rows import MAX_METADATA_BYTES, refuse_misfit
from fsar.pipeline.store.journal.manifest import is_sealed, read_manifest
from fsar.pipeline.store.journal.records import (
    Entries,
    TornIntentError,
    announced_files,
    chunk_key,
    intents,
    read_intent,
    read_record,
    record_entries,
    stored_rows,
)
from fsar.pipeline.store.partial import PARTIAL_FILE, read_partial

N_THREADS = 4
_RECORD_NAME = re.compile(rf"{JOURNAL}/([0-9]{{6,9}})\.([0-9]{{6,9}})\.json")
_RANDOM = "[0-9a-f]{8}"
_TRACE = re.compile(
    rf"{RUNS}/[0-9a-f]{{16}}\.json|{JOURNAL}/{KEY_PATTERN}\.intent|{STAGING}/{KEY_PATTERN}-[0-9]+-{_RANDOM}/.+"
    rf"|{CLAIMS}/([0-9]+|\.[0-9]+-(stale-)?{_RANDOM})"
)
"""What runs leave, and what work in hand or a killed run may have left, apart from files under temporary names."""


@dataclass(frozen=True)
class Problem:
    """One file that is not as it was written."""

    file: str
    what: str
    """damaged, missing, foreign, or a sentence."""
    videos: tuple[str, ...] = ()
    """Ids of the videos whose numbers are in the file."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    sealed: bool
    n_files: int
    n_bytes: int
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no damage: chunks not encoded yet, leftovers of a killed run."""

    @property
    def videos_hit(self) -> list[str]:
        """Ids of all videos in damaged or missing files, sorted."""
        return sorted({video for problem in self.problems for video in problem.videos})


def verify(path: str | Path, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Check every file against the manifest, or against the journal when the store is not sealed yet.

    Args:
        path: the store.
        advance: called with 1 after each file.

    Raises:
        FileNotFoundError: there is no store.
    """
    files = StoreFiles.at(path)
    if not files.exists() and not is_sealed(files):
        read_store(files)  # says why there is none
    sealed = is_sealed(files)
    problems: list[Problem] = []
    owners = _Owners(files, problems)
    whole = expected = expected_files(files, sealed, problems, owners.of)
    on_disk = set(files.names())
    moving = announced_files(files)
    partial = read_partial(files)
    if partial:
        expected = {name: whole[name] for name in whole if name in on_disk}
    problems += owners.impossible(expected)
    unfit = {problem.file for problem in problems}
    hashed = {name: expected[name] for name in expected if name not in moving and name not in unfit}
    for name, what in check_files(files, hashed, advance):
        problems.append(Problem(name, what, owners.of(name)))
    problems += owners.unmatched(whole) if sealed else []
    problems += [] if partial or problems else _master_problems(files, owners)  # what no hash tells
    problems += _intent_problems(files, sealed)
    notes = _notes(files, sealed)
    known = expected.keys() | moving | {MANIFEST_FILE if sealed else ""}
    if partial:
        known |= {PARTIAL_FILE}
        notes.append(f"a partial copy of {partial.source}: {len(expected)} of its {len(whole)} files are here")
    for name in sorted(on_disk - known):
        if not _is_own_business(name, sealed):
            problems.append(Problem(name, "foreign: no file of this store"))
    problems += _renaming_problems(files) + _runs_problems(files)
    n_bytes = sum(entry.n_bytes for entry in expected.values())
    return Verification(sealed, len(expected), n_bytes, _unique(problems), notes)


def expected_files(
    files: StoreFiles, sealed: bool, problems: list[Problem], videos_of: Callable[[str], tuple[str, ...]]
) -> Entries:
    """Return every file that must be there; records that cannot be read are added to `problems` with their videos."""
    if sealed:
        try:
            return read_manifest(files)
        except InputError as error:
            problems.append(Problem(MANIFEST_FILE, str(error)))
    entries: Entries = {}
    keys = [chunk_key(index, n_rows) for index, n_rows in stored_rows(files).items()]
    for key in [METADATA_KEY, *keys]:
        name = f"{JOURNAL}/{key}.json"
        path = files.locate(name)
        try:
            record = record_entries(read_record(files, key))
        except FileNotFoundError:
            problems.append(Problem(name, "missing"))
            continue
        except InputError as error:
            problems.append(Problem(name, str(error), videos_of(name)))
            continue
        entry = file_entry(path)
        if entry is not None:
            entries[name] = entry
        entries |= record
    return entries


def check_files(files: StoreFiles, expected: Entries, advance: Callable[[int], None] | None) -> list[tuple[str, str]]:
    """Hash every file; return the name of each that is not as expected, and what is wrong with it."""

    def check(name: str) -> tuple[str, str] | None:
        wanted = expected[name]
        try:
            entry = file_entry(files.locate(name), wanted.n_bytes)
        except InputError as error:
            return name, str(error)
        except OSError as error:  # the disk itself may refuse to give a damaged block
            return name, f"unreadable: {error}"
        if entry is None:
            return name, "missing"
        if entry.n_bytes != wanted.n_bytes:
            return name, f"damaged: {entry.n_bytes} bytes instead of {wanted.n_bytes}"
        return None if entry == wanted else (name, "damaged: its bytes have changed")

    wrong = []
    with ThreadPoolExecutor(N_THREADS) as pool:
        for result in pool.map(check, sorted(expected)):
            if result:
                wrong.append(result)
            if advance:
                advance(1)
    return wrong


class _Owners:
    """Which videos a file belongs to."""

    def __init__(self, files: StoreFiles, problems: list[Problem]) -> None:
        self._files = files
        self._rows: dict[str, range] = {}
        self._videos: list[VideoRow] = []
        try:
            self.layout, self._videos = read_store(files)
        except (InputError, OSError) as error:
            problems.append(Problem("store", f"cannot tell which videos are hit: {error}"))
            return
        self._rows = _chunk_rows(files, self.layout, len(self._videos))

    @property
    def n_videos(self) -> int:
        """Rows of the store, 0 when nobody can tell."""
        return len(self._videos)

    def of(self, name: str) -> tuple[str, ...]:
        record = _RECORD_NAME.fullmatch(name)
        if record and self._videos:
            rows = self.layout.chunk_range(int(record[1]), len(self._videos))
        else:
            rows = self._rows.get(name, range(0))
        return tuple(self._videos[row].video_id for row in rows)

    def impossible(self, expected: Entries) -> list[Problem]:
        """Return what the layout rules out: records with other rows or sizes, files too large to be hashed."""
        if not self._videos:
            return []
        problems = []
        for index, n_rows in stored_rows(self._files).items():
            name = f"{JOURNAL}/{chunk_key(index, n_rows)}.json"
            if name not in expected:
                continue
            try:
                record = read_record(self._files, chunk_key(index, n_rows))
                refuse_misfit(self._files, self.layout, index, record)
            except (InputError, FileNotFoundError) as error:
                problems.append(Problem(name, str(error), self.of(name)))
        sizes = self.layout.chunk_rows * sum(spec.row_bytes for spec in self.layout.arrays().values())
        for name, entry in expected.items():
            if entry.n_bytes > (sizes + MAX_METADATA_BYTES if name in self._rows else MAX_TABLE_BYTES):
                problems.append(Problem(name, f"{entry.n_bytes} bytes are more than it can have", self.of(name)))
        return problems

    def unmatched(self, expected: Collection[str]) -> list[Problem]:
        """Return the chunks of a complete store that the manifest does not name, and records of no videos."""
        missing = sorted(self._rows.keys() - set(expected))
        records = [(name, _RECORD_NAME.fullmatch(name)) for name in sorted(expected)]
        extra = [
            name
            for name, found in records
            if found and self._videos and int(found[1]) * self.layout.chunk_rows + int(found[2]) > self.n_videos
        ]
        problems = [Problem(name, "not in the manifest", self.of(name)) for name in missing]
        return problems + [Problem(name, "a record of rows that the store does not have") for name in extra]


def _chunk_rows(files: StoreFiles, layout: Layout, n_videos: int) -> dict[str, range]:
    specs = layout.arrays().values()
    return {
        files.format.chunk_file(spec, index): layout.chunk_range(index, n_videos)
        for index in range(layout.n_chunks(n_videos))
        for spec in specs
    }


def _is_own_business(name: str, sealed: bool) -> bool:
    """Return whether a file that no record names is still ours: runs, and the traces of work in hand."""
    if TEMPORARY_MARK in name.rpartition("/")[2] or _TRACE.fullmatch(name):
        return True
    return not sealed and _RECORD_NAME.fullmatch(name) is not None


def _renaming_problems(files: StoreFiles) -> list[Problem]:
    if files.format.leads_home(files.path):
        return []
    what = f"links to the folder of another name, the store was renamed: `fsar-store seal {files.path}` mends it"
    return [Problem(name, what) for name in files.format.extra_names()]


def _master_problems(files: StoreFiles, owners: _Owners) -> list[Problem]:
    """Return what is wrong with the metadata that other programs read, and with the text tables."""
    try:
        files.format.read_tables(files.path)
        if owners.n_videos and METADATA_KEY not in intents(files) and files.format.leads_home(files.path):
            files.format.refuse_foreign(files.path, owners.layout, owners.n_videos)
    except (InputError, FileNotFoundError) as error:
        return [Problem("metadata", str(error))]
    return []


def _intent_problems(files: StoreFiles, sealed: bool) -> list[Problem]:
    """Return the intents that no writer of ours left, and in a sealed store all: it is half changed."""
    problems = []
    for key in intents(files):
        name = f"{JOURNAL}/{key}.intent"
        try:
            read_intent(files, key)
        except FileNotFoundError:  # just finished
            continue
        except TornIntentError:
            pass
        except InputError as error:
            problems.append(Problem(name, str(error)))
            continue
        if sealed:
            problems.append(
                Problem(name, f"a change that was not finished: `fsar-store seal {files.path}` finishes it")
            )
    return problems


def _runs_problems(files: StoreFiles) -> list[Problem]:
    try:
        read_runs(files)
    except InputError as error:
        return [Problem(RUNS, str(error))]
    return []


def _notes(files: StoreFiles, sealed: bool) -> list[str]:
    notes = [] if sealed else ["the store is not sealed: checked against its journal"]
    n_staged = sum(path.is_file() for path in files.folder(STAGING).rglob("*"))
    if n_staged:
        notes.append(f"{n_staged} staged files of interrupted or running work; sealing removes them")
    announced = [] if sealed else intents(files)
    notes += [f"{key} was announced and not finished; `fsar-store seal` finishes it" for key in announced]
    return notes


def _unique(problems: list[Problem]) -> list[Problem]:
    return list({(problem.file, problem.what): problem for problem in problems}.values())
