"""Sets of frames compared both ways, with nothing learned but a class loss: the head of D2ST-Adapter."""

import torch
from torch import Tensor, nn

from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation
from fsar.heads.explain.sensitivity import align
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.functional import class_means, frame_distances, hausdorff

TINY = 1e-12
"""Keeps frames of zeros from dividing by zero."""


@register_head("bi-mhm")
class BiMHM(TableHead):
    """Each frame of a query with its nearest of the class's mean video, and the other way round.

    The bidirectional mean Hausdorff metric of Wang et al., "Hybrid Relation Guided Set Matching for Few-shot Action
    Recognition", CVPR 2022, https://arxiv.org/abs/2204.13423, without the relation in front of it: what Pei, Tan, Lu,
    Tian, "D2ST-Adapter", ICCV 2025, https://arxiv.org/abs/2312.01431, put behind an adapted backbone. Supports of a
    class are averaged frame by frame; distances are 1 - cosine, and sums as released. It sees no order of frames but
    what the backbone has put into them.
    """

    paper = (
        "Pei et al., D2ST-Adapter: Disentangled-and-Deformable Spatio-Temporal Adapter for Few-shot Action "
        "Recognition, ICCV 2025, https://arxiv.org/abs/2312.01431"
    )

    def __init__(self, *, dim: int | None = None, n_classes: int | None = None, class_weight: float = 0.0) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features; only the class loss needs it.
            n_classes: Number of training classes.
            class_weight: Of the class loss on mean frames (published: 0.5 to 2.5, by data set); 0 for none.
        """
        super().__init__()
        self.class_weight = class_weight
        has_classes = bool(class_weight) and dim is not None and n_classes is not None
        self.classification_layer = nn.Linear(dim or 0, n_classes or 0) if has_classes else None

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and, with a class loss, "class_logits" (B, S+Q, C), supports first."""
        outputs = super().outputs(batch)
        if self.classification_layer is None:
            return outputs
        frames = torch.cat((batch.support["frames"], batch.query["frames"]), 1)
        return {**outputs, "class_logits": self.classification_layer(frames.mean(-2))}

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the frames themselves, "frames" (..., T, D)."""
        return {"frames": features["frames"]}

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return logits (B, Q, N)."""
        return {"logits": -hausdorff(self._distances(episodes.support, episodes.query, episodes))}

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return "classification", the "classes" loss if the head has it, and "total"."""
        classification = cross_entropy(outputs["logits"], targets.query_labels)
        if self.classification_layer is None:
            return {"classification": classification, "total": classification}
        assert targets.support_class_ids is not None
        assert targets.query_class_ids is not None
        ids = torch.cat((targets.support_class_ids, targets.query_class_ids), 1)
        classes = cross_entropy(outputs["class_logits"], ids)
        return {
            "classification": classification,
            "classes": classes,
            "total": classification + self.class_weight * classes,
        }

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return which pairs of a query's and a class's frames are nearest."""
        distance = self._distances(batch.support, batch.query, batch)
        labels = torch.arange(batch.n_way, device=distance.device).expand(len(distance), -1)
        paths = align("nearest frames", distance, labels, batch.n_way, hausdorff, exact=True)
        return Explanation(self(batch), (paths,))

    def _distances(self, support: Features, query: Features, episodes: EpisodeBatch) -> Tensor:
        """Return 1 - cosine of every query frame to every frame of the classes' mean videos, (B, Q, N, T, T)."""
        prototypes = class_means(support["frames"], episodes.support_labels, episodes.n_way)
        return frame_distances(query["frames"], prototypes, offset=TINY)
