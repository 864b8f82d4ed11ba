"""Reading the settings documents of the CLIP-FSAR code base (OTAM, CLIP-FSAR, HyRSM, HyRSM++, MoLo, TRX)."""

from collections.abc import Mapping
from typing import Any

from fsar.errors import InputError

DIVISOR = 4
"""BATCH_SIZE of every released config: the official losses are divided by it."""


def train_flags(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the TRAIN section: of a published config, or as a parity vector records it."""
    return section(metadata, "train_flags") or section(metadata, "TRAIN")


def flag(metadata: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a TRAIN flag; the official code takes an absent key and a false or zero value for the same."""
    return train_flags(metadata).get(key) or default


def present_pair(metadata: Mapping[str, Any], first: str, second: str) -> tuple[Any, Any] | None:
    """Return two TRAIN flags that count only if both keys exist, whatever their values; else None."""
    flags = train_flags(metadata)
    return (flags[first], flags[second]) if first in flags and second in flags else None


def head_name(metadata: Mapping[str, Any]) -> str:
    """Return the official class name: VIDEO.HEAD.NAME of a config, `head` of a parity vector; "" if it says neither."""
    return str(metadata.get("head", section(section(metadata, "VIDEO"), "HEAD").get("NAME", "")))


def section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a settings document, empty if it is absent or says nothing.

    Raises:
        InputError: it holds something else than named values.
    """
    found = settings.get(name) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"the section {name} of the settings must hold named values, got {type(found).__name__}")
    return found
