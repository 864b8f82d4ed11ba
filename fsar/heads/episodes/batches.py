"""Episodes and pairs of videos as tensors, ready for a head."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fsar.device import pinned, sent
from fsar.heads.batch import EpisodeBatch, Features, PairBatch, Targets
from fsar.heads.episodes.counter_rng import Counter
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool, Episodes, EpisodeSampler, EpisodeShape, Ints

T = TypeVar("T")


class EpisodeData:
    """Turns episodes into the batch that a head sees and the targets that only its loss sees."""

    def __init__(
        self,
        source: FeatureSource,
        *,
        class_text: Tensor | None = None,
        visits_seed: int | None = None,
        all_templates: bool = False,
    ) -> None:
        """Keep what is shared by all batches.

        Args:
            source: Of the features.
            class_text: (C, M, D) text of the classes that `Episodes.class_ids` point to.
            visits_seed: Draw the view and the frames of every visit of a video, and a text template for every episode
                (training); None: first view, spread frames, all templates.
            all_templates: Have all templates in any case.
        """
        self.source = source
        self._counter = None if visits_seed is None else Counter(visits_seed)
        self.class_text = None if class_text is None else class_text.to(source.device)
        self._all_templates = all_templates or visits_seed is None

    def batch(self, episodes: Episodes) -> tuple[EpisodeBatch, Targets]:
        """Return B episodes as tensors on the device of the source."""
        parts = (episodes.support, episodes.query, episodes.unlabelled)
        n_videos = [part.shape[1] for part in parts]
        views = frames = None
        if self._counter is not None:
            views, frames = self.source.draw_visits(self._counter, episodes.indices, sum(n_videos))
        rows = np.concatenate([part.ravel() for part in parts])
        features = self.source.gather(rows, _kind_by_kind(views, n_videos), _kind_by_kind(frames, n_videos))
        support, query, unlabelled = _split_kinds(features, len(episodes), n_videos)
        labels = torch.from_numpy(np.ascontiguousarray(episodes.support_labels))
        batch = EpisodeBatch(
            support=support,
            support_labels=pinned(labels, self.source.device),  # checked on the CPU
            query=query,
            n_way=episodes.n_way,
            class_text=self._text(episodes),
            unlabelled=unlabelled if episodes.unlabelled.shape[1] else None,
        )
        return batch.to(self.source.device, non_blocking=True), self._targets(episodes)

    def _targets(self, episodes: Episodes) -> Targets:
        return Targets(
            query_labels=self._tensor(episodes.query_labels),
            support_class_ids=self._tensor(np.take_along_axis(episodes.class_ids, episodes.support_labels, 1)),
            query_class_ids=self._tensor(np.take_along_axis(episodes.class_ids, episodes.query_labels, 1)),
            all_class_text=self.class_text,
        )

    def _text(self, episodes: Episodes) -> Tensor | None:
        """Return the texts of the episodes' classes (B, N, M, D)."""
        if self.class_text is None:
            return None
        text = self.class_text[self._tensor(episodes.class_ids)]
        return text if self._all_templates else self._one_template(text, episodes)

    def _one_template(self, text: Tensor, episodes: Episodes) -> Tensor:
        """Return the texts (B, ..., M, D) by one template drawn for each episode: (B, ..., 1, D)."""
        assert self._counter is not None
        numbers = Counter.numbers(self._counter.stream("templates", episodes.indices), 1)[:, 0]
        template = self._tensor(Counter.below(numbers, np.full(numbers.shape, text.shape[2])))
        return text[torch.arange(len(text), device=text.device), :, template][:, :, None]

    def _tensor(self, array: Ints) -> Tensor:
        return sent(torch.from_numpy(np.ascontiguousarray(array)), self.source.device)


def _kind_by_kind(values: Ints | None, n_videos: list[int]) -> Ints | None:
    """Reorder values (B * V, ...): the supports of all episodes come first, then the queries, then the others."""
    if values is None:
        return None
    by_episode = values.reshape(-1, sum(n_videos), *values.shape[1:])
    kinds = np.split(by_episode, np.cumsum(n_videos)[:-1], axis=1)
    return np.concatenate([kind.reshape(-1, *values.shape[1:]) for kind in kinds])


def _split_kinds(features: Features, n_episodes: int, n_videos: list[int]) -> list[Features]:
    """Cut role -> (B * V, ...), kind by kind, into role -> (B, S, ...), (B, Q, ...), (B, X, ...) without copying."""
    sizes = [n_episodes * n for n in n_videos]
    cut = {role: torch.split(tensor, sizes) for role, tensor in features.items()}
    return [
        {role: parts[kind].view(n_episodes, n, *parts[kind].shape[1:]) for role, parts in cut.items()} if n else {}
        for kind, n in enumerate(n_videos)
    ]


class PairData:
    """Two videos of each of B classes per batch, for heads that do not train on episodes."""

    def __init__(
        self, source: FeatureSource, pool: EpisodePool, *, n_classes: int, seed: int, class_text: Tensor | None = None
    ) -> None:
        n_classes = min(n_classes, pool.n_classes)
        self._sampler = EpisodeSampler(pool, EpisodeShape(n_classes, 1, 1), seed=seed)
        self._source, self._counter = source, Counter(seed)
        self._text = None if class_text is None else class_text.to(source.device)

    def batch(self, index: int) -> PairBatch:
        """Return batch number `index`: rows 2i and 2i + 1 show the same class."""
        draw = self._sampler.draw(index, 1)
        queries = draw.query[0, np.argsort(draw.query_labels[0])]  # in the order of the supports
        rows = np.stack((draw.support[0], queries), 1).ravel()
        views, frames = self._source.draw_visits(self._counter, draw.indices, len(rows))
        class_ids = sent(torch.from_numpy(np.repeat(draw.class_ids[0], 2)), self._source.device)
        return PairBatch(
            features=self._source.gather(rows, views, frames),
            class_ids=class_ids,
            video_text=None if self._text is None else self._text[class_ids],
        )


def prefetched(make: Callable[[int], T], numbers: Sequence[int], *, ahead: int = 2) -> Iterator[T]:
    """Yield make(number) for `numbers` in order, made by one thread up to `ahead` items early.

    Reading mapped features waits for the disk, and on a GPU gathering resident ones is launches that fit into the time
    of a backward pass: the next batch is made while the head computes. An exception in
    `make` is raised here. Leaving the loop early stops the thread.
    """
    items: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        for number in numbers:
            try:
                put((make(number), None))
            except Exception as error:
                put((None, error))
                return
            if stopped.is_set():
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in numbers:
            item, error = items.get()
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
