"""One file per method, a folder for a large one. Importing this room registers all of them."""

from fsar.heads.methods import (
    bd_cspn,
    bi_mhm,
    chamfer,
    clip_fsar,
    clip_mei,
    cmn,
    crosstransformer,
    hyrsm,
    hyrsm_pp,
    laplacian_shot,
    molo,
    otam,
    pal,
    proto,
    second_order,
    tarn,
    team,
    trx,
    tsn,
    tuned_classifiers,
    tuned_prototypes,
    zero_shot,
)
from fsar.heads.methods.emp_net import head as emp_net
from fsar.heads.methods.hcl import head as hcl
from fsar.heads.methods.strm import head as strm
from fsar.heads.methods.task_adapter import head as task_adapter
from fsar.heads.methods.ts_fsar import head as ts_fsar

__all__ = [
    "bd_cspn",
    "bi_mhm",
    "chamfer",
    "clip_fsar",
    "clip_mei",
    "cmn",
    "crosstransformer",
    "emp_net",
    "hcl",
    "hyrsm",
    "hyrsm_pp",
    "laplacian_shot",
    "molo",
    "otam",
    "pal",
    "proto",
    "second_order",
    "strm",
    "tarn",
    "task_adapter",
    "team",
    "trx",
    "ts_fsar",
    "tsn",
    "tuned_classifiers",
    "tuned_prototypes",
    "zero_shot",
]
