"""Heads: features to predictions. Third parties register theirs with `register_head`.

The names below are imported on first use, so that the options of a command are known without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "EpisodeBatch": "fsar.heads.batch",
    "Features": "fsar.heads.batch",
    "PairBatch": "fsar.heads.batch",
    "Targets": "fsar.heads.batch",
    "Head": "fsar.heads.head",
    "Input": "fsar.heads.head",
    "TableHead": "fsar.heads.head",
    "TextTableHead": "fsar.heads.head",
    "create_head": "fsar.heads.head",
    "list_heads": "fsar.heads.head",
    "register_head": "fsar.heads.head",
    "seeded": "fsar.device",
}

__all__ = [
    "EpisodeBatch",
    "Features",
    "Head",
    "Input",
    "PairBatch",
    "TableHead",
    "Targets",
    "TextTableHead",
    "create_head",
    "list_heads",
    "register_head",
    "seeded",
]

if TYPE_CHECKING:
    from fsar.device import seeded
    from fsar.heads.batch import EpisodeBatch, Features, PairBatch, Targets
    from fsar.heads.head import Head, Input, TableHead, TextTableHead, create_head, list_heads, register_head


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fsar.heads' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
