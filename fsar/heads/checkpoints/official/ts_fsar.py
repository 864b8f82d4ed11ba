"""Official form of TS-FSAR: a bare state dict of everything, the frozen CLIP included, under transformers' names."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from fsar.errors import InputError
from fsar.heads.checkpoints.official.formats import CLIPFSAR_FRAMES, Metadata, OfficialFormat, State, register_official

SETTINGS = {
    # Ours, and the name in a config file.
    "adapter_share": "RES_ALPHA",
    "clip_scale": "TEMP_CLIP",
    "side_scale": "TEMP_SIDE",
    "fuse_vision": "FUSE_VISION",
    "fuse_clip": "FUSE_CLIP",
    "fuse_side": "FUSE_SIDE",
    "loss_vision": "VIS_ALPHA",
    "loss_classes": "CLS_ALPHA",
    "loss_side": "SIDE_CLS_ALPHA",
    "loss_distillation": "KD_ALPHA",
    "distillation_temperature": "KD_T",
    "exponent": "DC_ALPHA",
    "dropout": "DROPOUT",
}
TEMPORAL = ("TEMP_LAYERS", "TEMPORAL_LAYERS")
"""The name in a config file, and that in a parity vector."""
DEFAULT_TEMPORAL = (6, 8, 10)
SIDE = r"model\.side_transformer\.(\d+)\."
BLOCK = r"network.blocks.\1."


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read widths off the tensors and the rest off the settings, wherever they stand in the config."""
    found = _leaves(metadata.get("options", metadata))
    width = state["model.side_LN.0.weight"].shape[0]
    n_levels = sum(name.startswith("model.side_LN.") and name.endswith(".weight") for name in state)
    text_dim, side_dim = state["model.up_linear.weight"].shape
    temporal = next((tuple(found[name]) for name in TEMPORAL if name in found), DEFAULT_TEMPORAL)
    return {
        "dim": width,
        "text_dim": text_dim,
        "n_frames": isqrt(state["ts_dcm.generator.weight"].shape[0]),
        "n_classes": state["model.Linear.weight"].shape[0],
        "levels": tuple(range(n_levels)),
        "side_dim": side_dim,
        "mlp_ratio": state["model.side_transformer.0.mlp.fc1.weight"].shape[0] / side_dim,
        **{ours: _number(name, found[name]) for ours, name in SETTINGS.items() if name in found},
        "temporal_blocks": temporal,
        "start": "random",
        "compat": "official",
    }


def _leaves(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config by upper-case name, whatever section they stand in.

    Raises InputError for one that two sections give different values.
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        for key, inner in (_leaves(value) if isinstance(value, Mapping) else {name.upper(): value}).items():
            if key in (*SETTINGS.values(), *TEMPORAL) and found.setdefault(key, inner) != inner:
                raise InputError(f"the settings give {key} twice, as {found[key]!r} and as {inner!r}")
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} in the settings must be a number, got {value!r}")
    return float(value)


register_official(
    "ts_fsar",
    OfficialFormat(
        head="ts-fsar",
        options=_options,
        renames=(
            (r"^model\.side_LN\.", "network.norms."),
            (r"^model\.side_downsample\.", "network.reductions."),
            (r"^model\.side_gate_params\.", "network.gates."),
            (SIDE + r"attn\.([qkv])_linear\.", BLOCK + r"attention.\2."),
            (SIDE + r"attn\.proj\.", BLOCK + "attention.out."),
            (SIDE + r"mlp\.", BLOCK),
            (SIDE, BLOCK),
            (r"^model\.up_ln\.", "up_norm."),
            (r"^model\.up_linear\.", "up."),
            (r"^model\.Adapter\.norm1\.", "clip_norm."),
            (r"^model\.Adapter\.attn\.([qkv])_linear\.", r"clip_attention.\1."),
            (r"^model\.Adapter\.attn\.proj\.", "clip_attention.out."),
            (r"\.q\.(weight|bias)$", r".query.\1"),
            (r"\.k\.(weight|bias)$", r".key.\1"),
            (r"\.v\.(weight|bias)$", r".value.\1"),
            (r"^model\.Linear\.", "classifier."),
            (r"^ts_dcm\.generator\.", "generator."),
        ),
        # CLIP ViT-B/16 as OpenAI released it: frozen.
        leftovers=(r"model\.(embeddings|pre_layernorm|layers|post_layernorm|projection)(\..*)?",),
        encode=CLIPFSAR_FRAMES,
        guessed=(*SETTINGS.values(), TEMPORAL[0]),
    ),
)
