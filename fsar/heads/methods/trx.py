"""TRX: a query is compared with tuples of frames of all the videos of a class at once."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation
from fsar.heads.explain.tuples import explain_tuples
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.functional import group_by_class, take_videos
from fsar.heads.layers.option_checks import check_choice, check_positive
from fsar.heads.layers.tuple_attention import TupleAttention, key_width, sub_tables


@register_head("trx")
class TRX(TableHead):
    """Temporal-relational cross-transformers (Perrett et al., CVPR 2021, https://arxiv.org/abs/2101.06184).

    Every ordered pair (triple, ...) of a query's frames attends over all such tuples of all the videos of a class,
    which makes it a prototype of its own; the class score is minus the mean squared distance between tuples and
    prototypes, averaged over tuple sizes. Matching sub-sequences instead of whole videos allows for actions at
    different speeds and times.

    Same numbers as the official code, with these differences: it works for any number of frames (officially fixed when
    the head is built; longer videos silently lost frames); labels must be complete (officially a class without support
    kept the score 0, the best possible one); the unused `norm_v` and the bias of the values, which cancels, are gone.
    """

    paper = (
        "Perrett et al., Temporal-Relational CrossTransformers for Few-Shot Action Recognition, CVPR 2021, "
        "https://arxiv.org/abs/2101.06184"
    )

    def __init__(
        self,
        *,
        dim: int,
        temp_set: Sequence[int] = (2, 3),
        out_dim: int | None = None,
        dropout: float = 0.1,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        """Build the head.

        Args:
            dim: Width D of the frame features.
            temp_set: Tuple sizes (cardinalities).
            out_dim: Width d of keys and values; None for the published 1152, or 3 D where features are narrower.
            dropout: Of frame features with their position code, drawn for each tuple size separately.
            reduction: Of the cross entropy over queries. The official code sums (so its learning rate counts per
                query); re-implementations in other repositories average.
        """
        super().__init__()
        if not temp_set or min(temp_set) < 1 or len(set(temp_set)) < len(temp_set):
            raise InputError(f"temp_set must be different tuple sizes of 1 or more, got {list(temp_set)}")
        if dim % 2:
            raise InputError(f"dim must be even for the position code, got {dim}")
        check_choice("reduction", reduction, ("sum", "mean"))
        self.reduction: Literal["sum", "mean"] = reduction
        out_dim = key_width(dim) if out_dim is None else check_positive("out_dim", out_dim)
        self.transformers = nn.ModuleList(
            TupleAttention(dim, size=size, out_dim=out_dim, dropout=dropout) for size in temp_set
        )

    def embed(self, features: Features, class_text: Tensor | None = None) -> Features:
        """Return the slot-vector tables of each tuple size, "0.keys" (..., L, d) and so on."""
        return {
            f"{index}.{name}": table
            for index, transformer in enumerate(self._transformers())
            for name, table in transformer.embed(features["frames"]).items()
        }

    def outputs(self, batch: EpisodeBatch) -> Outputs:
        """Embed supports and queries in one go, so that large weights get one gradient, not two to add; then match."""
        n_support = batch.support_labels.shape[1]
        tables = self.embed({"frames": torch.cat((batch.support["frames"], batch.query["frames"]), 1)})
        support = {name: table[:, :n_support] for name, table in tables.items()}
        query = {name: table[:, n_support:] for name, table in tables.items()}
        return self.match(batch.embedded(support, query))

    def match(self, episodes: EpisodeBatch) -> Outputs:
        """Return "logits" (B, Q, N) and "per_cardinality" (B, Q, N, number of tuple sizes)."""
        support, query = episodes.support, episodes.query
        index, mask = group_by_class(episodes.support_labels, episodes.n_way, episodes.n_shot)
        grouped = {name: take_videos(table, index) for name, table in support.items()}  # (B, N, K, ...)
        scores = [
            transformer.match(sub_tables(grouped, number), sub_tables(query, number), mask)
            for number, transformer in enumerate(self._transformers())
        ]
        stacked = torch.stack(scores, -1)
        return {"logits": stacked.mean(-1), "per_cardinality": stacked}

    @torch.no_grad()
    def explain(self, batch: EpisodeBatch) -> Explanation:
        """Return for each tuple size the distance of every query tuple to its prototypes, and where it attends."""
        support, query = self.embed(batch.support), self.embed(batch.query)
        transformers = self._transformers()
        matches = [
            explain_tuples(
                transformer,
                sub_tables(support, number),
                sub_tables(query, number),
                batch.support_labels,
                batch.n_way,
                1 / len(transformers),
            )
            for number, transformer in enumerate(transformers)
        ]
        return Explanation(self(batch), tuple(matches))

    def loss(self, batch: EpisodeBatch, outputs: Outputs, targets: Targets) -> Losses:
        """Return the cross entropy, reduced over queries as asked."""
        classification = cross_entropy(outputs["logits"], targets.query_labels, reduction=self.reduction)
        return {"classification": classification, "total": classification}

    def _transformers(self) -> list[TupleAttention]:
        return [module for module in self.transformers if isinstance(module, TupleAttention)]
