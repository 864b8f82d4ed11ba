"""Official form of CLIP-FSAR (alibaba-mmai-research/CLIP-FSAR, class CNN_OTAM_CLIPFSAR)."""

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


def options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Return the options of `clip-fsar` from the TRAIN flags of a config and the shapes of the weights."""
    weight = (
        float(flag(metadata, "USE_CLASSIFICATION_VALUE", 1.0)) if flag(metadata, "USE_CLASSIFICATION", False) else 0.0
    )
    scoring = "combined" if flag(metadata, "COMBINE", False) else "visual"
    return {
        "dim": state["context2.layers.0.0.norm.weight"].shape[0],
        "depth": len({name for name in state if name.endswith("0.norm.weight")}),
        "hidden": state["context2.layers.0.1.net.0.weight"].shape[0],
        "merge_before": bool(flag(metadata, "MERGE_BEFORE", False)),
        "single_direction": bool(flag(metadata, "SINGLE_DIRECT", False)),
        "scoring": "text" if flag(metadata, "EVAL_TEXT", False) else scoring,
        "text_exponent": float(flag(metadata, "TEXT_COFF", 0.9)),
        "text_loss_weight": weight,
        "compat": "official",
    }


register_official(
    "clip_fsar",
    OfficialFormat(
        head="clip-fsar",
        options=options,
        renames=(*TRANSFORMER_RENAMES, (r"^context2\.", "context.")),
        encode=CLIPFSAR_FRAMES,
        guessed=("MERGE_BEFORE", "SINGLE_DIRECT", "EVAL_TEXT", "COMBINE", "TEXT_COFF"),
    ),
)
