"""Visits of videos to tensors that a tower takes: read, augment, normalise; videos that fail are remembered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fsar.device import sent
from fsar.files import write_atomic
from fsar.heads.episodes.sampler import EpisodePool, Ints
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.videos import FrameReader, VideoSet
from fsar.heads.finetune.visits import Visit
from fsar.pipeline.encode.clip_task import DecodeFailure
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.pixels.published import PixelPipeline, Role


@dataclass(frozen=True, slots=True)
class FailedVideo:
    """A video that training met and could not read."""

    episode: int
    """From this one on it is not drawn."""
    row: int
    video_id: str
    reason: str
    message: str


class VideoFailed(Exception):
    """An episode holds a video that cannot be read."""

    def __init__(self, row: int, video_id: str, failure: DecodeFailure) -> None:
        super().__init__(failure.message)
        self.row, self.video_id, self.failure = row, video_id, failure


@dataclass
class FailedVideos:
    """The videos that failed so far: on disk, so that a run that goes on draws the same episodes."""

    path: Path | None = None
    failed: list[FailedVideo] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.is_file():
            self.failed = [FailedVideo(**entry) for entry in json.loads(self.path.read_text())]

    def share(self, processes: Processes, from_episode: int) -> None:
        """Learn of the videos that other processes could not read: not drawn here from an episode on.

        That episode must be one that no process has begun to make, or a run that goes on would draw otherwise.
        """
        if processes.n == 1:
            return
        known = {entry.row for entry in self.failed}
        for entry in (entry for own in processes.of_all(list(self.failed)) for entry in own):
            if entry.row not in known:
                self.add(replace(entry, episode=from_episode))
                known.add(entry.row)

    def add(self, failure: FailedVideo) -> None:
        """Remember a video, on disk at once."""
        self.failed.append(failure)
        if self.path is not None:
            entries = [{name: getattr(entry, name) for name in FailedVideo.__slots__} for entry in self.failed]
            write_atomic(self.path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")

    def before(self, episode: int) -> tuple[int, ...]:
        """Return the rows that episode `episode` may not draw, ascending."""
        return tuple(sorted({entry.row for entry in self.failed if entry.episode <= episode}))


def without_rows(pool: EpisodePool, rows: Sequence[int]) -> EpisodePool:
    """Return a pool without some rows; classes stay, even empty ones, so that their numbers do."""
    gone = set(rows)
    kept = {
        name: [int(row) for row in pool.rows_of(number) if int(row) not in gone]
        for number, name in enumerate(pool.class_names)
    }
    return EpisodePool(kept)


class Inputs(Protocol):
    """What a tower takes, by row: frames of videos, or tokens of a store."""

    @property
    def device(self) -> str:
        """Where the tensors are."""
        ...

    @property
    def n_frames(self) -> int:
        """Frames of a visit."""
        ...

    def training(self, rows: Ints, roles: Sequence[Role], episode: int) -> Tensor:
        """Return inputs (V, T, ...) of the videos of one episode; raises VideoFailed if one cannot be read."""
        ...

    def test(self, rows: Ints) -> list[Tensor | DecodeFailure]:
        """Return the inputs (T, ...) of each video in a test, or why there are none."""
        ...


class FrameSource:
    """Frames of videos by row, as a pipeline prepares them."""

    def __init__(
        self,
        videos: VideoSet,
        reader: FrameReader,
        images: PixelPipeline,
        *,
        n_frames: int,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.videos, self.images, self.device, self.n_frames = videos, images, device, n_frames
        self._reader, self._seed = reader, seed

    def training(self, rows: Ints, roles: Sequence[Role], episode: int) -> Tensor:
        """Return augmented frames (V, T, 3, size, size) of the videos of one episode.

        What is drawn depends on the seed, the episode and the video alone.

        Raises:
            VideoFailed: one of them cannot be read.
        """
        sampler = self.images.train_sampler
        visits = [Visit(int(row), sampler, self.n_frames, self._seed, episode) for row in rows]
        clips, failed = [], None
        for visit, role, frames in zip(visits, roles, self._reader.read(visits), strict=True):
            video_id = self.videos.videos[visit.row].video_id
            if isinstance(frames, DecodeFailure):  # the others are taken, or they would be left over
                failed = failed or VideoFailed(visit.row, video_id, frames)
                continue
            placed = sent(torch.from_numpy(frames), self.device)
            clips.append(self.images.train(placed, role, seed=self._seed, step=episode, video_id=video_id))
        if failed is not None:
            raise failed
        return torch.stack(clips)

    def test(self, rows: Ints) -> list[Tensor | DecodeFailure]:
        """Return the test frames (T, 3, size, size) of each video, or why there are none."""
        visits = [Visit(int(row), self.images.test_sampler, self.n_frames) for row in rows]
        return [
            frames
            if isinstance(frames, DecodeFailure)
            else prepare(sent(torch.from_numpy(frames), self.device), self.images.test)
            for frames in self._reader.read(visits)
        ]
