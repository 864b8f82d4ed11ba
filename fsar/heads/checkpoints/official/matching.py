"""Official forms of TEAM, Chamfer++ and its family, CMN as re-implemented, and the unofficial TARN."""

import re
from typing import Any

from fsar.heads.checkpoints.official.formats import Metadata, OfficialFormat, State, register_official

TEAM_VARIANTS = {
    "TEAM": {},
    "TEAM_disc_without_sim": {"adapt": "plain"},
    "TEAM_pos_neg": {"adapt": "none"},
    "TEAM_neg_with_pos_loss": {"adapt": "none", "score": "negative"},
    "TEAM_pos": {"adapt": "none", "score": "positive"},
}
TARN_COMPARISONS = {"EucCos": "euclidean-cosine", "Mult": "product", "Subt": "difference"}


def _team(metadata: Metadata, state: State) -> dict[str, Any]:
    n_tokens, dim = state["DPM.AP"].shape[-2:]
    return {"dim": dim, "n_tokens": n_tokens, **TEAM_VARIANTS[metadata.get("variant", "TEAM")]}


def _chamfer(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read what the tensors show; matching, joint and temperatures are command-line settings of the official code."""
    settings = metadata.get("options", metadata)
    tuples = state.get("clip_tuples.0")
    length = len(tuples) if tuples is not None else settings.get("clip_tuple_length", 1)
    weight, linear = state.get("fc.weight"), state.get("matching_function.linear.weight")
    return {
        "dim": weight.shape[1] // length if weight is not None else 1,
        "n_frames": round(linear.shape[1] ** 0.5) if linear is not None else 8,
        "matching": settings.get("matching_function", "chamfer"),
        "joint": settings.get("video_to_class_matching", "separate") == "joint",
        "tuple_length": length,
        "project": weight is not None,
        "out_dim": weight.shape[0] if weight is not None else 1,
        "visil": any(name.startswith("visil_fcn.") for name in state),
        "learn_temperature": "weight" if settings.get("matching_global_temperature_fixed", True) else "both",
        "compat": "official",
    }


def _published_chamfer(name: str) -> dict[str, Any]:
    """Return the settings that a published name tells, such as "ssv2_chamfer++_5way_1shots_seed1.pt".

    Whether supports are joined it says for Chamfer++ alone, and of ViSiL not even the function: those stay assumed.
    """
    found = re.match(r"[a-z0-9]+_(mean|max|diag|linear|otam|chamfer\+\+)_\d+way_", name)
    if found is None:
        return {}
    if found[1] == "chamfer++":
        return {"matching_function": "chamfer", "video_to_class_matching": "joint", "clip_tuple_length": 3}
    return {"matching_function": found[1]}


def _cmn(metadata: Metadata, state: State) -> dict[str, Any]:
    n_hidden, dim = state["h"].shape
    return {"dim": dim, "n_hidden": n_hidden, "compat": "official"}


def _tarn(metadata: Metadata, state: State) -> dict[str, Any]:
    settings = metadata.get("options", metadata)
    gates, dim = state["feats_gru.weight_ih_l0"].shape
    return {
        "dim": dim,
        "hidden": gates // 3,
        "judge_hidden": state["dml_fc.weight"].shape[1],
        "compare": TARN_COMPARISONS[settings.get("sim_type", "EucCos")],
    }


register_official(
    "team",
    OfficialFormat(
        "team",
        _team,
        renames=(
            (r"^DPM\.AP$", "tokens"),
            (r"^DPM\.ln\.", "norm."),
            (r"^DPM\.mlp\.inp_fc\.", "inner."),
            (r"^DPM\.mlp\.out_fc\.", "outer."),
        ),
        leftovers=(r"DPM\.pe\.pe",),  # a table, computed
        guessed=("variant",),
    ),
)
register_official(
    "chamfer",
    OfficialFormat(
        "chamfer",
        _chamfer,
        renames=(
            (r"^global_temperature$", "temperature"),
            (r"^matching_function\.linear\.", "linear."),
            (r"^visil_fcn\.", "visil."),
        ),
        leftovers=(r"clip_tuples\.\d+",),  # indices, computed
        guessed=("matching_function", "video_to_class_matching", "clip_tuple_length"),
        settings_of_name=_published_chamfer,
    ),
)
register_official("cmn", OfficialFormat("cmn", _cmn, renames=((r"^h$", "hidden"),)))
register_official(
    "tarn",
    OfficialFormat(
        "tarn",
        _tarn,
        renames=(
            (r"^feats_gru\.", "segments."),
            (r"^W\.weight$", "attention.weight"),
            (r"^bias$", "attention.bias"),
            (r"^dml_gru\.", "judge."),
            (r"^dml_fc\.", "fc."),
        ),
        guessed=("sim_type",),
    ),
)
