"""Options of heads from the command line, typed by the annotations of the constructor."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fsar.errors import InputError, unknown_name
from fsar.heads.head import head_type

_MISSING = object()


def typed_options(head: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a head, texts turned into what its constructor wants: "2,3" into (2, 3) for `temp_set`.

    Values that are no text, and texts where the constructor takes any, stay as they are.

    Raises:
        InputError: an option that the head does not take (with the nearest names), or a text of another type.
    """
    kind, hints = head_type(head), option_types(head)
    options: dict[str, Any] = {}
    for name, value in given.items():
        key = kind.old_options.get(name) or name
        if key not in hints and name not in kind.old_options:
            raise unknown_name(f"option of head {head!r}", key, hints)
        parsed = _parse(value, hints[key]) if isinstance(value, str) else value
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
