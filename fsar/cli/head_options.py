"""Options that training and evaluating a head have in common, and the parsing of their values."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from fsar.cli.store_address import STORE
from fsar.errors import InputError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

STORE_OPTIONS: tuple[Decorator, ...] = (
    click.option("--store", required=True, type=STORE, help="Feature store: NAME.zarr, NAME.h5, or an address."),
    click.option("--split", help="Split by name, alias or CSV path; without it the parts recorded in the store."),
    click.option("--text", help="Text table of the store, for heads that take text."),
    click.option("--tap", "taps", multiple=True, metavar="ROLE=TAP", help="Tap for an input of the head; repeatable."),
    click.option("--frames", type=click.IntRange(min=1), help="Frames a video shows, of those stored. [default: all]"),
    click.option("--device", help="cpu, cuda, cuda:1. [default: cuda where there is one]"),
    click.option("--features", type=click.Choice(["auto", "memory", "disk"]), default="auto", show_default=True,
                 help="Where features are read from: resident in memory, or mapped from disk."),
    click.option("--drop-small-classes", is_flag=True, help="Leave classes out that are too small for an episode."),
    click.option("--allow-duplicates", is_flag=True, help="Draw videos that are the same file under two ids, too."),
    click.option("--quiet", is_flag=True, help="No progress on stderr."),
)  # fmt: skip


def store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what a head reads."""
    for option in reversed(STORE_OPTIONS):
        function = option(function)
    return function


def parse_taps(texts: Sequence[str]) -> dict[str, str]:
    """Return role -> tap from ROLE=TAP texts."""
    pairs = [text.partition("=") for text in texts]
    for text, (_, equals, tap) in zip(texts, pairs, strict=True):
        if not equals or not tap:
            raise InputError(f"--tap must be ROLE=TAP, got {text!r}")
    return {role: tap for role, _, tap in pairs}


def parse_counts(name: str, text: str, *, at_least: int = 0) -> int | tuple[int, ...]:
    """Return a number per class: "5" for all, "1,5,2,1,1" one per class; one of them at least is positive."""
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--{name} must be a number, or one per class like 1,5,2,1,1; got {text!r}") from None
    if min(counts) < at_least or sum(counts) < 1:
        raise InputError(f"--{name} must be at least 1{' for every class' if at_least else ''}, got {text}")
    return counts[0] if len(counts) == 1 else counts


def parse_list(name: str, text: str) -> list[int]:
    """Return the numbers of a list like 0,1,2."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--{name} must be numbers separated by commas, got {text!r}") from None
    if min(numbers) < 0:
        raise InputError(f"--{name} must be 0 or more, got {text}")
    if len(set(numbers)) < len(numbers):
        raise InputError(f"--{name} names a number twice: {text}")
    return numbers


def refuse_given(names: Sequence[str], reason: str) -> None:
    """Raise InputError if the user gave one of these options of the running command, which would be ignored."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise InputError(f"{reason}: leave --{name.replace('_', '-')} out")


def choose_device(device: str | None) -> str:
    """Return a device that exists: the one asked for, else the GPU where there is one."""
    from fsar.device import resolve_device

    return str(resolve_device(device or "auto"))
