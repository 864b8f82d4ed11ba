"""Numbers of episodes to episodes of frames, made ahead of the training that asks for them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

import numpy as np
from torch import Tensor

from fsar.errors import InputError
from fsar.heads.batch import Features
from fsar.heads.episodes.batches import EpisodeData, PairData, prefetched
from fsar.heads.episodes.feature_source import FeatureSource
from fsar.heads.episodes.sampler import EpisodePool, Episodes, EpisodeSampler, EpisodeShape, Ints
from fsar.heads.finetune.frames import FailedVideo, FailedVideos, Inputs, VideoFailed, without_rows
from fsar.heads.finetune.model import PIXELS, Task
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.tuning import Tuning
from fsar.pipeline.pixels.published import Role


@dataclass(frozen=True, slots=True)
class _OneEpisode:
    """The frames of one episode, for what makes batches of a feature source: supports come first."""

    source: Inputs
    episode: int
    n_support: int

    @property
    def device(self) -> str:
        return self.source.device

    def draw_visits(self, counter: Any, indices: Ints, n_videos: int) -> tuple[None, None]:
        """Return nothing: what a visit shows follows from the episode and the video."""
        return None, None

    def gather(self, rows: Ints, views: None = None, frames: None = None) -> Features:
        """Return role -> (V, T, 3, size, size)."""
        roles: list[Role] = ["support" if place < self.n_support else "query" for place in range(len(rows))]
        return {PIXELS: self.source.training(rows, roles, self.episode)}


class FrameEpisodes:
    """Makes episode number n of a seed from frames: the same whenever and wherever it is made.

    A video that cannot be read is noted with the number of the episode that met it, and neither that one nor any later
    one draws it: the episode is drawn again without it.
    """

    def __init__(
        self,
        source: Inputs,
        pool: EpisodePool,
        failed: FailedVideos,
        *,
        seed: int,
        shape: EpisodeShape | None,
        classes_per_batch: int = 0,
        class_text: Tensor | None = None,
        all_templates: bool = False,
    ) -> None:
        """Keep what all episodes share; without a `shape` they are batches of pairs of `classes_per_batch` classes."""
        self._source, self._pool, self._failed, self._seed = source, pool, failed, seed
        self._shape, self._classes_per_batch = shape, classes_per_batch
        self._text, self._all_templates = class_text, all_templates

    def __call__(self, number: int) -> Task:
        """Return episode `number` (B = 1).

        Raises:
            InputError: too many videos failed for an episode.
        """
        while True:
            try:
                return self._pairs(number) if self._shape is None else self._episode(number, self._shape)
            except VideoFailed as error:
                video = error.video_id
                failure = error.failure
                self._failed.add(FailedVideo(number, error.row, video, failure.reason, failure.message))

    def _episode(self, number: int, shape: EpisodeShape) -> Task:
        drawn = self._draw(number, shape)
        frames = _OneEpisode(self._source, number, sum(shape.shots))
        data = EpisodeData(
            cast("FeatureSource", frames),
            class_text=self._text,
            visits_seed=self._seed,
            all_templates=self._all_templates,
        )
        return data.batch(drawn)

    def _draw(self, number: int, shape: EpisodeShape) -> Episodes:
        """Return the episode of the videos that are left; class ids are those of the whole pool."""
        pool, _ = self._left(number).without_small_classes(shape.n_videos)
        self._check(pool.n_classes, shape.n_way)
        drawn = EpisodeSampler(pool, shape, seed=self._seed).draw(number, 1)
        numbers = np.array([self._pool.class_names.index(name) for name in pool.class_names])
        return replace(drawn, class_ids=numbers[drawn.class_ids])

    def _pairs(self, number: int) -> Task:
        pool, _ = self._left(number).without_small_classes(2)
        self._check(pool.n_classes, 2)
        text = None if self._text is None else self._text[[self._pool.class_names.index(n) for n in pool.class_names]]
        frames = cast("FeatureSource", _OneEpisode(self._source, number, 0))
        data = PairData(frames, pool, n_classes=self._classes_per_batch, seed=self._seed, class_text=text)
        batch = data.batch(number)
        numbers = [self._pool.class_names.index(name) for name in pool.class_names]
        return replace(batch, class_ids=batch.class_ids.new_tensor(numbers)[batch.class_ids])

    def _left(self, number: int) -> EpisodePool:
        return without_rows(self._pool, self._failed.before(number))

    def _check(self, n_classes: int, n_way: int) -> None:
        if n_classes < n_way:
            worst = self._failed.failed[-1]
            raise InputError(
                f"{len(self._failed.failed)} training videos could not be read, and the others are too few for an "
                f"episode (the last: {worst.video_id}: {worst.message})"
            )


STEPS_AHEAD = 4
"""More than episodes are made ahead: what processes tell each other of failed videos counts from so many steps on."""


class StepEpisodes:
    """Step number -> an iterator over the episodes of that step, the next of which is being made meanwhile."""

    def __init__(
        self,
        make: Callable[[int], Task],
        tuning: Tuning,
        *,
        n_steps: int,
        episodes_per_step: int,
        processes: Processes,
        failed: FailedVideos | None = None,
    ) -> None:
        """Keep how to make episodes; `failed` is what the processes tell each other."""
        self._make, self._tuning, self._processes = make, tuning, processes
        self._n_steps, self._episodes_per_step, self._failed = n_steps, episodes_per_step, failed
        self._stream: Iterator[Task] = iter(())
        self._next = -1

    def __call__(self, step: int) -> Iterator[Task]:
        """Return the episodes of a step, to be used up before the next call."""
        self.share_failed(step)
        if self._next != step:
            steps = range(step, max(self._n_steps, step + 1))
            self._stream = prefetched(self._make, [number for s in steps for number in self._own(s)], ahead=1)
        self._next = step + 1
        return islice(self._stream, len(self._own(step)))

    def share_failed(self, step: int) -> None:
        """Let all processes know of the videos that failed before a step."""
        if self._failed is not None:
            later = self._tuning.episodes_of(step + STEPS_AHEAD, self._episodes_per_step)
            self._failed.share(self._processes, later.start)

    def _own(self, step: int) -> Sequence[int]:
        return self._processes.own(self._tuning.episodes_of(step, self._episodes_per_step))
