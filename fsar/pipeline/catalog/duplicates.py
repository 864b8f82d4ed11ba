"""Videos of a catalog that hold the same bytes, found by reading as little as possible."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fsar.errors import count_of
from fsar.files import sha256_file
from fsar.pipeline.catalog.catalog import CatalogRow

ENDS_BYTES = 4096
"""Files of one size are told apart by so many bytes at each end, before any is read whole."""


def find_duplicates(rows: Sequence[CatalogRow]) -> list[list[str]]:
    """Return groups of ids of videos with the same content, in the order of `rows`.

    Only videos whose size another one has are opened, and only those whose ends agree are read whole. A video that
    cannot be read is in no group: the stage that decodes it lists it as a failure.
    """
    groups = _regroup([[row for row in rows if row.bytes > 0]], lambda row: str(row.bytes))
    for key in (_ends, _content):
        groups = _regroup(groups, key)
    place = {row.video_id: k for k, row in enumerate(rows)}
    return sorted(([row.video_id for row in group] for group in groups), key=lambda ids: place[ids[0]])


def describe_duplicates(groups: Sequence[Sequence[str]], *, most: int = 3) -> str:
    """Return one line for people about groups of video ids with the same content; empty if there are none."""
    if not groups:
        return ""
    copies = count_of(sum(len(group) - 1 for group in groups), "video")
    shown = "; ".join(" = ".join(group[:4]) + (" ..." if len(group) > 4 else "") for group in groups[:most])
    more = f"; and {count_of(len(groups) - most, 'more group')}" if len(groups) > most else ""
    return f"{copies} with the same content as another (episodes draw only the first in a part): {shown}{more}"


def _regroup(groups: Iterable[Sequence[CatalogRow]], key: Callable[[CatalogRow], str | None]) -> list[list[CatalogRow]]:
    """Cut each group into those with an equal key; what is alone, or has no key, drops out."""
    found: list[list[CatalogRow]] = []
    for group in groups:
        members: dict[str | None, list[CatalogRow]] = {}
        for row in group:
            members.setdefault(key(row), []).append(row)
        found += [own for name, own in members.items() if name is not None and len(own) > 1]
    return found


def _ends(row: CatalogRow) -> str | None:
    """Return a hash of the first and the last bytes of a file, or of the sizes in a folder of frames."""
    try:
        if row.path.is_dir():
            return repr([file.stat().st_size for file in _frames(row.path)])
        with open(row.path, "rb") as file:
            ends = file.read(ENDS_BYTES)
            file.seek(max(row.bytes - ENDS_BYTES, 0))
            return hashlib.sha256(ends + file.read(ENDS_BYTES)).hexdigest()
    except OSError:
        return None


def _content(row: CatalogRow) -> str | None:
    try:
        if row.path.is_dir():
            return " ".join(sha256_file(file) for file in _frames(row.path))
        return sha256_file(row.path)
    except OSError:
        return None


def _frames(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
