"""Official form of HCL (github.com/zhengsipeng/HCL-FSAR): a bare state dict, with its settings in a file beside it."""

from typing import Any

from fsar.heads.checkpoints.official.formats import Metadata, OfficialFormat, State, register_official

ENCODER = r"st_transformer_encoder\."
SIGMAS = tuple(f"sigma_{level}" for level in ("global", "temp", "spa", "ce", "temp_cycle", "spa_cycle"))
LAYER = ENCODER + r"transformer_encoder\.layers\."


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read widths off the tensors and the rest off the settings (`configs.txt`); the script's values by default."""
    encoder = "st_transformer_encoder."
    layers = {name.split(".")[3] for name in state if name.startswith(encoder + "transformer_encoder.layers.")}
    semantic = "emb_fc.weight" in state
    level_weights = {
        "global": float(metadata.get("sigma_global", 1.0)),
        "temporal": float(metadata.get("sigma_temp", 0.5)),
        "spatial": float(metadata.get("sigma_spa", 0.5)),
    }
    spatial_cycle = float(metadata.get("sigma_spa_cycle", 0.25)) if metadata.get("use_spa_cycle", False) else 0.0
    return {
        "dim": state[encoder + "input_proj.weight"].shape[1],
        "n_classes": state["action_classifier.weight"].shape[0],
        "width": state["action_classifier.weight"].shape[1],
        "hidden": state[encoder + "transformer_encoder.layers.0.linear1.weight"].shape[0],
        "n_heads": int(metadata.get("nheads", 8)),
        "n_layers": len(layers),
        "pre_norm": encoder + "transformer_encoder.norm.weight" in state,
        "max_frames": state[encoder + "pos_encoder.temp_embed.weight"].shape[0],
        "max_side": state[encoder + "pos_encoder.row_embed.weight"].shape[0],
        "temp_set": tuple(metadata.get("temp_set", (2,))),
        "multi_scale": bool(metadata.get("use_spa_mscale", False)),
        "semantic": semantic,
        "text_dim": state["emb_fc.weight"].shape[1] if semantic else 768,
        "temperature": float(metadata.get("temperature", 0.07)),
        **{f"loss_{level}": weight for level, weight in level_weights.items()},
        **{f"fuse_{level}": weight for level, weight in level_weights.items()},
        "loss_classification": float(metadata.get("sigma_ce", 1.0)),
        "loss_temporal_cycle": float(metadata.get("sigma_temp_cycle", 0.25)),
        "loss_spatial_cycle": spatial_cycle,
        "compat": "official",
    }


register_official(
    "hcl",
    OfficialFormat(
        head="hcl",
        options=_options,
        renames=(
            (LAYER + r"(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
            (LAYER, "encoder.layers."),
            (ENCODER + r"transformer_encoder\.norm\.", "encoder.norm."),
            (ENCODER + r"pos_encoder\.temp_embed\.weight", "encoder.positions.frame"),
            (ENCODER + r"pos_encoder\.col_embed\.weight", "encoder.positions.column"),
            (ENCODER + r"pos_encoder\.row_embed\.weight", "encoder.positions.row"),
            (ENCODER + "input_proj", "encoder.input_proj"),
            (r"^bi_linear\.", "tuple_linears.2."),
            (r"^tri_linear\.", "tuple_linears.3."),
            (r"^temp_linear\.", "temporal.linear."),
            (r"^norm_temp\.", "temporal.norm."),
            (r"^spa_linear\.", "spatial.linear."),
            (r"^norm_spa\.", "spatial.norm."),
            (r"^emb_fc\.", "semantic.linear."),
            (r"^norm_emb\.", "semantic.norm."),
            (r"^action_classifier\.", "classifier."),
        ),
        leftovers=(r"query_embed", r"encoder\..*"),
        optional=(r"tuple_linears\..*",),
        encode="--pixels hcl",
        guessed=("nheads", "temp_set", "use_spa_mscale", "use_spa_cycle", "temperature", *SIGMAS),
    ),
)
