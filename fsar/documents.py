"""Text, JSON, TOML and CSV that people write: whatever is wrong with a file is one line that names it."""

import csv
import io
import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fsar.errors import InputError

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
OTHER_SEPARATORS = ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"))


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte-order mark; line ends stay as they are.

    Raises:
        InputError: it is UTF-16, or no text at all.
        OSError: there is no such file, or it is a folder.
    """
    data = path.read_bytes()
    if data.startswith(UTF_16):
        raise InputError(f"{path} must be UTF-8 text, and this is UTF-16: save it as UTF-8")
    if (place := data.find(b"\0")) >= 0:
        raise InputError(f"{path} must be UTF-8 text: byte {place} is zero")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text: byte {error.start} is not") from None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raises InputError if it is none, and as `read_text` does."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what a JSON text holds; raises InputError, which begins with `where`, if it is none."""
    return _parse(json.loads, text, f"{where} is not JSON")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raises InputError if it is none, and as `read_text` does."""
    return parse_toml(read_text(path), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the tables of a TOML text; raises InputError, which begins with `where`, if it is none."""
    tables: dict[str, Any] = _parse(tomllib.loads, text, f"{where} is not TOML")
    return tables


def _parse(parser: Callable[[Any], Any], text: str | bytes, wrong: str) -> Any:
    try:
        return parser(text)
    except RecursionError:
        raise InputError(f"{wrong}: it is nested too deeply") from None
    except ValueError as error:  # not of this form, not UTF-8, or a number of more digits than Python reads
        raise InputError(f"{wrong}: {error}") from error


def read_csv(path: Path, required: Sequence[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return what `parse_csv` does of a file; raises InputError as it does, and as `read_text` does."""
    return parse_csv(read_text(path), path, required)


def parse_csv(text: str, path: Path, required: Sequence[str]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the names of a CSV's columns, in small letters, and its lines: (number, a cell for each column).

    Cells may begin and end with blanks, which stay unless the header has blanks after commas, too. Empty lines are
    passed over; cells that a line lacks are empty.

    Raises:
        InputError: no CSV; a column of `required` lacks; or a line has more cells than the header (the
            last two while lines are taken).
    """
    first_line = text.partition("\n")[0]
    lines = csv_lines(text, path)
    names = [name.strip().lower() for name in next(lines, (1, []))[1]]
    lacking = [column for column in required if column not in names]
    if lacking:
        found = f", got {first_line.strip()[:200]!r}{other_separator(first_line)}" if first_line.strip() else ""
        raise InputError(f"{path}, line 1: no column {lacking[0]!r}; the header must have {','.join(required)}{found}")
    return names, _of_width(lines, len(names), path)


def other_separator(header: str) -> str:
    """Return what to say of a header whose cells something other than commas separates; empty if they do."""
    found = next((name for separator, name in OTHER_SEPARATORS if separator in header), None)
    return f" (it is separated by {found}: write commas)" if found else ""


def csv_lines(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number, cells) of every line of a CSV text, header and empty lines included; errors name `path`."""
    blanks_after_commas = ", " in text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=blanks_after_commas, strict=True)
    n_read = 0
    try:
        for cells in rows:
            n_read = rows.line_num
            yield n_read, cells
    except csv.Error as error:
        why = "a quote is never closed" if "unexpected end" in str(error) else error
        raise InputError(f"{path}, line {n_read + 1}: not CSV: {why}") from None


def _of_width(lines: Iterator[tuple[int, list[str]]], width: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, cells in lines:
        if len(cells) > width:
            raise InputError(f"{path}, line {number}: more cells than the header has")
        if cells:
            if len(cells) < width:
                cells += [""] * (width - len(cells))
            yield number, cells
