"""A list of videos as CSV, as people write it: where each is, and what it shows."""

from dataclasses import replace
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import CatalogRow, check_lines_unique, read_rows
from fsar.pipeline.catalog.media import Scan, pictures_bytes


def scan_csv(file: Path, videos: Path | None) -> Scan:
    """Return the listed videos that are on disk; relative paths count from `videos`, else from the CSV's folder.

    Raises InputError if there is none, with the first place that was looked at.
    """
    base = videos or file.absolute().parent
    rows = read_rows(file, base=base, required=("path", "class"))
    if not rows:
        raise InputError(f"{file} lists no videos")
    check_lines_unique(file, rows)
    scan = Scan([])
    for _, row in rows:
        found = _on_disk(row, base)
        if found is None:
            scan.missing.append((row.video_id, row.class_name))
        else:
            scan.rows.append(found)
    if not scan.rows:
        first = str(rows[0][1].path)
        tried = f"{first}, also with slashes for backslashes" if "\\" in first else first
        hint = "" if videos else "; relative paths count from the folder of the CSV, or from --videos"
        raise InputError(f"{file}: none of the {len(rows)} listed videos exists (the first: {tried}){hint}")
    return scan


def _on_disk(row: CatalogRow, base: Path) -> CatalogRow | None:
    """Return the row with the size of its video; a path as Windows writes it is tried with slashes, too."""
    size = _size(row.path)
    if size is not None:
        return replace(row, bytes=size)
    text = str(row.path)
    if "\\" not in text:
        return None
    path = base / text.removeprefix(f"{base}/").replace("\\", "/")
    size = _size(path)
    name = path.stem if row.video_id == row.path.stem else row.video_id
    return None if size is None else replace(row, path=path, video_id=name, bytes=size)


def _size(path: Path) -> int | None:
    if path.is_dir():
        return pictures_bytes(path)
    return path.stat().st_size if path.is_file() else None
