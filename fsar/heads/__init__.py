"""Heads: features to predictions. Importing a head's module registers it; third parties use `register_head`."""

from fsar.heads import otam, proto, tsn
from fsar.heads.batch import EpisodeBatch, Features, PairBatch, Targets
from fsar.heads.head import Head, Input, TableHead, create_head, list_heads, register_head, seeded

__all__ = [
    "EpisodeBatch",
    "Features",
    "Head",
    "Input",
    "PairBatch",
    "TableHead",
    "Targets",
    "create_head",
    "list_heads",
    "otam",
    "proto",
    "register_head",
    "seeded",
    "tsn",
]
