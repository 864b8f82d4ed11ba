"""Episodes as data: which videos are supports and queries of which class, drawn in blocks of thousands."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsar.errors import InputError
from fsar.heads.episodes.counter_rng import Counter

Ints = NDArray[np.int64]
PerClass = int | Sequence[int]
"""A number of videos for every class of an episode, or one number per class."""


@dataclass(frozen=True, slots=True)
class EpisodeShape:
    """How many classes and how many videos of each an episode holds."""

    n_way: int
    n_shot: PerClass
    n_query: PerClass
    n_unlabelled: int = 0
    """Videos per class whose label no head sees, for semi-supervised heads."""

    def __post_init__(self) -> None:
        if self.n_way < 2:
            raise InputError(f"way must be at least 2, got {self.n_way}")
        if min(self.shots) < 1:
            raise InputError(f"shot must be at least 1 for every class, got {self.n_shot}")
        if min(self.queries) < 0 or sum(self.queries) < 1:
            raise InputError(f"query must leave at least 1 video of an episode to classify, got {self.n_query}")
        if self.n_unlabelled < 0:
            raise InputError(f"unlabelled must be at least 0, got {self.n_unlabelled}")

    @property
    def shots(self) -> tuple[int, ...]:
        """Supports of each class."""
        return _per_class("shot", self.n_shot, self.n_way)

    @property
    def queries(self) -> tuple[int, ...]:
        """Queries of each class."""
        return _per_class("query", self.n_query, self.n_way)

    @property
    def n_videos(self) -> int:
        """The most videos that one class has to give."""
        return max(shot + query for shot, query in zip(self.shots, self.queries, strict=True)) + self.n_unlabelled


def _per_class(name: str, count: PerClass, n_way: int) -> tuple[int, ...]:
    counts = (count,) * n_way if isinstance(count, int) else tuple(count)
    if len(counts) != n_way:
        raise InputError(f"{name} must be one number or {n_way} numbers (one per class), got {len(counts)}")
    return counts


@dataclass(frozen=True, slots=True)
class Episodes:
    """E episodes of one shape. Rows are rows of the store, class ids are positions in the pool's list of classes."""

    class_ids: Ints
    """(E, N); column c is the class with episode label c."""
    support: Ints
    """(E, S) rows."""
    support_labels: Ints
    """(E, S) episode labels, ascending."""
    query: Ints
    """(E, Q) rows, in random order, so that no head can learn from their order."""
    query_labels: Ints
    """(E, Q)."""
    unlabelled: Ints
    """(E, X) rows; X = 0 unless asked for."""
    indices: Ints
    """(E,) number of each episode in its stream: with the seed it decides all other random choices of the episode."""

    def __len__(self) -> int:
        return len(self.class_ids)

    def __getitem__(self, index: slice) -> "Episodes":
        return Episodes(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def n_way(self) -> int:
        """Classes per episode."""
        return int(self.class_ids.shape[1])

    def rows(self) -> Ints:
        """Return every row that is used, ascending, once."""
        return np.unique(np.concatenate([self.support.ravel(), self.query.ravel(), self.unlabelled.ravel()]))

    def batches(self, n_episodes: int) -> Iterator["Episodes"]:
        """Yield consecutive parts of at most `n_episodes`."""
        for start in range(0, len(self), n_episodes):
            yield self[start : start + n_episodes]


class EpisodePool:
    """The classes that episodes are drawn from, each with the rows of its videos that were encoded without failure."""

    def __init__(self, rows_of_class: Mapping[str, Sequence[int] | Ints]) -> None:
        self.class_names = tuple(rows_of_class)
        self.counts: Ints = np.array([len(rows) for rows in rows_of_class.values()], np.int64)
        self.rows: Ints = np.concatenate([np.asarray(rows, np.int64) for rows in rows_of_class.values()] or [_NO_ROWS])
        self.starts: Ints = np.cumsum(self.counts) - self.counts

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def without_small_classes(self, n_videos: int) -> tuple["EpisodePool", dict[str, int]]:
        """Return the pool of the classes with at least `n_videos`, and the dropped classes with their counts."""
        kept = {name: self.rows_of(i) for i, name in enumerate(self.class_names) if self.counts[i] >= n_videos}
        dropped = {n: int(c) for n, c in zip(self.class_names, self.counts, strict=True) if c < n_videos}
        return EpisodePool(kept), dropped

    def rows_of(self, class_id: int) -> Ints:
        """Return the rows of one class."""
        return self.rows[self.starts[class_id] : self.starts[class_id] + self.counts[class_id]]

    def check(self, shape: EpisodeShape, what: str = "the store") -> None:
        """Raise InputError if an episode of `shape` cannot be drawn; the message names the class that is too small."""
        if shape.n_way > self.n_classes:
            raise InputError(f"{shape.n_way}-way episodes need {shape.n_way} classes, {what} has {self.n_classes}")
        small = np.flatnonzero(self.counts < shape.n_videos)
        if len(small):
            named = ", ".join(f"{self.class_names[i]!r} ({self.counts[i]})" for i in small[:3])
            more = f" and {len(small) - 3} more" if len(small) > 3 else ""
            raise InputError(
                f"an episode takes {shape.n_videos} videos of a class, but {what} has fewer of {named}{more}; "
                "lower --shot or --query, or pass --drop-small-classes"
            )


_NO_ROWS: Ints = np.zeros(0, np.int64)


class EpisodeSampler:
    """Draws episode number `index` of a seed: the same whatever block it is drawn in, whatever came before.

    Classes are drawn without replacement, then each class's videos without replacement; supports, queries and
    unlabelled videos are disjoint. The random numbers are hashes of (seed, index, purpose, slot), not one numpy
    Generator per
    episode: making a `default_rng([seed, index])` alone takes longer than drawing an episode here, and could not be
    vectorised over a block.
    """

    def __init__(self, pool: EpisodePool, shape: EpisodeShape, *, seed: int, what: str = "the store") -> None:
        pool.check(shape, what)
        self.pool, self.shape, self.seed = pool, shape, seed
        self._counter = Counter(seed)
        self._labels = {
            name: np.repeat(np.arange(shape.n_way), counts)
            for name, counts in (("support", shape.shots), ("query", shape.queries))
        }

    def draw(self, start: int, n_episodes: int) -> Episodes:
        """Return episodes `start` to `start + n_episodes - 1`."""
        indices = np.arange(start, start + n_episodes, dtype=np.int64)
        n_way = self.shape.n_way
        n_classes = np.full(n_episodes, self.pool.n_classes)
        class_ids = draw_without_replacement(self._counter.stream("classes", indices), n_classes, n_way)
        keys = self._counter.stream("videos", indices)[:, None] + np.arange(n_way, dtype=np.uint64) * _CLASS_STRIDE
        picks = draw_without_replacement(keys, self.pool.counts[class_ids], self.shape.n_videos)  # (E, N, videos)
        rows = self.pool.rows[self.pool.starts[class_ids][..., None] + picks]
        return self._deal(indices, class_ids, rows)

    def _deal(self, indices: Ints, class_ids: Ints, rows: Ints) -> Episodes:
        shots, queries, extra = self.shape.shots, self.shape.queries, self.shape.n_unlabelled
        labels = range(self.shape.n_way)
        support = np.concatenate([rows[:, c, : shots[c]] for c in labels], 1)
        query = np.concatenate([rows[:, c, shots[c] : shots[c] + queries[c]] for c in labels], 1)
        unlabelled = rows[:, :, self.shape.n_videos - extra :].reshape(len(indices), -1)
        order = self._shuffle(indices, query.shape[1])
        return Episodes(
            class_ids=class_ids,
            support=support,
            support_labels=np.tile(self._labels["support"], (len(indices), 1)),
            query=np.take_along_axis(query, order, 1),
            query_labels=self._labels["query"][order],
            unlabelled=unlabelled,
            indices=indices,
        )

    def _shuffle(self, indices: Ints, n_queries: int) -> Ints:
        keys = self._counter.stream("order", indices)
        return np.argsort(self._counter.numbers(keys, n_queries), axis=1)


_CLASS_STRIDE = np.uint64(0xD1B54A32D192ED03)


def draw_without_replacement(keys: NDArray[np.uint64], sizes: Ints, n_draws: int) -> Ints:
    """Return (..., n_draws) distinct integers below `sizes` (...), in random order, decided by `keys` (...) alone.

    The first steps of a Fisher-Yates shuffle of 0..size-1, without writing the array down: a place holds its own number
    unless an earlier step put another there. Step j swaps place j with a random later place p_j; what p_j held is
    drawn. Looking through the earlier steps costs n_draws**2 / 2 vector operations for the whole block.
    """
    numbers = Counter.numbers(keys, n_draws)  # (..., n_draws) of 64 bits
    places: list[Ints] = []
    held: list[Ints] = []
    drawn = np.empty((*keys.shape, n_draws), np.int64)
    for step in range(n_draws):
        place = step + Counter.below(numbers[..., step], sizes - step)
        value, left_behind = place, np.full_like(place, step)
        for earlier_place, earlier_held in zip(places, held, strict=True):
            value = np.where(earlier_place == place, earlier_held, value)
            left_behind = np.where(earlier_place == step, earlier_held, left_behind)
        drawn[..., step] = value
        places.append(place)
        held.append(left_behind)
    return drawn


def describe(shape: EpisodeShape) -> dict[str, Any]:
    """Return the shape for a config file."""
    return {"n_way": shape.n_way, "n_shot": shape.n_shot, "n_query": shape.n_query, "n_unlabelled": shape.n_unlabelled}
