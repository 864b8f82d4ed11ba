"""A pipeline as one small TOML file: a table for each stage, a key for each option of its command.

    [index]
    dataset = "folder"
    videos = "videos"
    out = "catalog.csv"

    [[train]]                # stages may be repeated with double brackets
    head = "otam"
    store = "features.zarr"

The keys come from the commands themselves, so a command and its table cannot drift apart.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsar.errors import InputError, unknown_name

STAGES = ("synth", "index", "convert", "extract", "tune", "encode", "text", "train", "eval", "report", "predict")
"""Stages run in this order, whatever their order in the file."""

Scalar = str | int | float | bool


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
        Stage(name, _arguments(table, keys_of(name), f"{path}, [{name}]"))
        for name in STAGES
        for table in tables.get(name, ())
    ]


def _tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.is_file():
        raise FileNotFoundError(f"no config {path}")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
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
    known = _known_key(key, keys_of(name), f"override {text!r}")
    parsed = _override_value(known, value)
    for table in tables[name]:
        table.pop(key.replace("-", "_"), None)
        table[known.name] = parsed


def _override_value(key: Key, text: str) -> Any:
    """Return what an override sets, with paths and names of files that exist made absolute, also in an array."""

    def is_place(value: Any) -> bool:
        return isinstance(value, str) and (key.is_path or Path(value).is_file())

    parsed = _toml_value(text)
    if isinstance(parsed, list):
        return [str(Path(value).absolute()) if is_place(value) else value for value in parsed]
    return str(Path(text).absolute()) if is_place(text) else parsed


def _toml_value(text: str) -> Any:
    """Return `text` as a TOML value: 5, true, ["a", "b"]; anything else is a string without quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _known_key(name: str, keys: Keys, where: str) -> Key:
    written = name.replace("_", "-")
    for candidate in (name, written):
        if candidate in keys:
            return keys[candidate]
    raise InputError(f"{where}: {unknown_name('key', name, keys)}")


def _arguments(table: Mapping[str, Any], keys: Keys, where: str) -> tuple[str, ...]:
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
    return tuple(arguments)


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
