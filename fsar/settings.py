"""Settings of a command as a frozen dataclass: its fields are the options of the command and the arguments in Python.

The docstring under a field is the help of its option. Types say what values are taken:

    @dataclass(frozen=True, kw_only=True)
    class TrainSettings(Settings):
        steps: Count | None = None
        \"\"\"Optimiser steps. [default: of the preset]\"\"\"
"""

import ast
import functools
import itertools
import operator
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Union

from fsar.errors import InputError


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which numbers a field takes."""

    low: float
    high: float | None = None
    is_open: bool = False
    """True if `low` and `high` themselves are not taken."""

    def __str__(self) -> str:
        low = "above" if self.is_open else "at least"
        high = "" if self.high is None else f" and {'below' if self.is_open else 'at most'} {self.high:g}"
        return f"{low} {self.low:g}{high}"

    def hold(self, number: float) -> bool:
        """Tell whether a number is taken; nan and infinity never are."""
        above = number > self.low if self.is_open else number >= self.low
        top = float("inf") if self.high is None else self.high
        return above and (number < top if self.is_open or self.high is None else number <= top)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the command line writes a field that it does not call by the field's name."""

    names: tuple[str, ...]
    metavar: str | None = None


Count = Annotated[int, Bounds(1)]
Natural = Annotated[int, Bounds(0)]
Positive = Annotated[float, Bounds(0, is_open=True)]
Share = Annotated[float, Bounds(0, 1, is_open=True)]
PerClass = int | tuple[int, ...]
"""A number of videos for every class of an episode, or one number per class."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class: checks the bounds of all numbers when an instance is made."""

    def __post_init__(self) -> None:
        for item in described(type(self)):
            value = getattr(self, item.name)
            if item.bounds is not None and value is not None and not item.bounds.hold(value):
                raise InputError(f"{item.option} must be {item.bounds}, got {value}")

    def refuse_changed(self, names: tuple[str, ...], reason: str) -> None:
        """Raise InputError if one of these fields is not at its default, for it would be ignored."""
        for item in described(type(self)):
            if item.name in names and getattr(self, item.name) != item.default:
                raise InputError(f"{reason}: leave {item.option} out")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a settings class."""

    name: str
    kind: Any
    """Its type without None and annotations."""
    default: Any
    """MISSING if it has to be given."""
    help: str
    bounds: Bounds | None
    spelling: Spelling | None

    @property
    def option(self) -> str:
        """The long option of the command line."""
        if self.spelling is not None:
            return self.spelling.names[0]
        prefix = "no-" if self.kind is bool and self.default is True else ""
        return f"--{prefix}{self.name.replace('_', '-')}"


def described(settings: type[Settings]) -> tuple[Field, ...]:
    """Return the fields of a settings class, those of its base classes first."""
    hints = typing.get_type_hints(settings, include_extras=True)
    helps = {name: text for base in reversed(settings.__mro__) for name, text in _field_docs(base).items()}
    return tuple(_describe(item, hints[item.name], helps.get(item.name, "")) for item in fields(settings))


def _describe(item: Any, hint: Any, text: str) -> Field:
    kind, extras = _bare(hint)
    default = item.default if item.default_factory is MISSING else item.default_factory()
    bounds = next((extra for extra in extras if isinstance(extra, Bounds)), None)
    spelling = next((extra for extra in extras if isinstance(extra, Spelling)), None)
    return Field(item.name, kind, default, text, bounds, spelling)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without `None` and `Annotated`, and the annotations."""
    if typing.get_origin(hint) is Annotated:
        kind, extras = _bare(typing.get_args(hint)[0])
        return kind, (*extras, *hint.__metadata__)
    if typing.get_origin(hint) in (Union, types.UnionType):
        others = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(others) == 1:
            return _bare(others[0])
        return functools.reduce(operator.or_, others), ()
    return hint, ()


def _field_docs(kind: type) -> Mapping[str, str]:
    """Return field -> the docstring under it in the source of a class, in one line."""
    body = next((item.body for item in _classes(kind.__module__) if item.name == kind.__name__), [])
    found = {}
    for item, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_text:
            found[item.target.id] = " ".join(str(below.value.value).split())  # type: ignore[attr-defined]
    return found


@functools.cache
def _classes(module: str) -> list[ast.ClassDef]:
    """Return the classes in the source of a module; none of a module without one, such as `builtins`."""
    file = getattr(sys.modules[module], "__file__", None)
    tree = ast.parse(Path(file).read_text(encoding="utf-8")) if file else ast.Module([], [])
    return [item for item in tree.body if isinstance(item, ast.ClassDef)]
