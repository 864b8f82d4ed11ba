"""Partial copies: whole files under the manifest of the store they come from, and what to do about the others.

`partial.json` beside the manifest says where the others are. A file is here whole or not at all, so which ones are here
is told by the disk alone; statuses of all rows stand in videos.csv and failures.csv, which every copy has.
"""

import csv
import io
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import read_plain, write_atomic
from fsar.pipeline.store.format.files import FAILURES_FILE, JOURNAL, MAX_TABLE_BYTES, VIDEOS_FILE, StoreFiles
from fsar.pipeline.store.format.identity import checked_json
from fsar.pipeline.store.format.layout import STATUS_FAILED, STATUS_OK, ArraySpec, Layout, VideoRow
from fsar.pipeline.store.format.schema import read_document
from fsar.pipeline.store.journal.manifest import read_manifest

PARTIAL_FILE = "partial.json"
RECORD_NAME = re.compile(rf"{JOURNAL}/(\d{{6,}})\.(\d{{6,}})\.json")
Array = np.ndarray[Any, Any]
Provide = Callable[[Sequence[str]], None]
"""Called with the names of files that are not here: puts them here, or raises."""


@dataclass(frozen=True)
class Partial:
    """What `partial.json` says."""

    source: str
    """Address of the whole store, pinned to its identity; without the query."""

    def write(self, files: StoreFiles) -> None:
        """Mark a store as a partial copy."""
        write_atomic(files.home / PARTIAL_FILE, checked_json(asdict(self)))

    def fetch_command(self, path: Path, video: VideoRow, taps: Sequence[str] = ()) -> str:
        """Return the command that brings taps of a video, and of all of its part or class, to the copy at `path`."""
        words = ["fsar-store", "pull", self.source, "--out", str(path)]
        words += [word for tap in taps for word in ("--tap", tap)]
        words += ["--part", video.part] if video.part else ["--class", video.class_name]
        return shlex.join(words)


def read_partial(files: StoreFiles) -> Partial | None:
    """Return what a partial copy says of itself, None for a whole store. Raises InputError if it is damaged."""
    try:
        return Partial(read_document(files.home / PARTIAL_FILE, {"source": str})["source"])
    except FileNotFoundError:
        return None


def refuse_partial(files: StoreFiles, action: str) -> None:
    """Raise InputError where a store is a partial copy, which nobody may change."""
    partial = read_partial(files)
    if partial:
        raise InputError(
            f"{files.path} is a partial copy of {partial.source}: to {action}, first pull the rest: "
            f"fsar-store pull {shlex.quote(partial.source)} --out {shlex.quote(str(files.path))}"
        )


def manifest_rows(names: Iterable[str]) -> dict[int, int]:
    """Return how many rows each chunk has, from the names of the records in a manifest."""
    found = (RECORD_NAME.fullmatch(name) for name in names)
    return {int(match[1]): int(match[2]) for match in found if match}


class Presence:
    """Sees to it that files are here before they are read."""

    def __init__(
        self,
        files: StoreFiles,
        layout: Layout,
        videos: Sequence[VideoRow],
        stored: Mapping[int, int],
        partial: Partial,
        provide: Provide | None,
    ) -> None:
        self._files, self._layout, self._videos, self._stored = files, layout, videos, stored
        self._partial, self._provide = partial, provide
        self._here: set[str] = set()

    def ensure(self, specs: Sequence[ArraySpec], chunks: Iterable[int]) -> None:
        """Have the files of some arrays and chunks put here.

        Raises:
            InputError: they are not here and cannot be had; the message says how to fetch them.
        """
        missing = [name for index in chunks for name in self._names(specs, int(index)) if not self._is_here(name)]
        if missing and self._provide:
            self._provide(list(dict.fromkeys(missing)))
        elif missing:
            raise self._refusal(specs, missing)

    def ensure_metadata(self) -> None:
        """Have everything but the numbers put here: text tables, failures.csv, what other programs read."""
        missing = [name for name in self._metadata if not self._is_here(name)]
        if missing and self._provide:
            self._provide(missing)
        elif missing:
            raise InputError(f"{self._files.locate(missing[0])} is missing: run `fsar-store verify {self._files.path}`")

    @cached_property
    def _metadata(self) -> list[str]:
        specs, chunk_file = self._layout.arrays().values(), self._files.format.chunk_file
        numbers = {chunk_file(spec, index) for spec in specs for index in self._stored}
        names = read_manifest(self._files)
        return [name for name in names if name not in numbers and not RECORD_NAME.fullmatch(name)]

    def _names(self, specs: Sequence[ArraySpec], index: int) -> list[str]:
        record = f"{JOURNAL}/{index:06d}.{self._stored.get(index, 0):06d}.json"
        return [record, *(self._files.format.chunk_file(spec, index) for spec in specs)]

    def _is_here(self, name: str) -> bool:
        if name not in self._here and self._files.locate(name).exists():
            self._here.add(name)
        return name in self._here

    def _refusal(self, specs: Sequence[ArraySpec], missing: Sequence[str]) -> InputError:
        taps = [spec.name.removeprefix("features/") for spec in specs if spec.name.startswith("features/")]
        chunk = next(i for i in self._stored if any(name in missing for name in self._names(specs, i)))
        video = self._videos[self._layout.chunk_range(chunk, len(self._videos)).start]
        command = self._partial.fetch_command(self._files.path, video, taps)
        what = f"tap {taps[0]!r}" if taps else specs[0].name
        return InputError(
            f"{self._files.path} is a partial copy without {what} of video {video.video_id!r} "
            f"({len(missing)} files are not here): fetch them with {command}"
        )


