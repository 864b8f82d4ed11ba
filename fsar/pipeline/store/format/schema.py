"""Is this document ours? Every JSON file of a store passes here before anything in it is believed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.store.format.identity import parse_checked_json

FORMAT_VERSION = 1
"""Counts up whenever a store written before could be misread."""
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


def read_document(path: Path, fields: Mapping[str, Kind]) -> dict[str, Any]:
    """Return the content of a JSON file that carries its own checksum and has at least `fields`.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is damaged, or lacks a field, or one is of another type.
    """
    return check_fields(parse_checked_json(path.read_bytes(), str(path)), fields, str(path))


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
        if value[name] < 1:
            raise _foreign(str(source), f"has {name!r} = {value[name]}, expected 1 or more")
    for name, tap in value["taps"].items():
        where = f"{source}, tap {name!r},"
        check_fields(tap, TAP, where)
        if any(type(size) is not int or size < 1 for size in tap["shape"]):
            raise _foreign(where, f"has 'shape' = {_short(tap['shape'])}, expected whole numbers from 1")
        if tap["dtype"] not in TAP_DTYPES:
            raise _foreign(where, f"has 'dtype' = {_short(tap['dtype'])}, expected {' or '.join(TAP_DTYPES)}")
    return value


def check_record(record: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the record of a chunk if its fields hold what they should, else raise InputError."""
    check_fields(record, CHUNK_RECORD, source)
    if len(record["rows"]) != 2 or any(type(row) is not int for row in record["rows"]):
        raise _foreign(source, f"has 'rows' = {_short(record['rows'])}, expected first row and end")
    if any(type(offset) is not int for offset in record["offsets"].values()):
        raise _foreign(source, f"has 'offsets' = {_short(record['offsets'])}, expected whole numbers")
    if any(not isinstance(failure, list) or len(failure) != 3 for failure in record["failures"]):
        raise _foreign(source, f"has 'failures' = {_short(record['failures'])}, expected [row, reason, message]")
    return record


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
