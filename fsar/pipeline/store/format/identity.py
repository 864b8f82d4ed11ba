"""What two stores must share to be one: canonical JSON, its sha256, and JSON files that carry their own checksum."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from fsar.errors import InputError


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, non-ASCII as is; NaN and infinity are errors."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def recipe_id(recipe: Mapping[str, Any]) -> str:
    """Return the hex sha256 of the canonical JSON of `recipe`: equal ids mean equal numbers."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def differing_fields(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return one line for each field that differs, nested fields by their dotted name: "sampler: 'trx' != 'dense'"."""
    flat_a, flat_b = _flatten(a), _flatten(b)
    names = [*flat_a, *(name for name in flat_b if name not in flat_a)]
    return [
        f"{name}: {_shown(flat_a, name)} != {_shown(flat_b, name)}"
        for name in names
        if name not in flat_a or name not in flat_b or flat_a[name] != flat_b[name]
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            flat |= _flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(item) if isinstance(item, tuple) else item
    return flat


def _shown(flat: Mapping[str, Any], name: str) -> str:
    return repr(flat[name]) if name in flat else "(absent)"


def checked_json(value: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON file that holds `value` and the sha256 of its canonical form; one key per line."""
    lines = [f"{json.dumps(key)}:{canonical_json(item)}" for key, item in sorted(value.items())]
    lines.append(f'"sha256":"{recipe_id(value)}"')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def parse_checked_json(data: bytes, source: str) -> dict[str, Any]:
    """Return the value of a file that `checked_json` wrote.

    Raises:
        InputError: any byte differs from what was written; the message names `source`.
    """
    try:
        value = json.loads(data)
        del value["sha256"]
        intact = checked_json(value) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise InputError(f"{source} is damaged: its content does not match its own checksum")
    return dict(value)
