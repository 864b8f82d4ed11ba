"""One look at a video in training or in a test: which of its frames are wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fsar.pipeline.encode.clip_task import ClipTask, view_generator
from fsar.pipeline.pixels.draws import Draws
from fsar.pipeline.video.sample import sample_indices

Frames = npt.NDArray[np.uint8]
TEST_SEED = 0
"""For samplers that draw at test, too: `encode` draws the same frames with its default seed."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at one video: which of its frames are wanted."""

    row: int
    sampler: str
    n_frames: int
    seed: int = TEST_SEED
    episode: int | None = None
    """Of the training; None for the frames that a test shows."""

    def indices(self, video_id: str, n_frames: int) -> npt.NDArray[np.int32]:
        """Return the frames, in order, of a video that has `n_frames`; a pure function of (seed, episode, video)."""
        if self.episode is None:
            generator = view_generator(self.seed, video_id, 0)
        else:
            generator = Draws(self.seed, self.episode, video_id).generator("frames")
        return sample_indices(self.sampler, n_frames, self.n_frames, generator)


@dataclass(frozen=True)
class VisitTask(ClipTask):
    """A visit for a decode process."""

    visit: Visit | None = None

    def indices(self, n_frames: int) -> npt.NDArray[np.int32]:
        """Return the frames of the only view, (1, T)."""
        assert self.visit is not None
        return self.visit.indices(self.video_id, n_frames)[None]
