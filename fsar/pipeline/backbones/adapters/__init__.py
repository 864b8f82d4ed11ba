"""Adapters: a frozen tower of frames learns to see clips."""

from fsar.pipeline.backbones.adapters.files import added_state, with_saved_adapters
from fsar.pipeline.backbones.adapters.tower import (
    ADAPTER_KINDS,
    Adaptation,
    AdaptedTower,
    AdapterKind,
    with_adapters,
)

__all__ = [
    "ADAPTER_KINDS",
    "Adaptation",
    "AdaptedTower",
    "AdapterKind",
    "added_state",
    "with_adapters",
    "with_saved_adapters",
]
