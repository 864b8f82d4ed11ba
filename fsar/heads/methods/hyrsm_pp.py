"""HyRSM++: HyRSM with a regulariser over time, and a form that learns from unlabelled videos of the episode."""

from typing import Literal

import torch
from torch import Tensor

from fsar.heads.batch import EpisodeBatch, Targets
from fsar.heads.explain.evidence import prototype_labels
from fsar.heads.head import Losses, Outputs, register_head
from fsar.heads.layers.functional import class_scores, hausdorff, membership
from fsar.heads.layers.option_checks import check_choice
from fsar.heads.methods.hyrsm import HyRSM, Relation, inverse_norm


@register_head("hyrsm++")
class HyRSMPlusPlus(HyRSM):
    """Hybrid relation guided temporal set matching.

    Wang et al., "HyRSM++: Hybrid Relation Guided Temporal Set Matching for Few-shot Action Recognition", 2023,
    https://arxiv.org/abs/2301.03330. A regulariser asks that frames near in time be alike and frames far apart differ,
    by a margin that grows with the distance in time, so that set matching keeps the order of frames. Videos without
    labels, if the batch has any, join the prototype of the class that they surely belong to.

    The official test for "any confident video?" overlooks the case that only the first one is; here it counts
    (`compat="official"` gives the oversight back).
    """

    paper = (
        "Wang et al., HyRSM++: Hybrid Relation Guided Temporal Set Matching for Few-shot Action Recognition, 2023, "
        "https://arxiv.org/abs/2301.03330"
    )

    reads_unlabelled = True

    def __init__(
        self,
        *,
        dim: int,
        n_heads: int = 8,
        relate: Literal["prototypes", "videos"] = "prototypes",
        position: tuple[float, float] | None = (10.0, 1.0),
        dropout: float = 0.1,
        n_classes: int | None = None,
        class_weight: float = 0.6,
        temporal_weight: float = 0.3,
        window: int = 1,
        balance: float = 51.0,
        far_weight: float = 10.0,
        confidence: float = 0.6,
        temperature: float = 1.0,
        compat: Literal["fixed", "official"] = "fixed",
    ) -> None:
        """Build the head; the first seven options are those of `HyRSM`, defaults are the published ones on SSv2-Full.

        Args:
            dim: Width D of the frame features.
            n_heads: Of both attentions.
            relate: What stands for a class in the relation.
            position: (A, B) of the position code.
            dropout: Of the frames with their position code.
            n_classes: Number of training classes; None for no class loss.
            class_weight: Of the class loss per frame.
            temporal_weight: Of the regulariser (published: 0.1 to 0.3).
            window: Frames at most this far apart are near (published: 1 or 3).
            balance: How slowly the margin of far frames grows to 1 (published: 23 or 51).
            far_weight: Of far frames against near ones (published: 10 or 20).
            confidence: Least probability with which an unlabelled video joins a class.
            temperature: Of that probability.
            compat: "official" ignores unlabelled videos when only the first one is confident.
        """
        super().__init__(
            dim=dim,
            n_heads=n_heads,
            relate=relate,
            position=position,
            dropout=dropout,
            n_classes=n_classes,
            class_weight=class_weight,
        )
        self.temporal_weight = temporal_weight
        self.window, self.balance, self.far_weight = window, balance, far_weight
        self.confidence, self.temperature = confidence, temperature
        self.overlook_first = check_choice("compat", compat, ("fixed", "official")) == "official"

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N), the scalar "temporal" regulariser and, with a class loss, "class_logits"."""
        support, query = self.encode_episode(batch)
        relation, labels = self.relate(batch, support, query)
        logits = -class_scores(hausdorff(relation.distances()), labels, batch.n_way)
        return {"logits": logits, "temporal": self.regulariser(relation)} | self.class_outputs(support, query)

    def relate(self, batch: EpisodeBatch, support: Tensor, query: Tensor) -> tuple[Relation, Tensor]:
        """Return what `HyRSM.relate` does; unlabelled videos join the means of the classes they surely belong to."""
        if batch.unlabelled is None:
            return super().relate(batch, support, query)
        shares = membership(batch.support_labels, batch.n_way).to(support.dtype)  # (B, S, N)
        extra = self.encode(batch.unlabelled["frames"])
        shares = torch.cat((shares, self.confident(weighted_means(support, shares), extra)), 1)
        prototypes = weighted_means(torch.cat((support, extra), 1), shares)
        return self.relation(prototypes, query), prototype_labels(prototypes, batch.n_way)

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the losses of `HyRSM` with the "temporal" one."""
        losses = super().loss(batch, outputs, targets)
        temporal = outputs["temporal"]
        return losses | {"temporal": temporal, "total": losses["total"] + self.temporal_weight * temporal}

    @torch.no_grad()
    def confident(self, prototypes: Tensor, extra: Tensor) -> Tensor:
        """Return the class memberships (B, X, N), 0 or 1, of encoded unlabelled videos (B, X, T, D)."""
        logits = -hausdorff(self.relation(prototypes, extra).distances())
        best, label = (logits / self.temperature).softmax(-1).max(-1)  # (B, X)
        chosen = best >= self.confidence
        if self.overlook_first:
            chosen = chosen & chosen[:, 1:].any(1, keepdim=True)
        return membership(label, logits.shape[-1]).to(extra.dtype) * chosen.unsqueeze(-1)

    def regulariser(self, relation: Relation) -> Tensor:
        """Return the mean penalty over pairs of frames of the supports plus that of the queries, a scalar."""
        return self._penalty(relation.support_gram()) + self._penalty(relation.query_gram())

    def _penalty(self, gram: Tensor) -> Tensor:
        scale = inverse_norm(gram.diagonal(dim1=-2, dim2=-1))
        distance = 1 - gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)
        place = torch.arange(gram.shape[-1], device=gram.device, dtype=gram.dtype)
        apart = (place.unsqueeze(0) - place.unsqueeze(1)).abs()
        near = distance / (apart.square() + 1)
        margin = 1 - torch.exp(-(apart - self.window).square() / self.balance)
        far = self.far_weight * (margin - distance).relu()
        return torch.where(apart <= self.window, near, far).mean()


def weighted_means(x: Tensor, membership: Tensor) -> Tensor:
    """Return the class means (B, N, T, D) of videos (B, S, T, D) that belong to classes by `membership` (B, S, N)."""
    weights = membership / membership.sum(1, keepdim=True)
    return torch.einsum("bsn,bstd->bntd", weights, x)
