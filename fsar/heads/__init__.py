"""Heads: features to predictions. Importing a head's module registers it; third parties use `register_head`."""

from fsar.device import seeded
from fsar.heads.batch import EpisodeBatch, Features, PairBatch, Targets
from fsar.heads.head import Head, Input, TableHead, TextTableHead, create_head, list_heads, register_head
from fsar.heads.methods import (
    bd_cspn,
    chamfer,
    clip_fsar,
    clip_mei,
    cmn,
    crosstransformer,
    hyrsm,
    hyrsm_pp,
    molo,
    otam,
    pal,
    proto,
    tarn,
    team,
    trx,
    tsn,
    tuned_classifiers,
    zero_shot,
)
from fsar.heads.methods.emp_net import head as emp_net
from fsar.heads.methods.hcl import head as hcl
from fsar.heads.methods.strm import head as strm

__all__ = [
    "EpisodeBatch",
    "Features",
    "Head",
    "Input",
    "PairBatch",
    "TableHead",
    "Targets",
    "TextTableHead",
    "bd_cspn",
    "chamfer",
    "clip_fsar",
    "clip_mei",
    "cmn",
    "create_head",
    "crosstransformer",
    "emp_net",
    "hcl",
    "hyrsm",
    "hyrsm_pp",
    "list_heads",
    "molo",
    "otam",
    "pal",
    "proto",
    "register_head",
    "seeded",
    "strm",
    "tarn",
    "team",
    "trx",
    "tsn",
    "tuned_classifiers",
    "zero_shot",
]
