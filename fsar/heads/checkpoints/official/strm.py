"""Official form of STRM (github.com/Anirudh257/strm): `model_state_dict` of a checkpoint, or the bare state dict."""

from typing import Any

from fsar.heads.checkpoints.official.formats import TRX_FRAMES, Metadata, OfficialFormat, State, register_official

SIMILARITY = r"new_dist_loss_post_pat\."


def _options(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read the options off the tensors.

    No released checkpoint holds the layer of the similarity stream, which was never registered: then the head keeps a
    fixed random one, as the released code does. Weights that do hold it get a head that trains it.
    """
    dim = state["attn_pat.query_proj.weight"].shape[0]
    keys = sorted(name for name in state if name.startswith("transformers.") and name.endswith("k_linear.weight"))
    has_similarity = any(name.startswith("new_dist_loss_post_pat.") for name in state)
    return {
        "dim": dim,
        "n_frames": state["fr_enrich.Tok_MLP.inp_fc.weight"].shape[0],
        "temp_set": tuple(state[name].shape[1] // dim for name in keys),
        "out_dim": state[keys[0]].shape[0],
        "compat": "fixed" if has_similarity else "official",
    }


register_official(
    "strm",
    OfficialFormat(
        head="strm",
        options=_options,
        renames=(
            (r"^attn_pat\.Bot_MLP\.", "patch_enrichment.mlp."),
            (r"^attn_pat\.", "patch_enrichment."),
            (r"^fr_enrich\.Tok_MLP\.inp_fc", "frame_enrichment.time_in"),
            (r"^fr_enrich\.Tok_MLP\.out_fc", "frame_enrichment.time_out"),
            (r"^fr_enrich\.Bot_MLP\.inp_fc", "frame_enrichment.channel_in"),
            (r"^fr_enrich\.Bot_MLP\.out_fc", "frame_enrichment.channel_out"),
            (SIMILARITY + r"(\d+)\.clsW", r"similarities.\1.linear"),
        ),
        # Position codes are computed; norm_v is unused; biases of values (of TRX) and keys (of patches) cancel.
        leftovers=(
            r".*\.pe\.pe",
            r"transformers\.\d+\.norm_v\..*",
            r"transformers\.\d+\.v_linear\.bias",
            r"transformers\.\d+\.tuples\..*",
            r"attn_pat\.key_proj\.bias",
        ),
        encode=TRX_FRAMES,
        unsaved=(r"similarities\..*",),
    ),
)
