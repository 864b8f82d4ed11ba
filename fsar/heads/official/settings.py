"""Reading the settings documents of the CLIP-FSAR code base (OTAM, CLIP-FSAR, HyRSM, HyRSM++, MoLo, TRX)."""

from collections.abc import Mapping
from typing import Any

DIVISOR = 4
"""BATCH_SIZE of every released config: the official losses are divided by it."""


def train_flags(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the TRAIN section: of a published config, or as a parity vector records it."""
    flags = metadata.get("train_flags", metadata.get("TRAIN", {}))
    if not isinstance(flags, Mapping):
        raise TypeError(f"the TRAIN section must be a mapping, got {type(flags).__name__}")
    return flags


def flag(metadata: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a TRAIN flag; the official code takes an absent key and a false or zero value for the same."""
    return train_flags(metadata).get(key) or default


def present_pair(metadata: Mapping[str, Any], first: str, second: str) -> tuple[Any, Any] | None:
    """Return two TRAIN flags that count only if both keys exist, whatever their values; else None."""
    flags = train_flags(metadata)
    return (flags[first], flags[second]) if first in flags and second in flags else None


def head_name(metadata: Mapping[str, Any]) -> str:
    """Return the official class name: VIDEO.HEAD.NAME of a config, `head` of a parity vector; "" if it says neither."""
    video = metadata.get("VIDEO", {}).get("HEAD", {})
    return str(metadata.get("head", video.get("NAME", "")))
