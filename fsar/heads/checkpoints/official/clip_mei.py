"""Official form of CLIP-MEI."""

from typing import Any

from fsar.heads.checkpoints.official.formats import (
    TRANSFORMER_RENAMES,
    TRX_FRAMES,
    Metadata,
    OfficialFormat,
    State,
    register_official,
)
from fsar.heads.checkpoints.official.settings import section

RENAMES = (
    *TRANSFORMER_RENAMES,
    (r"^context1\.0\.", "episode_block."),
    (r"^context2\.0\.", "video_block."),
    (r"^token_tr\.mlp\.", "token_network."),
    (r"^motion_conv", "motion.conv_"),
    (r"^mo_alpha1$", "motion_weight"),
)


def options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Return the options of `clip-mei` from the flags of the MODEL section and the shapes of the weights."""
    flags = section(metadata, "flags") or section(metadata, "MODEL")
    return {
        "dim": state["context2.layers.0.0.norm.weight"].shape[0],
        "hidden": state["context2.layers.0.1.net.0.weight"].shape[0],
        "head_dim": state["context2.layers.0.0.fn.to_q.weight"].shape[0] // 8,
        "single_direction": bool(flags.get("SINGLE_DIRECT", False)),
    }


# The official `scale` is saved but never used.
register_official(
    "clip_mei",
    OfficialFormat(
        head="clip-mei",
        options=options,
        renames=RENAMES,
        leftovers=("scale",),
        encode=TRX_FRAMES,
        guessed=("SINGLE_DIRECT",),
    ),
)
