"""An output folder that knows what it holds: made with which settings, from which sources, finished or not."""

import json
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fsar.documents import read_csv, read_json
from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK, remove_leftovers, write_atomic
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.jobs.run import FAILURE_COLUMNS, Failure, write_failures
from fsar.pipeline.rewrite.record import Record, journal_text, read_records
from fsar.pipeline.rewrite.session import (
    Session,
    finished_outputs,
    is_alive,
    make_plan,
    read_plan,
    sessions,
)
from fsar.pipeline.store.journal.claims import metadata_claim
from fsar.pipeline.video.source import source_bytes

LOCK = "lock"
"""Claim of the process that begins or ends a session."""


class OutputFolder:
    """Finished outputs, a journal with one JSON line for each, and while a run goes on the folder STAGE.work.

    However many processes there were, and however often they were interrupted, the end is the same: a sorted journal,
    catalog.csv and failures.csv, and no trace of the work.
    """

    def __init__(self, folder: Path, stage: str, settings: Mapping[str, Any]) -> None:
        self.folder, self.stage = folder, stage
        self._settings_file, self.journal_path = folder / f"{stage}.json", folder / f"{stage}.jsonl"
        self.work, self.failures_path = folder / f"{stage}.work", folder / "failures.csv"
        self.catalog_path = folder / "catalog.csv"
        self._settings = json.loads(json.dumps(dict(settings)))

    @cached_property
    def records(self) -> dict[str, Record]:
        """Finished outputs by video id, as they were when this was first asked or a session joined."""
        return self._read_records()

    def check(self) -> None:
        """Raise `InputError` if the folder holds something that is not ours or was made with other settings."""
        # Listed first: others may begin at this moment, and they write the settings before anything else.
        there = list(self.folder.iterdir()) if self.folder.is_dir() else []
        if self._settings_file.is_file():
            found = read_json(self._settings_file)
            if not isinstance(found, dict):
                raise InputError(f"{self._settings_file} is damaged: choose another folder")
            differing = [
                f"{name}: {found.get(name)!r} there, {self._settings.get(name)!r} now"
                for name in sorted(found.keys() | self._settings.keys())
                if found.get(name) != self._settings.get(name)
            ]
            if differing:
                raise InputError(
                    f"{self.folder} was written with other settings ({'; '.join(differing)}): choose another folder"
                )
        elif any(self._is_foreign(path) for path in there):
            raise InputError(f"{self.folder} is not empty and was not written by `{self.stage}`: choose another folder")

    def join(self, rows: Sequence[CatalogRow]) -> Session:
        """Return the session that is going on, or a new one; this process takes part in it until it leaves the session.

        A new one keeps what killed runs have finished and removes what they left unfinished. Raises InputError as
        `check` does, and while others work on another list of videos.
        """
        self.check()
        with self._alone():
            self.check()  # again: a run that began at the same moment may have other settings
            going_on = [folder for folder in sessions(self.work) if read_plan(folder) and is_alive(folder)]
            if going_on and read_plan(going_on[0]) != make_plan(rows):
                raise InputError(
                    f"another run is writing to {self.folder} from another list of videos: wait until it ends, or "
                    "choose another folder"
                )
            session = Session(going_on[0] if going_on else self.work / secrets.token_hex(4), rows)
            if not going_on:
                self._tidy_up()
                session.begin()
            session.enter()
        self.records = self._read_records()
        return session

    def close(self, session: Session, catalog: Catalog) -> list[Failure] | None:
        """Write journal, catalog.csv and failures.csv, once for all processes; return the failures.

        Returns None when the session ended without its tables: this process was taken for dead.
        """
        with self._alone():
            if not session.is_over():
                records, failures = session.results()
                self.records = self._read_records() | {record.video_id: record for record in records}
                self._write_journal()
                write_failures(self.failures_path, failures)
                write_catalog(self._rewritten(catalog, without={f.video_id for f in failures}), self.catalog_path)
                somebody_died = session.somebody_died()
                session.end()
                if somebody_died:
                    remove_leftovers(self.folder)
                return failures
        return self._closed_by_another(catalog)

    def is_done(self, record: Record | None, source: Path) -> bool:
        """Tell whether a recorded output is there and was made from this very source; nothing is decoded."""
        if record is None or not record.source.is_unchanged(source):
            return False
        return source_bytes(self.folder / record.output) == record.output_bytes

    def _is_foreign(self, path: Path) -> bool:
        return TEMPORARY_MARK not in path.name and path != self.work

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the right to begin or end a session."""
        try:
            with metadata_claim(self.work / LOCK):
                yield
        finally:
            self._remove_traces()

    def _remove_traces(self) -> None:
        """Remove what is left when no session is going on: who was killed at the lock leaves a hidden file there."""
        if sessions(self.work):
            return
        for path in (self.work / LOCK).glob(".*"):
            path.unlink(missing_ok=True)  # a living one whose file it was tries again
        for folder in (self.work / LOCK, self.work):
            with suppress(OSError):  # others are about to begin
                folder.rmdir()

    def _tidy_up(self) -> None:
        """Keep what dead runs have finished and remove what else they left."""
        if not self._settings_file.is_file():
            write_atomic(self._settings_file, json.dumps(self._settings, indent=1, sort_keys=True) + "\n")
        self.records = self._read_records()
        dead = sessions(self.work)
        if dead and self.records:
            self._write_journal()
        for folder in dead:
            shutil.rmtree(folder, ignore_errors=True)
        remove_leftovers(self.folder)

    def _rewritten(self, catalog: Catalog, *, without: Collection[str]) -> Catalog:
        """Return a catalog with every path replaced by its finished output; videos that have none are left out."""
        rows = []
        for row in catalog.rows:
            record = self.records.get(row.video_id)
            if record is not None and row.video_id not in without:
                rows.append(replace(row, path=self.folder / record.output, bytes=record.output_bytes))
        return Catalog(tuple(rows), catalog.dataset)

    def _closed_by_another(self, catalog: Catalog) -> list[Failure] | None:
        ids = {row.video_id for row in catalog.rows}
        failures = [failure for failure in read_failures(self.failures_path) if failure.video_id in ids]
        self.records = self._read_records()
        return failures if ids <= self.records.keys() | {failure.video_id for failure in failures} else None

    def _write_journal(self) -> None:
        write_atomic(self.journal_path, journal_text(self.records.values()))

    def _read_records(self) -> dict[str, Record]:
        return read_records(self.journal_path) | {record.video_id: record for record in finished_outputs(self.work)}


def read_failures(path: Path) -> list[Failure]:
    """Return what failures.csv lists, nothing if there is no such file."""
    try:
        names, lines = read_csv(path, FAILURE_COLUMNS)
    except FileNotFoundError:
        return []
    places = [names.index(column) for column in FAILURE_COLUMNS]
    return [Failure(*(cells[place] for place in places)) for _, cells in lines]
