"""Official forms of OTAM, TSN, TRX, PAL and CrossTransformer, in the code bases that publish them."""

from typing import Any

from fsar.heads.checkpoints.official.formats import (
    RESNET_FRAMES,
    TRX_FRAMES,
    Metadata,
    OfficialFormat,
    State,
    register_official,
)


def _nothing(metadata: Metadata, state: State) -> dict[str, Any]:
    return {}


def _tsn(metadata: Metadata, state: State) -> dict[str, Any]:
    return {"metric": "euclidean" if metadata.get("norm_sq_dist") else "cosine"}


def _trx(metadata: Metadata, state: State) -> dict[str, Any]:
    """Read widths and tuple sizes off the tensors; only the original repository sums the loss over queries.

    The later code bases, which average it, also save the indices of the tuples.
    """
    weights = [tensor for name, tensor in sorted(state.items()) if name.endswith(".k_linear.weight")]
    dim = state["transformers.0.pe.pe"].shape[-1]
    return {
        "dim": dim,
        "temp_set": [weight.shape[1] // dim for weight in weights],
        "out_dim": weights[0].shape[0],
        "reduction": "mean" if any(".tuples." in name for name in state) else "sum",
    }


def _pal(metadata: Metadata, state: State) -> dict[str, Any]:
    return {"dim": state["mha.out_proj.weight"].shape[0], "compat": "official"}


def _crosstransformer(metadata: Metadata, state: State) -> dict[str, Any]:
    hidden, dim = state["key_head.weight"].shape[:2]
    return {"dim": dim, "out_dim": hidden, "compat": "official"}


_TRX_LEFTOVERS = (
    r".*\.pe\.pe",  # a table, computed
    r".*\.norm_v\..*",  # never used
    r".*\.tuples\..*",  # indices, computed
    r".*\.v_linear\.bias",  # cancels
)

register_official("otam", OfficialFormat("otam", _nothing, encode=RESNET_FRAMES))
register_official("otam_perrett", OfficialFormat("otam", _nothing, encode=TRX_FRAMES))
register_official("tsn", OfficialFormat("tsn", _nothing, encode=RESNET_FRAMES))
register_official("tsn_perrett", OfficialFormat("tsn", _tsn, encode=TRX_FRAMES))
register_official("trx", OfficialFormat("trx", _trx, leftovers=_TRX_LEFTOVERS, encode=TRX_FRAMES))
register_official("trx_clipfsar", OfficialFormat("trx", _trx, leftovers=_TRX_LEFTOVERS, encode=RESNET_FRAMES))
register_official("pal_perrett", OfficialFormat("pal", _pal, encode=TRX_FRAMES))
register_official(
    "crosstransformer",
    # Queries are made by the key projection; the checkpoint holds it under both names.
    OfficialFormat("crosstransformer", _crosstransformer, leftovers=(r"query_head\.weight",), encode=RESNET_FRAMES),
)
