"""A pipeline as one small TOML file: a table for each stage, a key for each option of its command.

    [index]
    dataset = "folder"
    videos = "videos"
    out = "catalog.csv"

    [[train]]                # stages may be repeated with double brackets
    head = "otam"
    store = "features.zarr"

    [[train]]                # [train.each] repeats its table for every combination of values; {NAME} stands for one
    store = "features.zarr"
    out = "runs/{head}-{shot}-shot"
    [train.each]
    head = ["otam", "trx"]
    shot = [1, 5]

The keys come from the commands themselves, so a command and its table cannot drift apart.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsar.documents import parse_toml, read_toml
from fsar.errors import InputError, unknown_name

STAGES = ("synth", "index", "convert", "extract", "tune", "encode", "text", "train", "eval", "report", "predict")
"""Stages run in this order, whatever their order in the file."""

Scalar = str | int | float | bool
EACH = "each"
"""Key of the table whose arrays repeat a stage."""


@dataclass(frozen=True)
class Key:
    """What one key of a stage's table may hold; made from an option or argument of the stage's command."""

    name: str
    """Long option name without dashes, or the name of a positional argument."""
    is_argument: bool = False
    is_flag: bool = False
    is_path: bool = False
    required: bool = False
    takes_many: bool = False
    """An array repeats the option, or fills an argument with several values."""
    n_values: int = 1
    """An array of so many values follows the option, once."""
    off: str | None = None
    """The option that says no to a flag, such as `--no-compat`."""
    check: Callable[[str], None] = field(default=lambda text: None, compare=False)
    """Raises InputError for a value that the option does not take."""


Keys = Mapping[str, Key]
"""The keys of one stage, positional arguments first."""


@dataclass(frozen=True)
class Stage:
    """One run of a command."""

    name: str
    arguments: tuple[str, ...]
    """What follows the command's name on its command line."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False)
    """The same by key, without flags."""


def read_config(path: str | Path, keys_of: Callable[[str], Keys], overrides: Sequence[str] = ()) -> list[Stage]:
    """Return the stages of a TOML file in the order in which they run.

    Args:
        path: the file.
        keys_of: called with the name of each stage that the file uses.
        overrides: `stage.key=value` replaces a value in every table of a stage; paths, and names of files that
            exist, are taken from here, not from the output folder.

    Raises:
        InputError: not TOML; an unknown stage or key (with the nearest names); a value the option does not take.
    """
    path = Path(path)
    tables = _tables(path)
    for text in overrides:
        _override(tables, text, keys_of)
    return [
        _stage(name, table, keys_of(name), f"{path}, [{name}]")
        for name in STAGES
        for repeated in tables.get(name, ())
        for table in _combinations(repeated, f"{path}, [{name}]")
    ]


def _tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(f"no config {path}")
    document = read_toml(path)
    for name, content in document.items():
        if name not in STAGES:
            raise InputError(f"{path}: {unknown_name('stage', name, STAGES)}")
        many = content if isinstance(content, list) else [content]
        if not many or not all(isinstance(table, dict) for table in many):
            raise InputError(f"{path}: {name} must be a table, [{name}] or [[{name}]]")
        document[name] = many
    if not document:
        raise InputError(f"{path} names no stage; the stages are {', '.join(STAGES)}")
    return document


def _override(tables: dict[str, list[dict[str, Any]]], text: str, keys_of: Callable[[str], Keys]) -> None:
    target, equals, value = text.partition("=")
    name, dot, key = target.partition(".")
    if not equals or not dot:
        raise InputError(f"an override must be like index.videos=/data/videos, got {text!r}")
    if name not in tables:
        raise InputError(f"override {text!r}: {unknown_name('stage', name, tables)}")
    each, _, own = key.rpartition(".")
    if each not in ("", EACH):
        raise InputError(f"override {text!r}: {name}.{each} is no table of a stage; only {name}.{EACH} is")
    known = _known_key(own, keys_of(name), f"override {text!r}")
    parsed = _override_value(known, value)
    for table in tables[name]:
        repeated = table.setdefault(EACH, {}) if each else table.get(EACH, {})
        for place in (table, repeated):
            if isinstance(place, dict):
                place.pop(known.name, None)
                place.pop(own.replace("-", "_"), None)
        if isinstance(repeated, dict) and each:
            repeated[known.name] = parsed if isinstance(parsed, list) else [parsed]
        else:
            table[known.name] = parsed


