"""TRX: a query is compared with tuples of frames of all the videos of a class at once."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features, Targets
from fsar.heads.explain.evidence import Explanation, TupleMatch, frame_tuples, within_classes
from fsar.heads.head import Losses, Outputs, TableHead, cross_entropy, register_head
from fsar.heads.layers.attention import position_code, sinusoid_table
from fsar.heads.layers.dropout import Dropout
from fsar.heads.layers.frame_tuples import slot_vectors, tuple_slots
from fsar.heads.layers.functional import group_by_class, membership, take_videos
from fsar.heads.layers.option_checks import check_choice, check_positive
from fsar.heads.recipes.presets import Preset, register_preset

POSITION_SCALE = 0.1


class TupleAttention(nn.Module):
    """The attention of one cardinality, from frames to minus the squared distance to each class's query-made prototype.

    Keys are normed tuple projections, values plain ones, and the same maps serve queries and supports. All of it is
    done on slot vectors (see `fsar.heads.layers.frame_tuples`): scores, prototypes and distances need only their inner
    products.
    """

    def __init__(self, dim: int, *, size: int, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.size = size
        self.k_linear = nn.Linear(dim * size, out_dim)
        # The official bias of the values cancels: attention weights sum to one.
        self.v_linear = nn.Linear(dim * size, out_dim, bias=False)
        self.norm_k = nn.LayerNorm(out_dim)
        self.dropout = Dropout(dropout)

    def embed(self, frames: Tensor) -> Features:
        """Return the tables of videos with frames (..., T, D).

        `keys` and `values` (..., M, d) are slot vectors, keys centred and scaled as the norm does with a whole tuple;
        `rates` (..., P) the norm's 1/std of each tuple; `offsets` (..., P) the part of a score that is the key's alone;
        `energy` (...) the summed squared lengths of the value tuples. All float32: the distances cancel.
        """
        lead, (n_frames, dim) = frames.shape[:-2], frames.shape[-2:]
        x = self.dropout(frames + POSITION_SCALE * position_code(sinusoid_table, frames)).reshape(-1, n_frames, dim)
        raw = slot_vectors(x, self.k_linear.weight, self.k_linear.bias, self.size).float()
        values = slot_vectors(x, self.v_linear.weight, None, self.size).float()
        with torch.autocast(frames.device.type, enabled=False):
            tables = self._tables(raw, values, n_frames)
        return {name: table.view(*lead, *table.shape[1:]) for name, table in tables.items()}

    def _tables(self, raw: Tensor, values: Tensor, n_frames: int) -> Features:
        slots = tuple_slots(n_frames, self.size, raw.device, raw.dtype)  # (P, M)
        scale, shift = self.norm_k.weight.float(), self.norm_k.bias.float()
        centred = raw - raw.mean(-1, keepdim=True)
        variance = tuple_energy(centred, slots) / raw.shape[-1]
        rates = torch.rsqrt(variance.clamp(min=0) + self.norm_k.eps)  # (V, P)
        keys = centred * scale
        offsets = rates * ((keys @ shift) @ slots.T)
        return {
            "keys": keys,
            "values": values,
            "rates": rates,
            "offsets": offsets,
            "energy": tuple_energy(values, slots).sum(-1),
        }

    def match(self, support: Features, query: Features, mask: Tensor) -> Tensor:
        """Return minus the mean squared distance of the query's tuples to each class's prototypes, (B, Q, N).

        Tables of supports (B, N, K, ...), padded to K videos per class and real where `mask` (B, N, K) is true, and of
        queries (B, Q, ...).
        """
        with torch.autocast(mask.device.type, enabled=False):
            return self._match(support, query, mask)

    def _match(self, support: Features, query: Features, mask: Tensor) -> Tensor:
        n_batch, n_way, _, n_slots, dim = support["keys"].shape
        n_query, n_tuples = query["rates"].shape[1:]
        slots = slots_of(n_tuples, n_slots, self.size, query["keys"])
        attention = self._attention(support, query, mask, slots)  # (B, Q*P, N*K, P)
        # The prototype of a query tuple as weights on the slot vectors of the class.
        weights = (attention @ slots).view(n_batch, n_query * n_tuples, n_way, -1)  # (B, Q*P, N, K*M)
        values = support["values"].reshape(n_batch, n_way, -1, dim)  # (B, N, K*M, d)
        cross = query["values"].flatten(1, 2) @ values.flatten(1, 2).transpose(1, 2)  # (B, Q*M, N*K*M)
        cross = slots @ cross.view(n_batch, n_query, n_slots, -1)  # (B, Q, P, N*K*M)
        gram = values @ values.transpose(2, 3)  # (B, N, K*M, K*M)
        length = (weights.transpose(1, 2) @ gram).transpose(1, 2)  # (B, Q*P, N, K*M)
        # |v - p|^2 = |v|^2 - 2 <v, p> + |p|^2, the last two with p = weights on slot vectors.
        rest = (weights * (length - 2 * cross.view_as(length))).sum(-1).view(n_batch, n_query, n_tuples, n_way).sum(2)
        return -(query["energy"].unsqueeze(-1) + rest) / n_tuples

    def _attention(self, support: Features, query: Features, mask: Tensor, slots: Tensor) -> Tensor:
        n_batch, n_way, n_shot, n_slots, dim = support["keys"].shape
        n_query, n_tuples = query["rates"].shape[1:]
        gram = query["keys"].flatten(1, 2) @ support["keys"].flatten(1, 3).transpose(1, 2)  # (B, Q*M, N*K*M)
        half = gram.view(-1, n_slots) @ slots.T  # slot vectors of queries x tuples of supports
        half = half.view(n_batch, n_query, n_slots, -1) * support["rates"].view(n_batch, 1, 1, -1)
        # What belongs to the query alone drops out of the softmax.
        offsets = support["offsets"].masked_fill(~mask.unsqueeze(-1), -torch.inf).view(n_batch, 1, 1, -1)
        rows = slots * (query["rates"] * dim**-0.5).unsqueeze(-1)  # (B, Q, P, M)
        scores = rows @ half + offsets * dim**-0.5  # (B, Q, P, N*K*P)
        attention: Tensor = scores.view(n_batch, n_query * n_tuples, n_way, -1).softmax(-1)
        return attention.view(n_batch, n_query * n_tuples, n_way * n_shot, n_tuples)

    def explain(self, support: Features, query: Features, labels: Tensor, n_way: int, weight: float) -> TupleMatch:
        """Return what `match` gives, tuple by tuple, from tables of supports (B, S, ...) with labels (B, S).

        Tuples are built here, one by one, which `match` avoids: to be read, not to be fast.
        """
        n_slots, dim = query["keys"].shape[2:]
        n_tuples = query["rates"].shape[2]
        slots = slots_of(n_tuples, n_slots, self.size, query["keys"])
        asked, keys = (
            table["rates"].unsqueeze(-1) * (slots @ table["keys"]) + self.norm_k.bias.float()
            for table in (query, support)
        )  # (B, V, P, d)
        scores = torch.einsum("bqpd,bsud->bqpsu", asked, keys) * dim**-0.5
        attention = within_classes(scores, labels, n_way)
        of_support = torch.einsum("bqpsu,bsud->bqpsd", attention, slots @ support["values"])
        member = membership(labels, n_way).to(of_support.dtype)
        prototypes = torch.einsum("bqpsd,bsn->bqnpd", of_support, member)
        own = (slots @ query["values"]).unsqueeze(2)
        n_frames = n_slots // self.size + self.size - 1
        parts = -(own - prototypes).square().sum(-1) / n_tuples  # (B, Q, N, P)
        return TupleMatch(
            name=f"tuples of {self.size} frames",
            score=parts.sum(-1),
            weight=weight,
            parts=parts,
            attention=attention,
            tuples=frame_tuples(n_frames, self.size),
            n_frames=n_frames,
            labels=labels,
        )


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
        """Return the slot-vector tables of each tuple size, "0.keys" (..., M, d) and so on."""
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
        return self.match(support, batch.support_labels, query, batch.n_way, None)

    def match(
        self, support: Features, labels: Tensor, query: Features, n_way: int, class_text: Tensor | None
    ) -> Outputs:
        """Return "logits" (B, Q, N) and "per_cardinality" (B, Q, N, number of tuple sizes)."""
        index, mask = group_by_class(labels, n_way)
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
            transformer.explain(
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


def key_width(dim: int) -> int:
    """Return the published width of keys and values, 1152, or 3 D where features are so narrow that it adds nothing."""
    return min(1152, 3 * dim)


def tuple_energy(vectors: Tensor, slots: Tensor) -> Tensor:
    """Return the squared length of each tuple, (V, P), for slot vectors (V, M, d)."""
    gram = vectors @ vectors.transpose(1, 2)
    return ((slots @ gram) * slots).sum(-1)


def slots_of(n_tuples: int, n_slots: int, size: int, like: Tensor) -> Tensor:
    """Return the tuple matrix (P, M) that belongs to tables with P tuples and M slot vectors."""
    slots = tuple_slots(n_slots // size + size - 1, size, like.device, like.dtype)
    assert slots.shape == (n_tuples, n_slots)
    return slots


def sub_tables(tables: Features, number: int) -> Features:
    """Return the tables of one tuple size under their plain names."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): table for name, table in tables.items() if name.startswith(prefix)}


for _name, _split, _source, _reduction, _episodes in (
    ("trx-ssv2-otam", "ssv2-otam", "README of github.com/tobyperrett/trx, up to the task it tests at", "sum", 75_000),
    ("trx-perrett", "", "tobyperrett/few-shot-action-recognition, example commands", "mean", 150_000),
):
    register_preset(
        Preset(
            name=_name,
            heads=("trx",),
            split=_split,
            source=_source,
            note="train and test with --shot 5; published with the backbone trained along; officially the first step "
            "has the gradients of 15 episodes, not 16",
            optimizer="sgd",
            lr=1e-3,
            episodes_per_step=16,
            n_episodes=_episodes,
            options={"reduction": _reduction, "temp_set": (2, 3)},
        )
    )
