"""Names inside a store's home folder, and the two tables of rows in it."""

import csv
import difflib
import hashlib
import io
import itertools
import os
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsar.errors import InputError, MissingError
from fsar.files import open_plain, read_plain, write_atomic
from fsar.pipeline.store.disk import list_names
from fsar.pipeline.store.format.identity import canonical_json, checked_json, recipe_id
from fsar.pipeline.store.format.layout import Layout, VideoRow
from fsar.pipeline.store.format.names import inside_folder
from fsar.pipeline.store.format.registry import StoreFormat, format_of, list_formats
from fsar.pipeline.store.format.schema import check_store, read_document

STORE_FILE, VIDEOS_FILE, FAILURES_FILE, MANIFEST_FILE = "store.json", "videos.csv", "failures.csv", "manifest.json"
JOURNAL, CLAIMS, STAGING, RUNS = "journal", "claims", "staging", "runs"
METADATA_KEY = "metadata"
HASHED_ROWS = 10_000
"""Rows of videos.csv that are in memory as JSON at a time."""
MAX_TABLE_BYTES = 512 << 20
CHANGE_SECONDS = 2.0  # replacing two small files takes milliseconds; longer means that it was interrupted
KEY_PATTERN = rf"({METADATA_KEY}|[0-9]{{6,9}}\.[0-9]{{6,9}})"
_OWN_FILE = re.compile(
    rf"{re.escape(STORE_FILE)}|{re.escape(VIDEOS_FILE)}|{re.escape(FAILURES_FILE)}|{re.escape(MANIFEST_FILE)}"
    rf"|{JOURNAL}/{KEY_PATTERN}\.json"
)
VIDEO_COLUMNS = ("video_id", "class", "part", "path")
RESULT_COLUMNS = ("status", "n_frames", "sha256")
FAILURE_COLUMNS = ("video_id", "path", "stage", "reason", "message")


@dataclass(frozen=True)
class StoreFiles:
    """Where the files of one store lie."""

    path: Path
    format: StoreFormat

    @classmethod
    def at(cls, path: str | Path) -> "StoreFiles":
        """Return the files of the store at `path`, whether or not they exist. Raises InputError for no store's name."""
        files = cls(Path(path), format_of(Path(path)))
        if files.home.is_symlink() and not files.path.is_symlink():  # whoever names a link knows where it leads
            raise InputError(f"{files.home} is a link: a store must hold its own folders")
        return files

    @property
    def home(self) -> Path:
        """The folder of everything but, for some formats, one master file."""
        return self.format.home(self.path)

    def locate(self, name: str) -> Path:
        """Return the path of the file called `name` in journals and manifests; InputError if it leads elsewhere."""
        return self.format.locate(self.path, name)

    def folder(self, name: str) -> Path:
        """Return a folder of the store's own book-keeping; raises InputError if it is a link to elsewhere."""
        return inside_folder(self.home, name)

    def owns(self, name: str) -> bool:
        """Return whether a store of this format has files of that name, apart from the traces of work in hand."""
        return _OWN_FILE.fullmatch(name) is not None or self.format.owns(name)

    def exists(self) -> bool:
        """Return whether the creation of a store here was completed."""
        return (self.folder(JOURNAL) / f"{METADATA_KEY}.json").exists()

    def lacks_master(self) -> bool:
        """Return whether a file that the format keeps outside the home folder is not there."""
        return not all(self.locate(name).exists() for name in self.format.extra_names())

    def names(self) -> list[str]:
        """Return the names of all files on disk, book-keeping included."""
        outside = [name for name in self.format.extra_names() if self.locate(name).exists()]
        return sorted(_names_below(self.home)) + outside

    def refuse_links(self) -> None:
        """Raise InputError unless all files of the store are plain ones: other programs would follow links."""
        for name in _names_below(self.home):
            if not stat.S_ISREG((self.home / name).lstat().st_mode):
                raise InputError(f"{self.home / name} is not a plain file: run `fsar-store verify {self.path}`")

    def bytes_on_disk(self) -> int:
        """Return the size of all files; links count for themselves."""
        outside = sum(self.locate(name).stat().st_size for name in self.format.extra_names())
        return sum((self.home / name).lstat().st_size for name in _names_below(self.home)) + outside


def _names_below(home: Path) -> Iterator[str]:
    """Yield the names of everything but folders below `home`, none if it does not exist; links are never followed."""
    waiting = [""] if home.exists() else []
    while waiting:
        prefix = waiting.pop()
        with os.scandir(home / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name


def store_json(layout: Layout, videos: Sequence[VideoRow]) -> bytes:
    """Return the bytes of store.json."""
    identity = {"recipe_id": recipe_id(layout.recipe), "n_videos": len(videos), "videos_sha256": videos_sha256(videos)}
    return checked_json(layout.to_dict() | identity)


def videos_sha256(videos: Sequence[VideoRow]) -> str:
    """Return the hash of the rows' identity: of the canonical JSON of the list of their cells, some rows at a time."""
    digest, separator = hashlib.sha256(b"["), ""
    for start in range(0, len(videos), HASHED_ROWS):
        rows = canonical_json([video.cells() for video in videos[start : start + HASHED_ROWS]])
        digest.update(f"{separator}{rows[1:-1]}".encode())
        separator = ","
    digest.update(b"]")
    return digest.hexdigest()


def read_store(files: StoreFiles) -> tuple[Layout, list[VideoRow]]:
    """Return layout and rows, checked against each other.

    Raises:
        FileNotFoundError: there is no store.
        InputError: a file is damaged or of another version.
    """
    if not files.exists():
        raise MissingError(_why_missing(files))
    deadline = time.monotonic() + CHANGE_SECONDS
    while True:
        changing = _metadata_changes(files)
        data, videos = _read_tables(files)
        if len(videos) == data["n_videos"] and data["videos_sha256"] == videos_sha256(videos):
            return Layout.from_dict(data), videos
        if not (changing or _metadata_changes(files)):
            raise InputError(
                f"{files.locate(VIDEOS_FILE)} is damaged: it does not list the videos that the store was made for"
            )
        if time.monotonic() > deadline:
            raise InputError(
                f"{files.path} is just being extended, or that was interrupted: repeat the command that did it"
            )
        time.sleep(0.02)  # somebody extends it: the two files are replaced one after the other


def _metadata_changes(files: StoreFiles) -> bool:
    return (files.folder(JOURNAL) / f"{METADATA_KEY}.intent").exists()


def _read_tables(files: StoreFiles) -> tuple[dict[str, Any], list[VideoRow]]:
    """Return what store.json says and the rows of videos.csv, one more than announced if there are more."""
    try:
        data = check_store(read_plain(files.locate(STORE_FILE)), files.locate(STORE_FILE))
        return data, read_videos(files.locate(VIDEOS_FILE), data["n_videos"])
    except FileNotFoundError as error:
        name = Path(error.filename).name
        advice = f"restore it from a copy, or see what else is wrong with `fsar-store verify {files.path}`"
        raise InputError(f"{files.path} is damaged: {name} is missing; {advice}") from error


def _why_missing(files: StoreFiles) -> str:
    path = files.path
    if path.exists() and files.home != path and not files.home.exists():
        return f"{path} lacks its folder {files.home.name}: the two belong together (or fsar did not write it)"
    if path.exists() or files.home.exists():
        return (
            f"{path} is not a store that fsar wrote, or its creation was cut short: "
            "run the command that made it again, or choose another path"
        )
    near = difflib.get_close_matches(path.name, _stores_beside(path), n=3, cutoff=0.5)
    return f"no store at {path}" + (f": did you mean {' or '.join(near)}?" if near else "")


def _stores_beside(path: Path) -> list[str]:
    return [name for name in list_names(path.parent) if name.endswith(tuple(list_formats()))]


def videos_csv(videos: Sequence[VideoRow], results: Sequence[Sequence[Any]] | None = None) -> bytes:
    """Return videos.csv, with columns of results (status, n_frames, sha256) once there are any."""
    columns = VIDEO_COLUMNS + (RESULT_COLUMNS if results is not None else ())
    rows = [[*video.cells(), *(results[row] if results is not None else ())] for row, video in enumerate(videos)]
    return csv_bytes(columns, rows)


def read_videos(path: Path, n_videos: int) -> list[VideoRow]:
    """Return the first `n_videos` rows of videos.csv, and one more if there are more."""
    try:
        with io.TextIOWrapper(open_plain(path), encoding="utf-8", newline="") as file:
            if os.fstat(file.fileno()).st_size > MAX_TABLE_BYTES:
                raise InputError(f"{path} is damaged: it has more than {MAX_TABLE_BYTES} bytes")
            lines = csv.reader(file)
            header = next(lines, [])
            if lacking := [column for column in VIDEO_COLUMNS if column not in header]:
                raise ValueError(f"no column {lacking[0]!r}")
            places = [header.index(column) for column in VIDEO_COLUMNS]
            rows = itertools.islice(filter(None, lines), n_videos + 1)  # blank lines are none
            return _video_rows(rows, places)
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path} is damaged: {error}") from error


def _video_rows(lines: Iterable[Sequence[str]], places: Sequence[int]) -> list[VideoRow]:
    """Return the rows of some lines; `places` are those of their cells."""
    videos, same = [], {"": ""}
    of_id, of_class, of_part, of_path = places
    for line in lines:
        if len(line) <= max(places):
            raise ValueError(f"a line with {len(line)} cells")
        name, part = line[of_class], line[of_part]
        name, part = same.setdefault(name, name), same.setdefault(part, part)  # a million rows have a hundred classes
        videos.append(VideoRow(line[of_id], name, part, line[of_path]))
    return videos


def csv_bytes(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Return a CSV file as bytes, the same on every system."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def record_run(files: StoreFiles, run: dict[str, Any]) -> None:
    """Keep what does not decide the numbers (device, batch size, machine), once per distinct content."""
    data = checked_json({"host": socket.gethostname(), **run})
    target = files.folder(RUNS) / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
    if not target.exists():
        write_atomic(target, data)


def read_runs(files: StoreFiles) -> list[dict[str, Any]]:
    """Return what `record_run` kept."""
    folder = files.folder(RUNS)
    names = [name for name in list_names(folder) if not name.startswith(".") and name.endswith(".json")]
    return [read_document(folder / name, {}) for name in names]
