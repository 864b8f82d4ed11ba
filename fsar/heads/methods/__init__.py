"""One file per method, a folder for a large one. Importing this room registers all of them."""

from fsar.heads.methods import (
    tuned_classifiers,
    team,
    tarn,
    cmn,
    chamfer,
    bd_cspn,
    clip_fsar,
    clip_mei,
    crosstransformer,
    hyrsm,
    hyrsm_pp,
    molo,
    otam,
    pal,
    proto,
    trx,
    tsn,
    zero_shot,
)
from fsar.heads.methods.emp_net import head as emp_net
from fsar.heads.methods.hcl import head as hcl
from fsar.heads.methods.strm import head as strm

__all__ = [
    "tuned_classifiers",
    "team",
    "tarn",
    "cmn",
    "chamfer",
    "bd_cspn",
    "clip_fsar",
    "clip_mei",
    "crosstransformer",
    "emp_net",
    "hcl",
    "hyrsm",
    "hyrsm_pp",
    "molo",
    "otam",
    "pal",
    "proto",
    "strm",
    "trx",
    "tsn",
    "zero_shot",
]
