"""PAL: prototypes that have seen each other, and queries that have seen the prototypes' videos."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.functional import class_means, membership, offset_cosine
from fsar.heads.layers.option_checks import check_choice

CONTRAST_OFFSET = 0.1


@register_head("pal")
class PAL(TableHead):
    """Prototype-centred attentive learning.

    Zhu et al., "Few-shot Action Recognition with Prototype-centered Attentive Learning", BMVC 2021,
    https://arxiv.org/abs/2101.08085. Supports (mean frames) attend to each other, then queries to the updated supports,
    with the same attention; a query is scored by its cosine to the means of the updated supports. Training adds a loss
    that asks of each prototype that its own queries be the closest ones.

    What attention returns is maps of single videos, mixed by weights that sum to one. So the output map, and the second
    round's maps of what the first found, are done video by video (`embed`); an episode mixes them (`match`).

    The paper's authors published no code; this is the re-implementation by TRX's author. One difference: the second
    loss passes over classes without a query, for which the original is infinite (`compat="official"` gives that back).
    """

    paper = (
        "Zhu et al., Few-shot Action Recognition with Prototype-centered Attentive Learning, BMVC 2021, "
        "https://arxiv.org/abs/2101.08085"
    )

    def __init__(
        self, *, dim: int, contrast_weight: float = 1.0, compat: Literal["fixed", "official"] = "fixed"
    ) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            contrast_weight: Of the prototype-centred loss.
            compat: "official" makes that loss infinite where a class has no query.
        """
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, 1, batch_first=True)
        self.contrast_weight = contrast_weight
        self.skip_empty = check_choice("compat", compat, ("fixed", "official")) == "fixed"

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return of each video its mean frame, "video", and the maps of it that episodes mix, (..., D) each."""
        video = features["frames"].mean(-2)
        return {"video": video, **self._maps(video, video)}

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Embed, then match; nobody looks for anything in queries."""
        support, query = (part["frames"].mean(2) for part in (batch.support, batch.query))
        maps = self._maps(support, torch.cat((support, query), 1))
        of_support, of_query = maps.pop("ask").tensor_split([support.shape[1]], 1)
        found = {"video": support, "ask": of_support, **maps}
        return self.match(batch.embedded(found, {"video": query, "ask": of_query}))

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) in [-1, 1], "prototypes" (B, N, D) and the attended "queries" (B, Q, D)."""
        support, query = episodes.support, episodes.query
        weights = _attention(support["ask"], support["key"])  # (B, S, S)
        videos = support["video"] + weights @ support["value"]
        keys = support["key"] + weights @ support["value_key"]
        values = support["value"] + weights @ support["value_value"]
        queries = query["video"] + _attention(query["ask"], keys) @ values
        prototypes = class_means(videos, episodes.support_labels, episodes.n_way)
        return {"logits": offset_cosine(queries, prototypes), "prototypes": prototypes, "queries": queries}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification" (mean over queries), "contrast" (mean over prototypes) and their weighted "total"."""
        classification = cross_entropy(outputs["logits"], targets.query_labels)
        contrast = prototype_contrast(outputs["logits"], targets.query_labels, skip_empty=self.skip_empty)
        total = classification + self.contrast_weight * contrast
        return {"classification": classification, "contrast": contrast, "total": total}

    def _maps(self, video: Tensor, asking: Tensor) -> Features:
        """Return the attention's maps of videos (..., D): as "key" and "value", this one behind the output map.

        Also what the value adds to a key and a value in the second round, and "ask", the scaled queries of `asking`.
        Each weight meets as many videos at once as can be: its gradient takes the time of a training step.
        """
        to_ask, to_key, to_value = self.mha.in_proj_weight.chunk(3)
        ask_bias, key_bias, value_bias = self.mha.in_proj_bias.chunk(3)
        value = self.mha.out_proj(F.linear(video, to_value, value_bias))
        key, value_key = F.linear(torch.stack((video, value)), to_key).unbind()
        return {
            "ask": F.linear(asking, to_ask, ask_bias) / math.sqrt(video.shape[-1]),
            "key": key + key_bias,
            "value": value,
            "value_key": value_key,
            "value_value": F.linear(F.linear(value, to_value), self.mha.out_proj.weight),
        }


def _attention(ask: Tensor, key: Tensor) -> Tensor:
    return (ask @ key.transpose(-1, -2)).softmax(-1)


def prototype_contrast(logits: Tensor, labels: Tensor, *, skip_empty: bool = True) -> Tensor:
    """Return the mean over prototypes of -ln(share of the class's own queries in the sum of sigmoids), a scalar.

    logits (B, Q, N), labels (B, Q). With `skip_empty`, classes that no query belongs to are passed over.
    """
    closeness = logits.sigmoid()
    own = membership(labels, logits.shape[-1]).to(closeness.dtype)  # (B, Q, N)
    share = (closeness * own).sum(1) / (closeness.sum(1) + CONTRAST_OFFSET)  # (B, N)
    if not skip_empty:
        return -share.log().mean()
    present = own.sum(1) > 0
    # The unused branch of `where` must be finite too, or its gradient is NaN.
    logs = torch.where(present, share, 1.0).log()
    return -(logs.sum(1) / present.sum(1)).mean()
