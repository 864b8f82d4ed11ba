"""Importers of published checkpoints, one file per code base. Importing a file registers its methods."""

from fsar.heads.checkpoints.official import (
    arn,
    clip_fsar,
    clip_mei,
    d2st_adapter,
    emp_net,
    hcl,
    hyrsm,
    matching,
    metric,
    strm,
    task_adapter,
    ts_fsar,
)
from fsar.heads.checkpoints.official.formats import (
    TRANSFORMER_RENAMES,
    OfficialFormat,
    import_official,
    list_official,
    official_format,
    register_official,
)

__all__ = [
    "TRANSFORMER_RENAMES",
    "OfficialFormat",
    "arn",
    "clip_fsar",
    "clip_mei",
    "d2st_adapter",
    "emp_net",
    "hcl",
    "hyrsm",
    "import_official",
    "list_official",
    "matching",
    "metric",
    "official_format",
    "register_official",
    "strm",
    "task_adapter",
    "ts_fsar",
]
