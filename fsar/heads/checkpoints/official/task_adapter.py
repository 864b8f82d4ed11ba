"""Official form of Task-Adapter++: all of CLIP with adapters in every block, of which the last few are used."""

from typing import Any

from fsar.heads.checkpoints.official.formats import CLIPFSAR_FRAMES, Metadata, OfficialFormat, State, register_official

ADAPTED = "adapter_layers"
"""The setting that says how many of the last blocks are used; 2 on most data sets, 6 on Something-Something."""
ADAPTED_TEXT = "text_adapter_layers"
"""Ours for the same of the text tower, which the released settings do not name: 8, on Something-Something 2."""
HEAD_WIDTH = 64
"""Channels of an attention head in all of CLIP's transformers."""
BLOCK = r"transformer\.resblocks\.(\d+)\."
TEXT_BLOCK = r"^text\." + BLOCK


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read widths and depths off the tensors; how many blocks are adapted only the settings tell."""
    found = metadata.get("options", metadata)
    width, text_dim = state["feature.proj"].shape
    n_blocks = n_blocks_of(state, "feature.")
    adapted = int(found.get(ADAPTED, 2))
    return {
        "dim": width,
        "text_dim": text_dim,
        "levels": (n_blocks - adapted,),
        "n_blocks": n_blocks,
        "n_heads": int(found.get("heads", width // HEAD_WIDTH)),
        "order_norm": bool(found.get("order_norm", "ca.ln_1.weight" in state and "options" not in metadata)),
        "start": "random",
        **_text_options(state, int(found.get(ADAPTED_TEXT, 8 if adapted == 2 else 2)), found),
    }


def _text_options(state: State, adapted: int, settings: Metadata) -> dict[str, Any]:
    """Return the options of the text tower; none where the file does not hold it."""
    if "text.text_projection" not in state:
        return {}
    n_blocks, width = n_blocks_of(state, "text."), state["text.text_projection"].shape[0]
    return {
        "text_level": n_blocks - adapted,
        "text_width": width,
        "n_text_blocks": n_blocks,
        "n_text_heads": int(settings.get("text_heads", width // HEAD_WIDTH)),
    }


def n_blocks_of(state: State, tower: str) -> int:
    """Return the number of blocks of a tower."""
    prefix = f"{tower}transformer.resblocks."
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


register_official(
    "task_adapter_pp",
    OfficialFormat(
        "task-adapter++",
        _options,
        renames=(
            (r"^feature\.", ""),
            (TEXT_BLOCK + r"sub3_adapter\.", r"text_tower.blocks.\1.steps."),
            (TEXT_BLOCK + r"(attn|mlp|ln_1|ln_2)\.", r"text_tower.blocks.\1.frozen.\2_"),
            (r"^text\.text_projection$", "text_tower.projection"),
            (r"^text\.ln_final\.", "text_tower.ln_final_"),
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
            r"text\.(token_embedding\.weight|positional_embedding|logit_scale)",
        ),
        optional=(r"(text_tower\.)?blocks\.\d+\..*", r"order_norm\..*"),
        encode=CLIPFSAR_FRAMES,
        guessed=(ADAPTED, ADAPTED_TEXT),
    ),
)
