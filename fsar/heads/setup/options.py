"""Options of heads from the command line: `key=value`, typed by the annotations of the constructor."""

import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from fsar.errors import InputError, unknown_name
from fsar.heads.head import head_type

_MISSING = object()


def parse_options(head: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the typed options of a head, e.g. ["cardinalities=2,3", "dropout=0.1"] -> {"cardinalities": (2, 3), ...}.

    Raises:
        InputError: no "=", an option that the head does not take (with the nearest names), or a value of another type.
    """
    kind, hints = head_type(head), option_types(head)
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"an option must be key=value, got {text!r}")
        key = kind.old_options.get(key) or key
        if key not in hints:
            raise unknown_name(f"option of head {head!r}", key, hints)
        parsed = _parse(value, hints[key])
        if parsed is _MISSING:
            raise InputError(f"option {key} of head {head!r} must be {_describe(hints[key])}, got {value!r}")
        options[key] = parsed
    return options


def option_types(head: str) -> dict[str, Any]:
    """Return option name -> type annotation of a head's constructor."""
    kind = head_type(head)
    hints = typing.get_type_hints(kind.__init__)
    names = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return {name: hints.get(name, str) for name in names}


def _parse(text: str, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        found = (_parse(text, argument) for argument in arguments)
        return next((value for value in found if value is not _MISSING), _MISSING)
    if origin is Literal:
        return next((choice for choice in arguments if str(choice) == text), _MISSING)
    if origin in (tuple, list, Sequence) or getattr(origin, "__name__", "") in ("Sequence", "Iterable"):
        parts = [
            _parse(part.strip(), arguments[0] if arguments else str) for part in text.strip("()[]").split(",") if part
        ]
        is_fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
        wrong_length = is_fixed and len(parts) != len(arguments)
        return _MISSING if _MISSING in parts or wrong_length else tuple(parts)
    return _parse_plain(text, kind)


def _parse_plain(text: str, kind: Any) -> Any:
    if kind is type(None):
        return None if text.lower() in ("none", "null") else _MISSING
    if kind is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(
            text.lower(), _MISSING
        )
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return _MISSING
    return text


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    if origin is tuple:
        return f"a list like {_describe(arguments[0])},{_describe(arguments[0])}"
    if kind is bool:
        return "true or false"
    return "none" if kind is type(None) else str(getattr(kind, "__name__", kind))
