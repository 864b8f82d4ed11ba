"""Options of a command from its settings class."""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from fsar.cli.common import FiniteRange
from fsar.cli.store_address import STORE, open_any
from fsar.heads.setup.settings import ReadSettings
from fsar.settings import Bounds, Field, PerClass, Settings, described

AnySettings = TypeVar("AnySettings", bound=ReadSettings)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType


class CountsType(ParamType):
    """A number per class: 5 for all, 1,5,2,1,1 one for each."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return one number, or a tuple of one per class."""
        if not isinstance(value, str):
            return value
        try:
            counts = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"must be a number, or one per class like 1,5,2,1,1; got {value!r}", param, ctx)
        return counts[0] if len(counts) == 1 else counts


class NumbersType(ParamType):
    """Different numbers, 0 or more, like 0,1,2."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers as a tuple."""
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"must be numbers separated by commas, got {value!r}", param, ctx)
        if min(numbers) < 0:
            self.fail(f"must be 0 or more, got {value}", param, ctx)
        if len(set(numbers)) < len(numbers):
            self.fail(f"names a number twice: {value}", param, ctx)
        return numbers


class PairType(ParamType):
    """KEY=VALUE."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return key and value."""
        key, equals, text = value.partition("=") if isinstance(value, str) else (*value, "")
        if isinstance(value, str) and not (equals and key and text):
            self.fail(f"must be {param.metavar if param else 'KEY=VALUE'}, got {value!r}", param, ctx)
        return (key, text) if isinstance(value, str) else value


def settings_options(settings: type[Settings], *, without: Sequence[str] = ()) -> Decorator:
    """Return a decorator that adds an option for each field of a settings class but `without`."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed(described(settings)):
            if item.name not in without:
                function = _option(item)(function)
        return function

    return add


def store_option(*, required: bool = True) -> Decorator:
    """Return a decorator that adds `--store`, a path or an address."""
    help_text = "Feature store: NAME.zarr, NAME.h5, or an address."
    return click.option("--store", required=required, type=STORE, help=help_text)


def opened(settings: AnySettings, store: Any) -> AnySettings:
    """Return settings with the store open, now that they have been checked."""
    return replace(settings, store=open_any(store, quiet=settings.quiet))


def _option(item: Field) -> Decorator:
    names = item.spelling.names if item.spelling else (item.option,)
    shared: dict[str, Any] = {"help": item.help, "required": item.default is MISSING}
    if item.spelling and item.spelling.metavar:
        shared["metavar"] = item.spelling.metavar
    if typing.get_origin(item.kind) is Mapping:
        return click.option(*names, item.name, multiple=True, type=PairType(), callback=_as_mapping, **shared)
    if item.kind is bool:
        both = names if not item.default else (f"{names[0].replace('--no-', '--')}/{names[0]}",)
        return click.option(*both, item.name, is_flag=True, default=item.default, show_default=item.default, **shared)
    default = None if item.default is MISSING else item.default
    shown = default is not None
    return click.option(
        *names, item.name, type=_type(item.kind, item.bounds), default=default, show_default=shown, **shared
    )


def _as_mapping(context: click.Context, parameter: click.Parameter, pairs: Any) -> dict[str, str]:
    return dict(pairs)


def _type(kind: Any, bounds: Bounds | None) -> Any:
    """Return the click type of a field."""
    if kind == PerClass:
        return CountsType()
    if kind == tuple[int, ...]:
        return NumbersType()
    if typing.get_origin(kind) is Literal:
        return click.Choice(typing.get_args(kind))
    if kind is Path:
        return click.Path(path_type=Path)
    if bounds is None:
        return kind
    ranges: Any = {int: click.IntRange, float: FiniteRange}[kind]
    return ranges(bounds.low, bounds.high, min_open=bounds.is_open, max_open=bounds.is_open and bounds.high is not None)
