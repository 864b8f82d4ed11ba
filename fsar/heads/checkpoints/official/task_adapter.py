"""Official form of Task-Adapter++: all of CLIP with adapters in every block, of which the last few are used."""

from typing import Any

from fsar.heads.checkpoints.official.formats import CLIPFSAR_FRAMES, Metadata, OfficialFormat, State, register_official

ADAPTED = "adapter_layers"
"""The setting that says how many of the last blocks are used; 2 on most data sets, 6 on Something-Something."""
HEAD_WIDTH = 64
"""Channels of an attention head in all of CLIP's transformers."""
BLOCK = r"transformer\.resblocks\.(\d+)\."


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read widths and depths off the tensors; how many blocks are adapted only the settings tell."""
    found = metadata.get("options", metadata)
    width, text_dim = state["feature.proj"].shape
    n_blocks = len({name.split(".")[3] for name in state if name.startswith("feature.transformer.resblocks.")})
    return {
        "dim": width,
        "text_dim": text_dim,
        "levels": (n_blocks - int(found.get(ADAPTED, 2)),),
        "n_blocks": n_blocks,
        "n_heads": int(found.get("heads", width // HEAD_WIDTH)),
        "order_norm": bool(found.get("order_norm", "ca.ln_1.weight" in state and "options" not in metadata)),
        "start": "random",
    }


register_official(
    "task_adapter_pp",
    OfficialFormat(
        "task-adapter++",
        _options,
        renames=(
            (r"^feature\.", ""),
            (BLOCK + r"t_adapter\.", r"blocks.\1.time."),
            (BLOCK + r"s_adapter\.", r"blocks.\1.space."),
            (BLOCK + r"task_adapter\.", r"blocks.\1.task."),
            (BLOCK + r"MLP_adapter\.", r"blocks.\1.mlp."),
            (r"\.D_fc1\.", ".down."),
            (r"\.D_fc2\.", ".up."),
            (BLOCK + r"(attn|mlp|ln_1|ln_2)\.", r"blocks.\1.frozen.\2_"),
            (r"(\.frozen\.\w+)\.(\w+)$", r"\1_\2"),
            (r"^ln_post\.", "ln_post_"),
            (r"^ca\.ln_1\.", "order_norm."),
        ),
        leftovers=(
            r"feature\.(conv1|ln_pre)\..*",
            r"feature\.(class|positional|temporal)_embedding",  # below the stored level
            r"text\..*",
        ),
        optional=(r"blocks\.\d+\..*", r"order_norm\..*"),
        encode=CLIPFSAR_FRAMES,
        guessed=(ADAPTED,),
    ),
)
