"""Which frames a network for clips sees: a few clips of a video, each of `length` frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError, unknown_name
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.sample import sample_indices

SPREAD = 0
"""Stride of clips whose frames are spread over the video."""
START_RULES = ("uniform-center", "uniform-random", "uniform-ends")
"""Samplers that can say where clips start."""


@dataclass(frozen=True)
class ClipShape:
    """The input of a network for clips, and how many slots of a store come of it."""

    length: int
    """Frames of a clip."""
    stride: int = SPREAD
    """Frames of the video from one frame of a clip to the next; 0 spreads the clips' frames over the whole video."""
    steps: int = 1
    """Slots that one clip gives: 1, or the time steps of the network's last layer."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(f"a clip must have at least 1 frame, got {self.length}")
        if self.stride < 0:
            raise InputError(f"the stride of a clip must be 0 (spread over the video) or more, got {self.stride}")

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last of a clip; 1 for clips that are spread."""
        return (self.length - 1) * self.stride + 1

    def n_clips(self, n_slots: int) -> int:
        """Return the clips that give `n_slots` slots."""
        return n_slots // self.steps

    def frames(
        self, sampler: str, n_frames: int, n_slots: int, generator: np.random.Generator | None
    ) -> npt.NDArray[np.int32]:
        """Return the frames of every clip one after the other, (n_clips * length,).

        With a stride the sampler chooses where clips start, among the places where a whole one fits. Without, it
        chooses all frames at once: each clip gets an equal part of the video, and a short one repeats frames.

        Raises:
            VideoError: a clip with a stride is longer than the video (reason `too-short`).
            InputError: a sampler that cannot place clips.
        """
        n_clips = self.n_clips(n_slots)
        if self.stride == SPREAD:
            return sample_indices(sampler, n_frames, n_clips * self.length, generator)
        if sampler not in START_RULES:
            raise unknown_name("sampler for where clips start", sampler, START_RULES)
        if n_frames < self.span:
            raise VideoError(
                "too-short",
                f"the video has {n_frames} frames, a clip of {self.length} frames {self.stride} apart needs "
                f"{self.span}; take a smaller --clip-stride, or 0 to spread clips over any video",
            )
        starts = sample_indices(sampler, n_frames - self.span + 1, n_clips, generator)
        return (starts[:, None] + self.stride * np.arange(self.length, dtype=np.int32)).reshape(-1)

    def first_of_slots(self, frames: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return of values (V, n_clips * length) of every frame those of the first frame of each slot, (V, n_slots)."""
        clips = frames.reshape(len(frames), -1, self.length)
        return clips[:, :, np.arange(self.steps) * self.length // self.steps].reshape(len(frames), -1)
