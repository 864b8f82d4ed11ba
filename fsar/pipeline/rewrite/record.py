"""What is known of one finished output: made from which source, where it lies, how large it is."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fsar.errors import InputError
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

    def to_line(self) -> str:
        """Return the line of a journal."""
        return json.dumps(asdict(self), sort_keys=True) + "\n"


def read_records(path: Path) -> dict[str, Record]:
    """Return the records of a journal by video id, none if there is no such file; torn lines are dropped."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    records = {}
    for line in lines:
        try:
            record = Record.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # torn by a kill: the output is made again
        records[record.video_id] = record
    return records


def journal_text(records: Iterable[Record]) -> str:
    """Return the lines of a journal, sorted by video id."""
    return "".join(record.to_line() for record in sorted(records, key=lambda record: record.video_id))


def safe_name(video_id: str) -> PurePosixPath:
    """Return a video id as a relative path; `InputError` if it would leave the folder it is put in."""
    name = PurePosixPath(video_id)
    if not name.parts or name.is_absolute() or ".." in name.parts or "\0" in video_id:
        raise InputError(f"video id {video_id!r} cannot be used as a file name")
    return name
