"""One video to its packed frames, in a worker process."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fsar.pipeline.packs.jpeg import encode_jpeg, shrink
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.video.source import source_sha256


@dataclass(frozen=True)
class PackTask:
    """One video to pack."""

    video_id: str
    path: Path
    settings: PackSettings


@dataclass(frozen=True)
class VideoFrames:
    """The frames of one video as they go into a shard; S of them, in order of time."""

    jpegs: list[bytes]
    frame_index: npt.NDArray[np.int32]
    """(S,)"""
    frame_time: npt.NDArray[np.float64]
    """(S,) seconds."""
    shape: tuple[int, int]
    """Height and width."""
    n_frames: int
    """Of the video."""
    source_sha256: bytes


def video_frames(task: PackTask) -> VideoFrames:
    """Decode one video and return its sampled frames, each once, as JPEG. Raises VideoError when it cannot be used."""
    from fsar.pipeline.video.decode import decode_clip

    settings = task.settings
    clip = decode_clip(task.path, lambda n_frames: stored_indices(task, n_frames))
    pictures = [shrink(picture, settings.short_side) for picture in clip.frames]
    return VideoFrames(
        jpegs=[encode_jpeg(picture, settings.quality) for picture in pictures],
        frame_index=clip.indices,
        frame_time=clip.times_seconds,
        shape=pictures[0].shape[:2],
        n_frames=clip.n_frames,
        source_sha256=bytes.fromhex(source_sha256(task.path)),
    )


def stored_indices(task: PackTask, n_frames: int) -> npt.NDArray[np.integer]:
    """Return the frames of a video of `n_frames` that its pack stores, (S,) ascending, each once."""
    from fsar.pipeline.video.sample import sample_indices

    generator = np.random.default_rng([task.settings.seed, zlib.crc32(task.video_id.encode())])
    return np.unique(sample_indices(task.settings.sampler, n_frames, task.settings.frames, generator))
