"""Video files and frame folders on disk, and what a scan of a dataset returns."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import CatalogRow

VIDEO_SUFFIXES = frozenset((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"))
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".webp"))


@dataclass
class Scan:
    """What a dataset's folder holds."""

    rows: list[CatalogRow]
    missing: list[tuple[str, str]] = field(default_factory=list)
    """(video id, class) of videos that the annotations list and the disk lacks."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the report."""


def media_in(folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Yield (name without suffix, path, bytes) of the video files and frame folders in `folder`, sorted by name."""
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            size = frames_bytes(path)
            if size is not None:
                yield entry.name, path, size
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            yield path.stem, path, _file_bytes(entry)


def existing_folder(path: Path | None, option: str) -> Path:
    """Return `path` if it is a folder, else raise an error that names the option."""
    if path is None:
        raise InputError(f"{option} DIR is needed for this dataset")
    if not path.is_dir():
        raise FileNotFoundError(f"{option}: no folder {path.absolute()}" + (" (it is a file)" if path.exists() else ""))
    return path.absolute()


def _file_bytes(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a link to nowhere: listed like an empty file, so that it is seen
        return 0


def frames_bytes(folder: Path) -> int | None:
    """Return the total size of the pictures in `folder`; None if it holds none."""
    with os.scandir(folder) as entries:
        sizes = [
            entry.stat().st_size
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file()
        ]
    return sum(sizes) if sizes else None
