"""Video files and frame folders on disk, and what a scan of a dataset returns."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fsar.errors import InputError, count_of
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.video.frame_folder import is_flow, is_picture
from fsar.splits.names import VIDEO_SUFFIXES

_ARCHIVES = frozenset((".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"))
_SIDE_FILES = frozenset(("thumbs.db", "desktop.ini"))
_TEXTS = frozenset((".csv", ".json", ".md", ".toml", ".txt"))
"""Files that accompany videos and that nobody takes for one."""


class LeftOut:
    """What lies among the videos and is none, counted by kind, so that nothing is passed over in silence."""

    def __init__(self) -> None:
        self.suffixes: Counter[str] = Counter()
        self.others: Counter[str] = Counter()
        self.example: dict[str, Path] = {}

    def add_file(self, path: Path) -> None:
        """Count a file that is no video."""
        suffix = path.suffix.lower() or "no suffix"
        if path.name.lower() not in _SIDE_FILES and suffix not in _TEXTS:
            self.suffixes[suffix] += 1
            self.example.setdefault(suffix, path)

    def add(self, kind: str, path: Path, n: int = 1) -> None:
        """Count something else, by what it is."""
        self.others[kind] += n
        self.example.setdefault(kind, path)

    def notes(self) -> list[str]:
        """Return sentences for people; none where nothing was left out."""
        notes = [f"left out {kind}: {n} (the first: {self.example[kind]})" for kind, n in self.others.items()]
        archives = {suffix: n for suffix, n in self.suffixes.items() if suffix in _ARCHIVES}
        if archives:
            notes.append(f"left out archives: {_counts(archives)}; unpack them and run index again")
        files = {suffix: n for suffix, n in self.suffixes.items() if suffix not in _ARCHIVES}
        if files:
            advice = "; if one of these is a video, name it in a CSV (--dataset csv)"
            notes.append(f"left out {count_of(sum(files.values()), 'file')} by suffix: {_counts(files)}{advice}")
        return notes


def _counts(numbers: dict[str, int]) -> str:
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    return ", ".join(f"{suffix} ({n})" for suffix, n in ordered[:8]) + more


@dataclass
class Scan:
    """What a dataset's folder holds."""

    rows: list[CatalogRow]
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(video id, class) of videos that the annotations list and the disk lacks."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the report."""


class Medium(NamedTuple):
    """One video on disk: a file, or a folder of frames."""

    stem: str
    """Name without suffix."""
    path: Path
    bytes: int
    """0 for an empty file and for a link that leads nowhere: they are listed, so that they are seen."""


def media_in(folder: Path, left_out: LeftOut) -> Iterator[Medium]:
    """Yield the video files and frame folders in `folder`, sorted by name; folders that hold videos are passed over."""
    for entry in _listed(folder, left_out):
        path = Path(entry.path)
        if _is_folder(entry):
            size = frame_folder_bytes(path)
            if size is not None:
                yield Medium(entry.name, path, size)
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield Medium(path.stem, path, _file_bytes(entry))
        else:
            left_out.add_file(path)


def media_below(folder: Path, left_out: LeftOut, *, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Medium]:
    """Yield the videos in `folder` and in the folders below it, in the order of their paths.

    A link that leads back to a folder above it is left out, as are folders of optical flow.
    """
    here = _identity(folder)
    if here in above:
        left_out.add("folders that are links to one above them", folder)
        return
    for entry in _listed(folder, left_out):
        path = Path(entry.path)
        if not _is_folder(entry):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                yield Medium(path.stem, path, _file_bytes(entry))
            else:
                left_out.add_file(path)
            continue
        size = frame_folder_bytes(path)
        if size is not None and _is_flow_folder(entry.name):
            left_out.add("folders of optical flow", path)
        elif size is not None:
            yield Medium(entry.name, path, size)
        else:
            yield from media_below(path, left_out, above=(*above, here))


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_folder(entry))


def existing_folder(path: Path | None, option: str) -> Path:
    """Return `path` if it is a folder, else raise an error that names the option."""
    if path is None:
        raise InputError(f"{option} DIR is needed for this dataset")
    if not path.is_dir():
        raise FileNotFoundError(f"{option}: no folder {path.absolute()}" + (" (it is a file)" if path.exists() else ""))
    return path.absolute()


def frame_folder_bytes(folder: Path) -> int | None:
    """Return the total size of the pictures in a folder of frames; None if it is none.

    A folder with pictures beside videos, or beside folders that hold videos or frames, is no video: the pictures are
    something else, a preview for instance.
    """
    n_pictures, total, folders = 0, 0, []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_picture(entry.name) and not _is_folder(entry):
                    n_pictures, total = n_pictures + 1, total + _file_bytes(entry)
                elif entry.name.startswith("."):
                    continue
                elif _is_folder(entry):
                    folders.append(Path(entry.path))
                elif os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES:
                    return None
    except OSError:
        return None
    if not n_pictures or any(not _is_flow_folder(inner.name) and _holds_media(inner) for inner in folders):
        return None
    return total


def pictures_bytes(folder: Path) -> int | None:
    """Return the total size of the pictures in a folder, whatever else is there; None if there are none."""
    with os.scandir(folder) as entries:
        sizes = [_file_bytes(entry) for entry in entries if is_picture(entry.name) and not _is_folder(entry)]
    return sum(sizes) if sizes else None


def _is_flow_folder(name: str) -> bool:
    return "flow" in name.lower() and is_flow(name)


def _holds_media(folder: Path) -> bool:
    """Whether there is a picture or a video in the folder itself."""
    try:
        with os.scandir(folder) as entries:
            return any(
                is_picture(entry.name) or os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES for entry in entries
            )
    except OSError:
        return False


def _listed(folder: Path, left_out: LeftOut) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones; a folder that cannot be read is left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        left_out.add(f"folders that cannot be read ({error.strerror})", folder)
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a ring
        return False


def _file_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nowhere, or links in a ring
        return 0


def _identity(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino
