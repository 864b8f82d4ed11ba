"""A user's own split: a CSV with the columns part, class, video_id."""

from pathlib import Path

from fsar.documents import read_csv
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
    header, lines = read_csv(path, COLUMNS[:2])
    parts: dict[str, dict[str, list[str] | None]] = {part: {} for part in PARTS}
    for number, cells in lines:
        if any(cell.strip() for cell in cells):
            row = dict(zip(header, map(str.strip, cells), strict=True))
            _add_row(parts, row, f"{path}, line {number}")
    return Split(name=name or path.stem, parts=parts)


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
