"""Official forms of HyRSM, HyRSM++ and MoLo (the CLIP-FSAR and MoLo code base)."""

from typing import Any

from fsar.heads.checkpoints.official.formats import (
    RESNET_FRAMES,
    TRANSFORMER_RENAMES,
    Metadata,
    OfficialFormat,
    State,
    register_official,
)
from fsar.heads.checkpoints.official.settings import DIVISOR, flag, head_name, present_pair, train_flags

DEFAULT_POSITION = (10.0, 1.0)


def _hyrsm(metadata: Metadata, state: State) -> dict[str, Any]:
    classes = state.get("classification_layer.bias")
    uses_classes = flag(metadata, "USE_CLASSIFICATION", False) and flag(metadata, "USE_LOCAL", False)
    return {
        "dim": state["layer2.0.bias"].shape[0],
        "n_heads": flag(metadata, "HEAD", 8),
        "relate": "videos" if "1shot" in head_name(metadata) else "prototypes",
        "position": present_pair(metadata, "POSITION_A", "POSITION_B") or DEFAULT_POSITION,
        "n_classes": None if classes is None else classes.shape[0],
        "class_weight": train_flags(metadata).get("USE_CLASSIFICATION_VALUE", 0.0) if uses_classes else 0.0,
    }


def _hyrsm_pp(metadata: Metadata, state: State) -> dict[str, Any]:
    options = _hyrsm(metadata, state)
    without = "NO_POSITION" in train_flags(metadata) and not present_pair(metadata, "POSITION_A", "POSITION_B")
    return options | {
        "position": None if without else options["position"],
        "temporal_weight": flag(metadata, "TEMPORAL_LOSS_WEIGHT", 0.0),
        "window": train_flags(metadata)["WINDOW_SIZE"],
        "balance": train_flags(metadata)["TEMPORAL_BALANCE"],
        "far_weight": flag(metadata, "BALANCE_COEFFICIENT", 1.0),
        "confidence": flag(metadata, "SEMI_THRESHOLD", 0.0),
        "temperature": flag(metadata, "SEMI_TEMPORAL", 1.0),
        "compat": "official",
    }


def _molo(metadata: Metadata, state: State) -> dict[str, Any]:
    classes = state.get("classification_layer.bias")
    contrastive = flag(metadata, "USE_CONTRASTIVE", False)
    return {
        "dim": state["class_token"].shape[-1],
        "n_heads": flag(metadata, "HEAD", 8),
        "hidden": state["temporal_atte_before.layers.0.1.net.0.bias"].shape[0],
        "position": present_pair(metadata, "POSITION_A", "POSITION_B") or DEFAULT_POSITION,
        "single_direction": bool(flag(metadata, "SINGLE_DIRECT", False)),
        "motion_weight": flag(metadata, "LOGIT_BALANCE_COFF", 0.3),
        "contrast_weight": flag(metadata, "USE_CONTRASTIVE_COFF", 0.05) if contrastive else 0.0,
        "motion_contrast": bool(flag(metadata, "USE_MOTION", False)),
        "temperature": flag(metadata, "TEMP_COFF", None),
        "n_classes": None if classes is None else classes.shape[0],
        "class_weight": flag(metadata, "USE_CLASSIFICATION_VALUE", 0.0),
        # The official training loop divides every loss but this one.
        "reconstruction_weight": DIVISOR * flag(metadata, "RECONS_COFF", 0.0)
        if flag(metadata, "USE_RECONS", False)
        else 0.0,
    }


_HYRSM_RENAMES = ((r"layer2\.0\.", "layer2."), *TRANSFORMER_RENAMES, (r"_before\.fn\.", "_before."))
_MOLO_RENAMES = (
    *TRANSFORMER_RENAMES,
    (r"up(\d)\.conv\.double_conv\.0\.", r"decoder.up\1.conv."),
    (r"up(\d)\.conv\.double_conv\.1\.", r"decoder.up\1.norm."),
    (r"outc\.conv\.", "decoder.out."),
)
_TABLES = (r"pe\.pe",)

_HYRSM_GUESSED = ("VIDEO.HEAD.NAME", "HEAD", "POSITION_A", "POSITION_B")

register_official(
    "hyrsm",
    OfficialFormat(
        "hyrsm", _hyrsm, renames=_HYRSM_RENAMES, leftovers=_TABLES, guessed=_HYRSM_GUESSED, encode=RESNET_FRAMES
    ),
)
register_official(
    "hyrsm_pp",
    OfficialFormat(
        "hyrsm++",
        _hyrsm_pp,
        renames=_HYRSM_RENAMES,
        leftovers=_TABLES,
        encode=RESNET_FRAMES,
        guessed=(*_HYRSM_GUESSED, "NO_POSITION", "SEMI_THRESHOLD", "SEMI_TEMPORAL"),
    ),
)
register_official(
    "molo",
    OfficialFormat(
        "molo",
        _molo,
        renames=_MOLO_RENAMES,
        leftovers=_TABLES,
        optional=(r"decoder\..*",),
        encode=RESNET_FRAMES,
        guessed=("HEAD", "POSITION_A", "POSITION_B", "SINGLE_DIRECT", "LOGIT_BALANCE_COFF"),
    ),
)
