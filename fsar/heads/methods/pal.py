"""PAL: prototypes that have seen each other, and queries that have seen the prototypes' videos."""

from typing import Literal

import torch
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Targets
from fsar.heads.head import Head, Losses, Outputs, cross_entropy, register_head
from fsar.heads.layers.functional import class_means, membership, offset_cosine
from fsar.heads.layers.option_checks import check_choice

CONTRAST_OFFSET = 0.1


@register_head("pal")
class PAL(Head):
    """Prototype-centred attentive learning.

    Zhu et al., "Few-shot Action Recognition with Prototype-centered Attentive Learning", BMVC 2021,
    https://arxiv.org/abs/2101.08085. Supports (mean frames) attend to each other, then queries to the updated supports,
    with the same attention; a query is scored by its cosine to the means of the updated supports. Training adds a loss
    that asks of each prototype that its own queries be the closest ones.

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

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) in [-1, 1], "prototypes" (B, N, D) and the attended "queries" (B, Q, D)."""
        support, query = (part["frames"].mean(2) for part in (batch.support, batch.query))
        support = support + self._attend(support, support)
        query = query + self._attend(query, support)
        prototypes = class_means(support, batch.support_labels, batch.n_way)
        return {"logits": offset_cosine(query, prototypes), "prototypes": prototypes, "queries": query}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification" (mean over queries), "contrast" (mean over prototypes) and their weighted "total"."""
        classification = cross_entropy(outputs["logits"], targets.query_labels)
        contrast = prototype_contrast(outputs["logits"], targets.query_labels, skip_empty=self.skip_empty)
        total = classification + self.contrast_weight * contrast
        return {"classification": classification, "contrast": contrast, "total": total}

    def _attend(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.mha(x, memory, memory, need_weights=False)[0]


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
