"""An output folder that knows what it holds: made with which settings, from which sources, finished or not."""

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK, remove_leftovers, write_atomic
from fsar.pipeline.catalog.catalog import Catalog
from fsar.pipeline.video.source import source_bytes, source_sha256


@dataclass(frozen=True)
class Source:
    """A source file as it was when it was used."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Return the present state of a file or of a folder of frames."""
        return cls(str(path), source_bytes(path), path.stat().st_mtime_ns, source_sha256(path))

    def is_unchanged(self, path: Path) -> bool:
        """Tell whether `path` is still the same source; it is read only if it was touched."""
        if source_bytes(path) != self.bytes:
            return False
        return path.stat().st_mtime_ns == self.mtime_ns or source_sha256(path) == self.sha256


@dataclass(frozen=True)
class Record:
    """One finished output."""

    video_id: str
    source: Source
    output: str
    """Relative to the folder, with forward slashes."""
    output_bytes: int
    n_frames: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Record":
        """Return the record of one journal line."""
        return cls(**{**data, "source": Source(**data["source"])})


class OutputFolder:
    """Finished outputs and a journal with one JSON line for each.

    The journal is appended to while a run goes on (a torn last line is dropped) and rewritten sorted at its end, so
    that an interrupted and resumed run ends with the same bytes as one that was never interrupted.
    """

    def __init__(self, folder: Path, stage: str, settings: Mapping[str, Any]) -> None:
        self.folder, self.stage = folder, stage
        self._settings_file, self._journal = folder / f"{stage}.json", folder / f"{stage}.jsonl"
        self._settings = json.loads(json.dumps(dict(settings)))
        self.records = self._read_journal()

    def check(self) -> None:
        """Raise `InputError` if the folder holds something that is not ours or was made with other settings."""
        if self._settings_file.is_file():
            found = json.loads(self._settings_file.read_text())
            differing = [
                f"{name}: {found.get(name)!r} there, {self._settings.get(name)!r} now"
                for name in sorted(found.keys() | self._settings.keys())
                if found.get(name) != self._settings.get(name)
            ]
            if differing:
                raise InputError(
                    f"{self.folder} was written with other settings ({'; '.join(differing)}): choose another folder"
                )
        elif self.folder.is_dir() and any(TEMPORARY_MARK not in path.name for path in self.folder.iterdir()):
            raise InputError(f"{self.folder} is not empty and was not written by `{self.stage}`: choose another folder")

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the folder, after `check`, and remove what a killed run left unfinished.

        Raises InputError as `check` does, and while another run holds the folder.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(self.folder):
            self.check()  # again: a run that began at the same moment may have other settings
            remove_leftovers(self.folder)
            if not self._settings_file.is_file():
                write_atomic(self._settings_file, json.dumps(self._settings, indent=1, sort_keys=True) + "\n")
            yield

    def is_done(self, video_id: str, source: Path) -> bool:
        """Tell whether a finished output of this very source is there; nothing is decoded."""
        record = self.records.get(video_id)
        if record is None or not record.source.is_unchanged(source):
            return False
        output = self.folder / record.output
        return source_bytes(output) == record.output_bytes

    def add(self, record: Record) -> None:
        """Append a finished output to the journal."""
        self.records[record.video_id] = record
        with open(self._journal, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def catalog(self, catalog: Catalog, *, without: Collection[str] = ()) -> Catalog:
        """Return a catalog with every path replaced by its finished output; videos that have none are left out."""
        rows = []
        for row in catalog.rows:
            record = self.records.get(row.video_id)
            if record is not None and row.video_id not in without:
                rows.append(replace(row, path=self.folder / record.output, bytes=record.output_bytes))
        return Catalog(tuple(rows), catalog.dataset)

    def finish(self) -> None:
        """Rewrite the journal sorted and without lines that were superseded."""
        write_atomic(self._journal, "".join(_line(self.records[key]) for key in sorted(self.records)))

    def _read_journal(self) -> dict[str, Record]:
        if not self._journal.is_file():
            return {}
        records = {}
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            try:
                record = Record.from_dict(json.loads(line))
            except (json.JSONDecodeError, TypeError, KeyError):
                continue  # torn by a kill: the output is made again
            records[record.video_id] = record
        return records


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold an existing folder; the lock ends with this process, however that ends, and leaves no file behind.

    Raises InputError while another run holds the folder. Windows and some network disks cannot lock: nothing is held.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(descriptor):
            raise InputError(f"another run is writing to {folder}: wait until it ends, or choose another folder")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Return False where another process has the lock."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk that cannot lock
        pass
    return True


def safe_name(video_id: str) -> PurePosixPath:
    """Return a video id as a relative path; `InputError` if it would leave the folder it is put in."""
    name = PurePosixPath(video_id)
    if not name.parts or name.is_absolute() or ".." in name.parts or "\0" in video_id:
        raise InputError(f"video id {video_id!r} cannot be used as a file name")
    return name


def _line(record: Record) -> str:
    return json.dumps(asdict(record), sort_keys=True) + "\n"
