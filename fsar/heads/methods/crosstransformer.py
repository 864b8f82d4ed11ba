"""CrossTransformers on frames."""

from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.explain.evidence import Explanation, TupleMatch, frame_tuples, within_classes
from fsar.heads.head import Outputs, TableHead, register_head
from fsar.heads.layers.functional import group_by_class, membership, take_videos
from fsar.heads.layers.option_checks import check_choice, check_positive

OFFICIAL_FRAMES = 8


@register_head("crosstransformer")
class CrossTransformer(TableHead):
    """Compare each query frame with a prototype that it attends to among all frames of a class.

    Doersch et al., "CrossTransformers: spatially-aware few-shot transfer", NeurIPS 2020,
    https://arxiv.org/abs/2007.11498, in the video form that comes with the CLIP-FSAR code: frames take the place of
    spatial cells, one projection makes queries and keys, and values are compared by cosine.

    Two differences: any number of supports per class (officially equal ones), and the sum over frames is divided by the
    number of frames (officially by 8 whatever it is; `compat="official"` gives that back).
    """

    embeds_in_one_go = True
    paper = (
        "Doersch et al., CrossTransformers: spatially-aware few-shot transfer, NeurIPS 2020, "
        "https://arxiv.org/abs/2007.11498"
    )

    old_options = MappingProxyType({"hidden": "out_dim"})

    def __init__(self, *, dim: int, out_dim: int = 1024, compat: Literal["fixed", "official"] = "fixed") -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            out_dim: Width of keys and values.
            compat: "official" divides the sum over frames by 8 whatever their number.
        """
        super().__init__()
        check_choice("compat", compat, ("fixed", "official"))
        check_positive("out_dim", out_dim)
        self.key_head = nn.Linear(dim, out_dim, bias=False)
        self.value_head = nn.Linear(dim, out_dim, bias=False)
        self.divisor = OFFICIAL_FRAMES if compat == "official" else None

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return "keys" and "values" (..., T, E)."""
        return {"keys": self.key_head(features["frames"]), "values": self.value_head(features["frames"])}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N)."""
        support, query = episodes.support, episodes.query
        n_way = episodes.n_way
        index, mask = group_by_class(episodes.support_labels, n_way, episodes.n_shot)
        keys, values = (
            take_videos(support[name], index).flatten(2, 3) for name in ("keys", "values")
        )  # (B, N, K*T, d)
        n_query, n_frames = query["keys"].shape[1:3]
        asking = query["keys"].flatten(1, 2).unsqueeze(1).expand(-1, n_way, -1, -1)  # (B, N, Q*T, d)
        real = mask.repeat_interleave(n_frames, dim=2).unsqueeze(2)  # (B, N, 1, K*T)
        prototypes = F.scaled_dot_product_attention(asking, keys, values, attn_mask=real)  # (B, N, Q*T, d)
        cosine = F.cosine_similarity(prototypes, query["values"].flatten(1, 2).unsqueeze(1), dim=-1)
        total = cosine.view(len(mask), n_way, n_query, n_frames).sum(-1).transpose(1, 2)
        return {"logits": total / (self.divisor or n_frames)}

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return for each query frame its cosine to each class's prototype, and the support frames it attends to."""
        support, query, labels = self.embed(batch.support), self.embed(batch.query), batch.support_labels
        n_frames, width = query["keys"].shape[2:]
        scores = torch.einsum("bqtd,bsud->bqtsu", query["keys"], support["keys"]) * width**-0.5
        attention = within_classes(scores, labels, batch.n_way)
        of_support = torch.einsum("bqtsu,bsud->bqtsd", attention, support["values"])
        member = membership(labels, batch.n_way).to(of_support.dtype)
        prototypes = torch.einsum("bqtsd,bsn->bqntd", of_support, member)
        cosine = F.cosine_similarity(prototypes, query["values"].unsqueeze(2), dim=-1)
        parts = cosine / (self.divisor or n_frames)  # (B, Q, N, T)
        match = TupleMatch(
            name="frame attention",
            score=parts.sum(-1),
            parts=parts,
            attention=attention,
            tuples=frame_tuples(n_frames, 1),
            n_frames=n_frames,
            labels=labels,
        )
        return Explanation(self(batch), (match,))
