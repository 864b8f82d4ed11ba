"""catalog.csv: which videos there are. One catalog serves every split of its dataset."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fsar.documents import read_csv
from fsar.errors import InputError
from fsar.files import write_atomic
from fsar.splits import PARTS, Split, match_videos
from fsar.splits.names import natural_key, part_of_word

COLUMNS = ("video_id", "path", "class", "bytes", "part")
NO_PART = ""


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One video: a file, or a folder that holds its frames as images."""

    video_id: str
    path: Path
    class_name: str
    bytes: int
    """Size on disk; 0 for an empty file, which stays in the catalog so that later stages list it as a failure."""
    part: str = NO_PART
    """train, val, test, or "" where no split decides it."""


@dataclass(frozen=True)
class Catalog:
    """The videos of one dataset, no id twice, every name such that CSV files can hold it."""

    rows: tuple[CatalogRow, ...]
    dataset: str

    def __post_init__(self) -> None:
        for row in self.rows:
            _check_names(row)
        check_unique((row.video_id, row.path) for row in self.rows)


def _check_names(row: CatalogRow) -> None:
    names = f"{row.video_id}{row.path}{row.class_name}"
    try:
        names.encode()
    except UnicodeEncodeError:
        raise InputError(f"{str(row.path)!r}: the name is not UTF-8, no catalog can hold it: rename it") from None
    if "\r" in names:  # the csv module writes it without quotes and reads it as the end of a line
        raise InputError(f"{str(row.path)!r}: the name holds a carriage return, no catalog can hold it: rename it")


def check_unique(entries: Iterable[tuple[str, object]]) -> None:
    """Raise InputError for a video id that occurs twice. `entries` are (video id, place to name in the message)."""
    seen: dict[str, object] = {}
    for video_id, place in entries:
        if video_id in seen:
            raise InputError(f"video id {video_id!r} is listed twice: {seen[video_id]} and {place}")
        seen[video_id] = place


def check_lines_unique(path: Path, rows: Sequence[tuple[int, CatalogRow]]) -> None:
    """Raise InputError for a video id on two lines of a file; `rows` are as `read_rows` returns them."""
    if len({row.video_id for _, row in rows}) < len(rows):
        check_unique((row.video_id, f"{path}, line {line}") for line, row in rows)


def read_catalog(path: str | Path) -> Catalog:
    """Return the catalog of a CSV file with the columns video_id, path, class, bytes, part (the last two may lack).

    Relative paths are taken from the catalog's own folder. Raises InputError with the line at fault.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no catalog {path}: `fsar-prep index` writes one")
    rows = read_rows(path, base=path.parent, required=COLUMNS[:3])
    if not rows:
        raise InputError(f"{path} lists no videos")
    check_lines_unique(path, rows)
    return Catalog(tuple(row for _, row in rows), dataset=path.stem)


def write_catalog(catalog: Catalog, path: str | Path) -> None:
    """Write a catalog whole or not at all. Videos below the catalog's folder get relative paths, so both can move."""
    path = Path(path)
    base = path.parent.absolute()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in catalog.rows:
        writer.writerow((row.video_id, _relative(row.path, base), row.class_name, row.bytes, row.part))
    write_atomic(path, text.getvalue())


def select_rows(catalog: Catalog, split: Split | None = None) -> list[CatalogRow]:
    """Return the videos in the order in which stores keep them: part (train, val, test, none), class, video.

    With a split: its videos alone, with its spelling of the classes, in its order of classes and videos. Without:
    all videos with the catalog's own parts, classes by name, videos by id (`clip2` before `clip10`).

    Raises:
        InputError: the split shares no video with the catalog.
    """
    if split is None:
        parts = (*PARTS, NO_PART)
        return sorted(catalog.rows, key=lambda row: (parts.index(row.part), row.class_name, natural_key(row.video_id)))
    places = match_videos(split, [(row.video_id, row.class_name) for row in catalog.rows]).places
    class_ids = {(part, name): k for k, (part, name, _) in enumerate(split.classes())}
    chosen = [
        (
            class_ids[place.part, place.class_name],
            place.order,
            replace(row, part=place.part, class_name=place.class_name),
        )
        for row, place in zip(catalog.rows, places, strict=True)
        if place is not None
    ]
    if not chosen:
        raise InputError(f"no video of catalog {catalog.dataset!r} is in split {split.name!r}: is it the same dataset?")
    return [row for _, _, row in sorted(chosen, key=lambda item: item[:2])]


def read_rows(path: Path, *, base: Path, required: Sequence[str]) -> list[tuple[int, CatalogRow]]:
    """Return (line number, row) for each line of a CSV of videos. An id that is not given is the file's stem.

    Names may begin and end with blanks: cells are taken as they are, unless the header has blanks after commas, too.
    """
    names, lines = read_csv(path, required)
    read = _Lines(names, base.absolute())
    return [(number, read.row(cells, path, number)) for number, cells in lines]


class _Lines:
    """From the cells of a line to its row. Equal names of classes become one string: a million rows have few."""

    def __init__(self, names: Sequence[str], base: Path) -> None:
        place_of = {name: place for place, name in enumerate(names)}
        self._places = [place_of.get(name, len(names)) for name in ("video_id", "path", "class", "bytes", "part")]
        self._base = base
        self._class_names: dict[str, str] = {}

    def row(self, cells: list[str], file: Path, line: int) -> CatalogRow:
        """Return the row; InputError names file and line."""
        cells.append("")  # for columns that are not there
        video_id, path, name, size, said = [cells[place] for place in self._places]
        part = part_of_word(said) if said.strip() else NO_PART
        if not path.strip() or not name.strip():
            raise InputError(f"{file}, line {line}: {'class' if path.strip() else 'path'} is empty")
        if part is None:
            raise InputError(f"{file}, line {line}: part must be train, val, test or empty, got {said!r}")
        if not (size.strip() or "0").isdecimal():
            raise InputError(f"{file}, line {line}: bytes must be a whole number, got {size!r}")
        name = self._class_names.setdefault(name, name)
        return CatalogRow(video_id or Path(path).stem, self._base / path, name, int(size.strip() or 0), part)


def _relative(path: Path, base: Path) -> Path:
    absolute = path.absolute()
    return absolute.relative_to(base) if absolute.is_relative_to(base) else absolute