def _combinations(table: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Yield the table once for every combination of the values in its table `each`, with {NAME} filled in."""
    each = table.get(EACH, {})
    if not isinstance(each, dict) or not all(isinstance(values, list) and values for values in each.values()):
        raise InputError(f"{where}: {EACH} must be a table of arrays, [stage.{EACH}], none of them empty")
    own = {name: value for name, value in table.items() if name != EACH}
    twice = next((name for name in each if name in own), None)
    if twice is not None:
        raise InputError(f"{where}: {twice!r} stands in the table and in its {EACH}")
    for values in itertools.product(*each.values()):
        chosen = dict(zip(each, values, strict=True))
        yield {name: _filled(value, chosen, where) for name, value in (own | chosen).items()}


def _filled(value: Any, chosen: Mapping[str, Any], where: str) -> Any:
    """Return a value with {NAME} replaced; of a path, such as a store, by its name without the suffix."""
    if isinstance(value, list):
        return [_filled(one, chosen, where) for one in value]
    if not isinstance(value, str) or not chosen:
        return value

    def fill(found: re.Match[str]) -> str:
        if found[1] not in chosen:
            raise InputError(f"{where}: {value!r}: {unknown_name('name in braces', found[1], chosen)}")
        one = chosen[found[1]]
        return Path(one).stem if isinstance(one, str) else str(one)

    return re.sub(r"\{([a-z_-]+)\}", fill, value)


def _override_value(key: Key, text: str) -> Any:
    """Return what an override sets, with paths and names of files that exist made absolute, also in an array."""

    def is_place(value: Any) -> bool:
        return isinstance(value, str) and (key.is_path or os.path.isfile(value))

    parsed = _toml_value(text)
    if isinstance(parsed, list):
        return [str(Path(value).absolute()) if is_place(value) else value for value in parsed]
    return str(Path(text).absolute()) if is_place(text) else parsed


def _toml_value(text: str) -> Any:
    """Return `text` as a TOML value: 5, true, ["a", "b"]; anything else is a string without quotes."""
    try:
        return parse_toml(f"value = {text}", text)["value"]
    except InputError:
        return text


def _known_key(name: str, keys: Keys, where: str) -> Key:
    written = name.replace("_", "-")
    for candidate in (name, written):
        if candidate in keys:
            return keys[candidate]
    raise InputError(f"{where}: {unknown_name('key', name, keys)}")


def _stage(stage: str, table: Mapping[str, Any], keys: Keys, where: str) -> Stage:
    given: dict[str, Any] = {}
    for name, value in table.items():
        key = _known_key(name, keys, where)
        if key.name in given:
            raise InputError(f"{where}: key {key.name!r} is given twice")
        given[key.name] = value
    arguments: list[str] = []
    for key in keys.values():
        if key.name in given:
            arguments += _written(key, given[key.name], where)
        elif key.required:
            raise InputError(f"{where}: key {key.name!r} is missing")
    values = {
        name: tuple(map(str, value if isinstance(value, list) else [value]))
        for name, value in given.items()
        if not keys[name].is_flag
    }
    return Stage(stage, tuple(arguments), values)


def _written(key: Key, value: Any, where: str) -> list[str]:
    """Return a key and its value as they stand on a command line."""
    if key.is_flag:
        if not isinstance(value, bool):
            raise InputError(f"{where}: {key.name} must be true or false, got {value!r}")
        return [f"--{key.name}"] if value else [key.off] if key.off else []
    values = value if isinstance(value, list) else [value]
    if len(values) != key.n_values and not key.takes_many:
        wanted = f"{key.n_values} values" if key.n_values > 1 else "one value"
        raise InputError(f"{where}: {key.name} takes {wanted}, got {len(values)}")
    texts = [_text(key, one, where) for one in values]
    if key.is_argument:
        return texts
    if key.n_values > 1:
        return [f"--{key.name}", *texts]
    return [piece for text in texts for piece in (f"--{key.name}", text)]


def _text(key: Key, value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{where}: {key.name} must be text or a number, got {value!r}")
    try:
        key.check(str(value))
    except InputError as error:
        raise InputError(f"{where}: {key.name}: {error}") from None
    return str(value)
