"""Official form of EMP-Net ("reasion" is the official spelling)."""

from typing import Any

from fsar.heads.checkpoints.official.formats import (
    CLIPFSAR_FRAMES,
    TRANSFORMER_RENAMES,
    Metadata,
    OfficialFormat,
    State,
    register_official,
)
from fsar.heads.checkpoints.official.settings import flag

RENAMES = (
    (r"^spatialtemporal_reasion_1\.", "encoder.early."),
    (r"^spatialtemporal_reasion_2\.", "encoder.middle."),
    (r"^spatialtemporal_reasion_3\.", "encoder.late."),
    (r"^(encoder\.\w+)\.layers\.0\.0\.", r"\1.spatial."),
    (r"^(encoder\.\w+)\.layers\.0\.1\.", r"\1.temporal."),
    (r"^(encoder\.\w+)\.layers\.0\.2\.", r"\1.feed_forward."),
    *TRANSFORMER_RENAMES,
    (r"^inter_reasion_(\w+)\.0\.", r"encoder.reasoning.\1."),
    (r"^fusion_(\w+)\.0\.", r"encoder.fusion.\1."),
)


def options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Return the options of `emp-net` from the TRAIN flags and the shapes of the weights."""
    return {
        "dim": state["inter_reasion_token.layers.0.0.norm.weight"].shape[0],
        "merge_before": bool(metadata.get("merge_before", flag(metadata, "MERGE_BEFORE", False))),
        "compat": "fixed",  # the weights are the same, and so are the numbers with one shot
    }


register_official(
    "emp_net",
    OfficialFormat(head="emp-net", options=options, renames=RENAMES, encode=CLIPFSAR_FRAMES, guessed=("MERGE_BEFORE",)),
)
