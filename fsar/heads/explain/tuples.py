"""The evidence of heads that match tuples of frames by cross-attention."""

import torch
from torch import Tensor

from fsar.heads.batch import Features
from fsar.heads.explain.evidence import TupleMatch, frame_tuples, within_classes
from fsar.heads.layers.functional import membership
from fsar.heads.layers.tuple_attention import TupleAttention, slots_of


def explain_tuples(
    attention: TupleAttention, support: Features, query: Features, labels: Tensor, n_way: int, weight: float
) -> TupleMatch:
    """Return what `attention.match` gives, tuple by tuple, from tables of supports (B, S, ...) with labels (B, S).

    Tuples are built here, one by one, which it avoids: to be read, not to be fast.
    """
    n_slots, dim = query["keys"].shape[2:]
    n_tuples = query["rates"].shape[2]
    slots = slots_of(n_tuples, n_slots, attention.size, query["keys"])
    asked, keys = (
        table["rates"].unsqueeze(-1) * (slots @ table["keys"]) + attention.norm_k.bias.float()
        for table in (query, support)
    )  # (B, V, G, d)
    scores = torch.einsum("bqpd,bsud->bqpsu", asked, keys) * dim**-0.5
    shares = within_classes(scores, labels, n_way)
    of_support = torch.einsum("bqpsu,bsud->bqpsd", shares, slots @ support["values"])
    member = membership(labels, n_way).to(of_support.dtype)
    prototypes = torch.einsum("bqpsd,bsn->bqnpd", of_support, member)
    own = (slots @ query["values"]).unsqueeze(2)
    n_frames = n_slots // attention.size + attention.size - 1
    parts = -(own - prototypes).square().sum(-1) / n_tuples  # (B, Q, N, G)
    return TupleMatch(
        name=f"tuples of {attention.size} frames",
        score=parts.sum(-1),
        weight=weight,
        parts=parts,
        attention=shares,
        tuples=frame_tuples(n_frames, attention.size),
        n_frames=n_frames,
        labels=labels,
    )
