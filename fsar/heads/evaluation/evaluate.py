"""Accuracy over many episodes: each video embedded once where the head allows it, episodes compared in batches."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsar.device import pinned, sent
from fsar.errors import InputError
from fsar.heads.batch import EpisodeBatch, Features
from fsar.heads.episodes.batches import EpisodeData, prefetched
from fsar.heads.episodes.feature_source import free_bytes
from fsar.heads.episodes.sampler import Episodes, Ints
from fsar.heads.head import Head, TableHead, TextTableHead
from fsar.heads.setup.fit import check_recipe
from fsar.progress import Advance

Floats = NDArray[np.float64]
TABLE_BYTES = 8 << 30
"""Largest table of embedded videos; beyond it a head is run episode by episode."""
BATCH_BYTES = 24 << 20
"""Features of the episodes that are compared at once; small enough to stay near the processor's caches."""
GPU_SHARE, MOST_GPU_BATCH_BYTES = 64, 1 << 30
"""On a GPU a 64th of its free memory, so that what heads make of features may take sixty times their room."""
MAX_BATCH = 256
MIN_CHUNK = 4
"""Fewest videos that are embedded at once: with one, a head of large weights reads them anew for each video."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a head did on a list of episodes."""

    accuracies: Floats
    """(E,) share of each episode's queries that were right."""
    confusion: Ints
    """(C, C) counts: true class by row, predicted by column; an error can only be another class of the episode."""
    class_names: tuple[str, ...]
    seconds: float = 0.0
    """Of computing all episodes, embedding included, reading the store aside where features are resident."""
    order: "Comparison | None" = None
    """What shuffling the frames of each video costs, on the first episodes; None where it was not measured."""

    @property
    def mean(self) -> float:
        """Mean accuracy over the episodes, in [0, 1]."""
        return float(self.accuracies.mean())

    @property
    def ci95(self) -> float | None:
        """Half-width of the 95 % interval of the mean over episodes of these videos; None for a single episode."""
        return half_width(self.accuracies)

    def first(self, n_episodes: int) -> "Evaluation":
        """Return the accuracies of the first episodes; the confusion, which is of all of them, stays."""
        return replace(self, accuracies=self.accuracies[:n_episodes])

    @property
    def per_class(self) -> dict[str, float | None]:
        """Class name -> share of its queries that were right; None for a class that was never asked."""
        asked, right = self.confusion.sum(1), self.confusion.diagonal()
        pairs = zip(self.class_names, asked.tolist(), right.tolist(), strict=True)
        return {name: n_right / n if n else None for name, n, n_right in pairs}