class ListedRows:
    """States of the N rows of a sealed store, from its tables alone."""

    def __init__(self, files: StoreFiles, videos: Sequence[VideoRow], presence: Presence) -> None:
        self._files, self._videos, self._presence = files, videos, presence
        self._columns: dict[str, Array] = {}
        self._failures: list[tuple[int, str, str]] | None = None

    def column(self, name: str) -> Array:
        """Return status, n_frames or source_sha256 of all rows, read-only."""
        if not self._columns:
            self._columns = self._read_columns()
        return self._columns[name]

    def failures(self) -> list[tuple[int, str, str]]:
        """Return (row, reason, message) of the videos that could not be encoded, in row order."""
        if self._failures is None:
            self._presence.ensure_metadata()
            self._failures = listed_failures(self._files, self._videos)
        return self._failures

    def failure_of(self, row: int) -> tuple[str, str] | None:
        """Return (reason, message) of a failed row, None for any other."""
        return next(((reason, message) for at, reason, message in self.failures() if at == row), None)

    def missing(self) -> Array:
        """Return nothing: a sealed store lacks no row."""
        return np.arange(0)

    def _read_columns(self) -> dict[str, Array]:
        cells = _cells(self._files.locate(VIDEOS_FILE), ("status", "n_frames", "sha256"))
        try:
            status = np.array([int(row[0]) for row in cells], np.uint8)
            n_frames = np.array([int(row[1]) for row in cells], np.int32)
            hashes = np.array([list(bytes.fromhex(row[2])) for row in cells], np.uint8).reshape(-1, 32)
        except (ValueError, OverflowError) as error:
            raise _damaged(self._files.locate(VIDEOS_FILE), str(error)) from None
        if len(status) != len(self._videos) or not np.isin(status, (STATUS_OK, STATUS_FAILED)).all():
            raise _damaged(self._files.locate(VIDEOS_FILE), "its statuses are not those of a sealed store")
        columns: dict[str, Array] = {"status": status, "n_frames": n_frames, "source_sha256": hashes}
        for column in columns.values():
            column.flags.writeable = False
        return columns


def listed_failures(files: StoreFiles, videos: Sequence[VideoRow]) -> list[tuple[int, str, str]]:
    """Return (row, reason, message) of the videos that failed, in row order, from the table of a store or a pack.

    Raises:
        InputError: the table is damaged.
    """
    path, row_of = files.locate(FAILURES_FILE), {video.video_id: row for row, video in enumerate(videos)}
    cells = _cells(path, ("video_id", "reason", "message"))
    try:
        return sorted((row_of[video_id], reason, text) for video_id, reason, text in cells)
    except KeyError as error:
        raise _damaged(path, f"no video {error}") from None


def _cells(path: Path, columns: Sequence[str]) -> list[list[str]]:
    return listed_cells(read_plain(path, MAX_TABLE_BYTES), columns, str(path))


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged: {why}")


def listed_cells(table: bytes, columns: Sequence[str], source: str) -> list[list[str]]:
    """Return some columns of a CSV table, row by row. Raises InputError, which names `source`, if it is damaged."""
    try:
        rows = csv.DictReader(io.StringIO(table.decode(), newline=""))
        return [[row[column] or "" for column in columns] for row in rows]
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{source} is damaged: {error}") from None
