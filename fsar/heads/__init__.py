"""Heads: features to predictions. Importing a head's module registers it; third parties use `register_head`."""

from fsar.heads import clip_fsar, clip_mei, crosstransformer, emp_net, hcl, otam, pal, proto, trx, tsn, zero_shot
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
    "clip_fsar",
    "clip_mei",
    "create_head",
    "crosstransformer",
    "emp_net",
    "hcl",
    "list_heads",
    "otam",
    "pal",
    "proto",
    "register_head",
    "seeded",
    "trx",
    "tsn",
    "zero_shot",
]
