"""Recipes as TOML files: one file for each head, a table for each recipe, keys above the first table for all of them.

heads = ["otam"]
optimizer = "adam"

[otam-ssv2-otam]
lr = 1e-3
schedule = { kind = "MultiStep", milestones = [3_000] }

[5shot]                     # every recipe once more, as NAME-5shot, with these changes
options = { merge_before = true }
"""

import typing
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from fsar.documents import parse_toml
from fsar.errors import InputError, unknown_name
from fsar.heads.recipes import schedules
from fsar.heads.recipes.preset import Preset
from fsar.heads.recipes.schedules import Schedule

FIVE_SHOTS = "5shot"


def read_recipes(text: str, where: str) -> dict[str, Preset]:
    """Return the recipes of a file by name.

    Raises:
        InputError: no TOML, a key that recipes do not have, or a value of another type; `where` names the file.
    """
    document = parse_toml(text, where)
    shared = {key: value for key, value in document.items() if key in _FIELDS}
    tables = {key: value for key, value in document.items() if key not in _FIELDS}
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise InputError(f"{where}: {unknown_name('key', key, _FIELDS)}")
    changes = tables.pop(FIVE_SHOTS, None)
    found = {name: _recipe(name, {**shared, **table}, where) for name, table in tables.items()}
    if changes is not None:
        for preset in list(found.values()):
            found[f"{preset.name}-{FIVE_SHOTS}"] = _for_five_shots(preset, changes, where)
    return found


def _recipe(name: str, table: Mapping[str, Any], where: str) -> Preset:
    where = f"{where}, [{name}]"
    values = {key: _value(key, value, where) for key, value in table.items() if key != "schedule"}
    preset = Preset(name, **values)
    return replace(preset, schedule=_schedule(table["schedule"], preset, where)) if "schedule" in table else preset


def _for_five_shots(one_shot: Preset, table: Mapping[str, Any], where: str) -> Preset:
    if "note" not in table:
        raise InputError(f"{where}, [{FIVE_SHOTS}]: say in a note for which shots it was published")
    values = {key: _value(key, value, f"{where}, [{FIVE_SHOTS}]") for key, value in table.items()}
    note = f"{values.pop('note')}; otherwise as {one_shot.name}, which says more"
    options = {**one_shot.options, **values.pop("options", {})}
    name = f"{one_shot.name}-{FIVE_SHOTS}"
    return replace(one_shot, name=name, n_shot=5, note=note, options=options, **values)


def _value(key: str, value: Any, where: str) -> Any:
    """Return the value of a field as the field holds it; raises InputError for another type."""
    if key not in _FIELDS:
        raise InputError(f"{where}: {unknown_name('key', key, _FIELDS)}")
    if isinstance(value, str):
        value = " ".join(value.split())
    value = _frozen(value)
    if not _fits(value, _FIELDS[key]):
        raise InputError(f"{where}: {key} must be {_FIELDS[key]}, got {value!r}")
    return value


def _frozen(value: Any) -> Any:
    """Return arrays as tuples, at any depth."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        same_length = isinstance(value, tuple) and len(value) == len(kinds)
        return same_length and all(map(_fits, value, kinds))
    if origin is Mapping:
        return isinstance(value, dict)
    if arguments:  # a union
        return any(_fits(value, argument) for argument in arguments)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _schedule(table: Mapping[str, Any], preset: Preset, where: str) -> Schedule:
    """Return a schedule from its class name and fields; `first_lr` is its start as a rate instead of a factor."""
    values = {key: _frozen(value) for key, value in table.items() if key not in ("kind", "first_lr")}
    kinds = {kind.__name__: kind for kind in schedules.KINDS}
    if table.get("kind") not in kinds:
        raise InputError(f"{where}: {unknown_name('kind of schedule', str(table.get('kind')), kinds)}")
    if "first_lr" in table:
        values["start"] = table["first_lr"] / preset.lr
    try:
        schedule: Schedule = kinds[table["kind"]](**values)
    except TypeError as error:
        raise InputError(f"{where}: schedule: {error}") from error
    return schedule


_FIELDS = {name: kind for name, kind in typing.get_type_hints(Preset).items() if name != "name"}
assert set(_FIELDS) == {item.name for item in fields(Preset)} - {"name"}