def half_width(values: Floats) -> float | None:
    """Return 1.96 standard errors of the mean (spread with ddof 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(1.96 * values.std(ddof=1) / np.sqrt(len(values)))


@torch.inference_mode()
def evaluate(
    head: Head,
    data: EpisodeData,
    episodes: Episodes,
    class_names: Sequence[str],
    *,
    advance: Advance = lambda n_items=1: None,
    table_bytes: int = TABLE_BYTES,
    allow_recipe: bool = False,
) -> Evaluation:
    """Return how `head` does on `episodes`; the head is put into evaluation mode and back.

    Args:
        head: On the device of the data.
        data: Makes the batches, without random visits; holds the text of the classes for heads that use it.
        episodes: Class ids point to `class_names`.
        class_names: C names.
        advance: Called with numbers of finished episodes.
        table_bytes: Limit of the table of embedded videos.
        allow_recipe: Also where the features are of another recipe than those that the head was trained on.

    Raises:
        InputError: the head was trained on features of another recipe, or answers NaN.
    """
    check_recipe(head, data.source.store, allow=allow_recipe)
    start = time.perf_counter()
    was_training = head.training
    head.eval()
    accuracies, confusion = [], np.zeros((len(class_names),) * 2, np.int64)
    for part, logits in episode_logits(head, data, episodes, table_bytes=table_bytes):
        predicted = _predict(logits, part)
        accuracies.append((predicted == part.query_labels).mean(1))
        _count(confusion, part, predicted)
        advance(len(part))
    head.train(was_training)
    seconds = time.perf_counter() - start
    return Evaluation(np.concatenate(accuracies), confusion, tuple(class_names), seconds)


@torch.inference_mode()
def episode_logits(
    head: Head, data: EpisodeData, episodes: Episodes, *, table_bytes: int = TABLE_BYTES
) -> Iterator[tuple[Episodes, Tensor]]:
    """Yield consecutive episodes and their logits (B, Q, N); each video is embedded once where the head allows it."""
    limit = table_room(data.source.device, table_bytes)
    tables = _Tables.build(head, data, episodes, limit) if _embeds_alone(head, episodes) else None
    parts = list(episodes.batches(_batch_size(episodes, tables, data)))
    if tables is not None:
        yield from ((part, tables.logits(part)) for part in parts)
        return
    for part, batch in zip(parts, _batches(data, parts), strict=True):
        yield part, head(batch)


def _batches(data: EpisodeData, parts: Sequence[Episodes]) -> Iterator[EpisodeBatch]:
    """Yield the batch of each part, made while the one before is computed where there is something to wait for."""

    def make(number: int) -> EpisodeBatch:
        return data.batch(parts[number])[0]

    numbers = range(len(parts))
    return prefetched(make, numbers, ahead=1) if data.source.reads_ahead else map(make, numbers)


def _embeds_alone(head: Head, episodes: Episodes) -> TypeGuard[TableHead]:
    """Tell whether the head can embed each video once, whatever episode it occurs in."""
    joined = head.reads_unlabelled and episodes.unlabelled.shape[1] > 0  # `match` has no unlabelled videos
    return isinstance(head, TableHead) and head.embeds_alone(_n_shot(episodes)) and not joined


def table_room(device: str, limit: int) -> int:
    """Return the largest table: `limit`, or half of what is free on a GPU if that is less."""
    return min(limit, free_bytes(device) // 2) if device.startswith("cuda") else limit


def _n_shot(episodes: Episodes) -> int:
    return int(np.bincount(episodes.support_labels[0]).max())


def _batch_size(episodes: Episodes, tables: "_Tables | None", data: EpisodeData) -> int:
    n_support, n_query = episodes.support.shape[1], episodes.query.shape[1]
    raw = 4 * data.source.bytes_per_video
    of_support, of_query = (_bytes_each(tables.support), _bytes_each(tables.query)) if tables else (raw, raw)
    n_bytes = n_support * of_support + n_query * of_query
    return _at_once(data.source.device, n_bytes)


def _at_once(device: str, bytes_each: int, *, least: int = 1) -> int:
    """Return how many episodes, or videos, of a size are computed at once."""
    return int(np.clip(_batch_bytes(device) // max(bytes_each, 1), least, MAX_BATCH))


def _batch_bytes(device: str) -> int:
    """Return how many bytes of features are compared at once."""
    if not device.startswith("cuda"):
        return BATCH_BYTES
    return min(max(free_bytes(device) // GPU_SHARE, BATCH_BYTES), MOST_GPU_BATCH_BYTES)


def _predict(logits: Tensor, episodes: Episodes) -> Ints:
    """Return the classes (B, Q) that are answered. It waits for the device once."""
    answers: Ints = logits.argmax(-1).masked_fill(logits.isnan().any(-1), -1).cpu().numpy()
    if (answers < 0).any():
        episode = int(episodes.indices[np.flatnonzero((answers < 0).any(1))[0]])
        raise InputError(f"the head answers NaN in episode {episode}: its weights or the features are broken")
    return answers


def _count(confusion: Ints, episodes: Episodes, predicted: Ints) -> None:
    n_classes = len(confusion)
    true = np.take_along_axis(episodes.class_ids, episodes.query_labels, 1)
    answered = np.take_along_axis(episodes.class_ids, predicted, 1)
    counts = np.bincount((true * n_classes + answered).ravel(), minlength=n_classes**2)
    confusion += counts.reshape(n_classes, n_classes)


@dataclass(frozen=True, slots=True)
class _Tables:
    """Embedded videos, role -> (V, ...). Supports have a table of their own where their class text matters."""

    head: TableHead
    support: Features
    query: Features
    place: Ints
    """Store row -> place in both tables."""
    class_text: Tensor | None

    @classmethod
    def build(cls, head: TableHead, data: EpisodeData, episodes: Episodes, limit: int) -> "_Tables | None":
        """Return the tables of all videos that the episodes use, None if they would be larger than `limit` bytes."""
        rows = np.unique(np.concatenate([episodes.support.ravel(), episodes.query.ravel()]))
        place = np.full(int(rows[-1]) + 1, -1, np.int64)
        place[rows] = np.arange(len(rows))
        tables = _embed(head, data, rows, _class_of_row(episodes, place, len(rows)), _n_shot(episodes), limit)
        return None if tables is None else cls(head, *tables, place, data.class_text)

    def logits(self, episodes: Episodes) -> Tensor:
        """Return (B, Q, N)."""
        device = next(iter(self.query.values())).device
        class_ids = sent(torch.from_numpy(episodes.class_ids), device)
        support, query = (
            self._columns(
                {role: _take(table, sent(torch.from_numpy(self.place[rows]), device)) for role, table in of.items()},
                class_ids,
            )
            for of, rows in ((self.support, episodes.support), (self.query, episodes.query))
        )
        labels = pinned(torch.from_numpy(np.ascontiguousarray(episodes.support_labels)), device)
        text = None if self.class_text is None else self.class_text[class_ids]
        batch = EpisodeBatch(support, labels, query, episodes.n_way, text).to(device, non_blocking=True)
        return self.head.match(batch)["logits"]

    def _columns(self, features: Features, class_ids: Tensor) -> Features:
        """Cut roles that run over all C classes, (B, V, ..., C), to the N classes of each episode."""
        found = dict(features)
        for role in self.head.class_roles if isinstance(self.head, TextTableHead) else ():
            if role in found:
                n_middle = found[role].ndim - 2
                index = class_ids.view(len(class_ids), *[1] * n_middle, -1)
                found[role] = found[role].gather(-1, index.expand(*found[role].shape[:-1], -1))
        return found


def _class_of_row(episodes: Episodes, place: Ints, n_rows: int) -> Ints:
    """Return the class id of each table row; a video that is never a support gets its class as a query."""
    class_of = np.zeros(n_rows, np.int64)
    for rows, labels in ((episodes.query, episodes.query_labels), (episodes.support, episodes.support_labels)):
        class_of[place[rows]] = np.take_along_axis(episodes.class_ids, labels, 1)
    return class_of


def _bytes_each(table: Features) -> int:
    """Return the size of what a table holds of one video."""
    return sum(x[0].numel() * x.element_size() for x in table.values())


def _take(table: Tensor, places: Tensor) -> Tensor:
    """Return `table[places]`; for videos of megabytes this is many times faster than indexing."""
    return table.index_select(0, places.flatten()).view(*places.shape, *table.shape[1:])


def _embed(
    head: TableHead, data: EpisodeData, rows: Ints, classes: Ints, n_shot: int, limit: int
) -> tuple[Features, Features] | None:
    """Embed videos in chunks, as supports and as queries: one table for both if no class text enters.

    `classes` says whose text each video has as a support. None if the tables would be larger than `limit` bytes.
    """
    text = data.class_text
    chunk = _at_once(data.source.device, 4 * data.source.bytes_per_video, least=MIN_CHUNK)
    tables: tuple[Features, ...] = ()
    for start in range(0, len(rows), chunk):
        features = data.source.gather(rows[start : start + chunk])
        embedded: tuple[Features, ...]
        if text is None or not head.embeds_text:
            embedded = (head.embed(features),)
        else:
            own_text = text[sent(torch.from_numpy(classes[start : start + chunk]), text.device)]
            embedded = embed_both(head, features, own_text, text, n_shot)
        if not tables:
            if sum(map(_bytes_each, embedded)) * len(rows) > limit:
                return None
            tables = tuple({role: x.new_empty((len(rows), *x.shape[1:])) for role, x in t.items()} for t in embedded)
        for table, part in zip(tables, embedded, strict=True):
            for role, x in part.items():
                table[role][start : start + chunk] = x
    return tables[0], tables[-1]


def embed_both(
    head: TableHead, features: Features, own_text: Tensor, all_text: Tensor, n_shot: int = 1
) -> tuple[Features, Features]:
    """Return videos embedded as supports, with the text of their own class, and as queries, without."""
    if isinstance(head, TextTableHead):
        return head.embed_tables(features, own_text, all_text, n_shot)
    return head.embed(features, own_text), head.embed(features)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two heads, or one head on two forms of the features, on the same episodes."""

    difference: float
    """Mean over episodes of first minus second accuracy."""
    ci95: float | None
    """Half-width of its 95 % interval: episodes are paired, so what makes an episode hard for both cancels."""
    n_episodes: int

    @property
    def is_clear(self) -> bool:
        """True if the interval leaves zero out."""
        return self.ci95 is not None and abs(self.difference) > self.ci95


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Return the paired comparison of two evaluations of one list of episodes."""
    if len(first.accuracies) != len(second.accuracies):
        raise InputError(f"episode lists differ: {len(first.accuracies)} and {len(second.accuracies)} episodes")
    differences = first.accuracies - second.accuracies
    return Comparison(float(differences.mean()), half_width(differences), len(differences))
