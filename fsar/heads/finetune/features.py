"""Features of a tower as it stands, for validation while it trains and for evaluation without a store."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from fsar.device import sent
from fsar.heads.batch import Features
from fsar.heads.episodes.counter_rng import Counter
from fsar.heads.episodes.sampler import Ints
from fsar.heads.finetune.frames import Inputs
from fsar.heads.finetune.tower import Tower
from fsar.pipeline.encode.clip_task import DecodeFailure

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

CHUNK_VIDEOS = 8


class TowerFeatures:
    """The features of some videos in evaluation mode, made once: in their place, what a store would give."""

    n_views = 1

    def __init__(
        self, tower: Tower, source: Inputs, rows: Ints, store: "FeatureStore", *, micro_batch: int | None = None
    ) -> None:
        """Embed the videos `rows` of a (live) store; those that cannot be read are in `failed` afterwards."""
        self.store = store
        self.device, self.n_slots, self.n_frames = source.device, source.n_frames, source.n_frames
        self.failed: dict[int, DecodeFailure] = {}
        self._place = np.full(int(rows.max()) + 1, -1, np.int64)
        self._features = self._embed(tower, source, rows, micro_batch)

    @torch.inference_mode()
    def _embed(self, tower: Tower, source: Inputs, rows: Ints, micro_batch: int | None) -> Features:
        was_training = tower.training
        tower.eval()
        parts: dict[str, list[torch.Tensor]] = {role: [] for role in tower.taps}
        n_done = 0
        for start in range(0, len(rows), CHUNK_VIDEOS):
            some = rows[start : start + CHUNK_VIDEOS]
            for row, frames in zip(some.tolist(), source.test(some), strict=True):
                if isinstance(frames, DecodeFailure):
                    self.failed[row] = frames
                    continue
                for role, features in embed_in_chunks(tower, frames, micro_batch).items():
                    parts[role].append(features.float())
                self._place[row] = n_done
                n_done += 1
        tower.train(was_training)
        return {role: torch.stack(own) for role, own in parts.items() if own}

    @property
    def bytes_per_video(self) -> int:
        """Size of the features of one video, as the evaluation counts it."""
        return sum(table[0].numel() * 2 for table in self._features.values())

    @property
    def reads_ahead(self) -> bool:
        """Whether batches are better made while the last one is computed."""
        return self.device.startswith("cuda")

    def gather(self, rows: Ints, views: Ints | None = None, frames: Ints | None = None) -> Features:
        """Return role -> (R, T, ...) of `rows` (R,)."""
        places = torch.from_numpy(self._place[rows])
        return {role: table[sent(places, table.device)] for role, table in self._features.items()}

    def draw_visits(self, counter: Counter, indices: Ints, n_videos: int) -> tuple[None, None]:
        """Return nothing: there is one view."""
        return None, None


def embed_in_chunks(tower: Tower, frames: torch.Tensor, n_frames: int | None) -> Features:
    """Return the features of the frames of a video (T, 3, H, W), at most `n_frames` at once; clips are seen whole."""
    if tower.frames_per_input > 1:
        whole: Features = tower(frames)
        return whole
    parts = [tower(chunk) for chunk in torch.split(frames, n_frames or len(frames))]
    return {role: torch.cat([part[role] for part in parts]) for role in parts[0]}
