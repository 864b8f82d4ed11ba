"""Is this document ours? Every JSON file of a store passes here before anything in it is believed."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import MAX_DOCUMENT_BYTES, read_plain
from fsar.pipeline.store.format.identity import parse_checked_json
from fsar.pipeline.store.format.names import checked_name, refuse_collisions

FORMAT_VERSION = 1
"""Counts up whenever a store written before could be misread."""
MAX_COUNT = 1 << 31
"""Views, slots, rows of a chunk, videos: larger numbers are damage."""
MAX_AXES = 16
MAX_CHUNK_BYTES = 1 << 34
_SHA256 = re.compile(r"[0-9a-f]{64}")
Kind = type | tuple[type, ...]
TAP_DTYPES = ("float16", "float32")
FILE_ENTRY: Mapping[str, Kind] = {"sha256": str, "bytes": int}
STORE: Mapping[str, Kind] = {
    "taps": dict,
    "n_views": int,
    "n_slots": int,
    "chunk_rows": int,
    "recipe": dict,
    "recipe_id": str,
    "n_videos": int,
    "videos_sha256": str,
}
TAP: Mapping[str, Kind] = {"shape": list, "dtype": str}
RECORD: Mapping[str, Kind] = {"files": dict}
CHUNK_RECORD: Mapping[str, Kind] = {"files": dict, "offsets": dict, "rows": list, "failures": list}
INTENT: Mapping[str, Kind] = {"staging": str, "replaces": bool, "steps": list}


def read_document(path: Path, fields: Mapping[str, Kind], *, max_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """Return the content of a JSON file that carries its own checksum and has at least `fields`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is damaged, too large or no plain file, or lacks a field, or one is of another type.
    """
    return check_fields(parse_checked_json(read_plain(path, max_bytes), str(path)), fields, str(path))


def check_fields(value: Any, fields: Mapping[str, Kind], source: str) -> dict[str, Any]:
    """Return `value` if it is an object with all `fields` of the right types, else raise InputError."""
    if not isinstance(value, dict):
        raise _foreign(source, f"must be an object, got {type(value).__name__}")
    for name, kind in fields.items():
        if name not in value:
            raise _foreign(source, f"lacks {name!r}")
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value[name]) not in kinds:
            expected = " or ".join(one.__name__ for one in kinds)
            raise _foreign(source, f"has {name!r} = {_short(value[name])}, expected {expected}")
    return value


def check_store(data: bytes, source: Path) -> dict[str, Any]:
    """Return the content of store.json.

    Raises:
        InputError: it is of another format version, damaged, or not as this version writes it.
    """
    _check_version(data, source)
    value = check_fields(parse_checked_json(data, str(source)), STORE, str(source))
    for name in ("n_views", "n_slots", "chunk_rows", "n_videos"):
        if not 1 <= value[name] <= MAX_COUNT:
            raise _foreign(
                str(source), f"has {name!r} = {_short(value[name])}, expected 1 or more, {MAX_COUNT} at most"
            )
    refuse_collisions(value["taps"], str(source))
    for name, tap in value["taps"].items():
        where = f"{source}, tap {_short(name)},"
        if "/" in checked_name(name):
            raise _foreign(where, "has a name with a slash")
        check_fields(tap, TAP, where)
        if any(type(size) is not int or size < 1 for size in tap["shape"]):
            raise _foreign(where, f"has 'shape' = {_short(tap['shape'])}, expected whole numbers from 1")
        if tap["dtype"] not in TAP_DTYPES:
            raise _foreign(where, f"has 'dtype' = {_short(tap['dtype'])}, expected {' or '.join(TAP_DTYPES)}")
        chunk = math.prod([value["chunk_rows"], value["n_views"], value["n_slots"], *tap["shape"]])
        if len(tap["shape"]) > MAX_AXES or chunk * np.dtype(tap["dtype"]).itemsize > MAX_CHUNK_BYTES:
            raise _foreign(where, f"has 'shape' = {_short(tap['shape'])}, too many axes or numbers for one chunk")
    return value


def check_record(record: dict[str, Any], source: str, n_rows: int) -> dict[str, Any]:
    """Return the record of a chunk with `n_rows` rows if its fields hold what they should, else raise InputError."""
    check_fields(record, CHUNK_RECORD, source)
    rows = record["rows"]
    if [type(row) for row in rows] != [int, int] or not 0 <= rows[0] <= MAX_COUNT or rows[1] - rows[0] != n_rows:
        raise _foreign(source, f"has 'rows' = {_short(rows)}, expected first row and end, {n_rows} rows")
    if any(type(offset) is not int or not 0 <= offset <= MAX_CHUNK_BYTES for offset in record["offsets"].values()):
        raise _foreign(source, f"has 'offsets' = {_short(record['offsets'])}, expected whole numbers from 0")
    if not all(_is_failure(failure, rows) for failure in record["failures"]):
        raise _foreign(source, f"has 'failures' = {_short(record['failures'])}, expected [row, reason, message]")
    return record


def _is_failure(value: Any, rows: list[int]) -> bool:
    shape = [type(item) for item in value] if isinstance(value, list) else []
    return shape == [int, str, str] and rows[0] <= value[0] < rows[1]


def check_entry(entry: Any, source: str) -> dict[str, Any]:
    """Return what a record or manifest says of a file, its sha256 and size, else raise InputError."""
    check_fields(entry, FILE_ENTRY, source)
    if not _SHA256.fullmatch(entry["sha256"]) or entry["bytes"] < 0:
        raise _foreign(source, f"is {_short(entry)}, expected a sha256 and a size")
    return dict(entry)


def _check_version(data: bytes, source: Path) -> None:
    """Refuse another version before anything else is asked of the file: its checksum may work otherwise, too."""
    try:
        version = json.loads(data)["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # damaged: the checksum says so
    if version == FORMAT_VERSION:
        return
    advice = "update fsar" if isinstance(version, int) and version > FORMAT_VERSION else "encode the videos again"
    raise InputError(f"{source} is of store format {version!r}, this fsar reads format {FORMAT_VERSION}: {advice}")


def _foreign(source: str, what: str) -> InputError:
    return InputError(
        f"{source} {what}: another version of fsar wrote it; use that version, or encode the videos again"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
