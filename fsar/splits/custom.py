"""A user's own split: a CSV with the columns part, class, video_id."""

import csv
import io
from pathlib import Path
from typing import Any

from fsar.errors import InputError, unknown_name
from fsar.splits.names import PARTS, part_of_word
from fsar.splits.split import Split

COLUMNS = ("part", "class", "video_id")
EVERY_VIDEO = ("", "*")


def read_split_csv(path: str | Path, *, name: str | None = None) -> Split:
    """Return the split of a CSV file with the columns part, class, video_id.

    An empty video_id or `*` stands for every video of the class. Raises InputError with the line at fault.
    """
    path = Path(path)
    rows = csv.reader(io.StringIO(read_text(path)))
    try:
        return Split(name=name or path.stem, parts=_read_parts(rows, path))
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not CSV: {error}") from None


def _read_parts(rows: Any, path: Path) -> dict[str, dict[str, list[str] | None]]:
    header = [cell.strip().lower() for cell in next(rows, [])]
    lacking = [column for column in COLUMNS[:2] if column not in header]
    if lacking:
        found = ",".join(header) or "nothing"
        hint = other_separator(found)
        raise InputError(f"{path}, line 1: the header must be part,class,video_id, got {found}{hint}")
    parts: dict[str, dict[str, list[str] | None]] = {part: {} for part in PARTS}
    for cells in rows:
        if any(cell.strip() for cell in cells):
            where = f"{path}, line {rows.line_num}"
            if len(cells) > len(header):
                raise InputError(f"{where}: {len(cells)} columns, the header has {len(header)}")
            _add_row(parts, dict(zip(header, (cell.strip() for cell in cells), strict=False)), where)
    return parts


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte-order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text: byte {error.start} is not") from None


def other_separator(header: str) -> str:
    """Return what to say of a header whose cells something other than commas separates; empty if they do."""
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in header:
            return f" (it is separated by {name}: write commas)"
    return ""


def _add_row(parts: dict[str, dict[str, list[str] | None]], row: dict[str, str], where: str) -> None:
    said, name, video_id = row.get("part", ""), row.get("class", ""), row.get("video_id", "")
    part = part_of_word(said)
    if part is None:
        raise InputError(f"{where}: {unknown_name('part', said, PARTS)}")
    if not name:
        raise InputError(f"{where}: the class is empty")
    classes = parts[part]
    whole = video_id in EVERY_VIDEO
    if name in classes and (whole or classes[name] is None):
        raise InputError(f"{where}: class {name!r} is given whole and by its videos, or whole twice")
    if whole:
        classes[name] = None
    else:
        ids = classes.setdefault(name, [])
        assert ids is not None
        ids.append(video_id)
