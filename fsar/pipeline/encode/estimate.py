"""What a whole set will cost, from a few of its videos encoded here: storage of each tap, hours by workers."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError
from fsar.pipeline.encode.clip_task import DecodedClip, decode_task
from fsar.pipeline.encode.encode import EncodeOptions, EncodePlan, encode
from fsar.pipeline.encode.recipe import task_of

if TYPE_CHECKING:
    from fsar.pipeline.catalog.catalog import CatalogRow

N_VIDEOS = 10
BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Estimate:
    """Cost of one video, and what follows for all."""

    n_videos: int
    n_measured: int
    tap_bytes: dict[str, int]
    """Of one video, by tap."""
    decode_seconds: float
    """Of one video, on one core."""
    forward_seconds: float
    """Of one video, through the backbone on the device."""
    device: str
    n_cores: int
    """That this process may use."""

    @property
    def seconds_per_video(self) -> float:
        """Time that one worker takes for a video, with as many decode processes as cores.

        A processor decodes and computes with the same cores; beside a GPU the slower of the two counts.
        """
        decode = self.decode_seconds / self.n_cores
        return self.forward_seconds + decode if self.device == "cpu" else max(self.forward_seconds, decode)

    @property
    def n_decoders(self) -> int:
        """Decode processes, of one core each, that keep pace with the device."""
        return max(math.ceil(self.decode_seconds / max(self.forward_seconds, 1e-9)), 1)

    def hours(self, n_workers: int) -> float:
        """Return the time for all videos on so many machines like this one."""
        return self.n_videos * self.seconds_per_video / n_workers / 3600


def estimate(rows: Sequence[CatalogRow], prepared: EncodePlan, options: EncodeOptions) -> Estimate:
    """Decode ten videos, spread over the list, and encode them in a temporary folder.

    Raises:
        InputError: none of them can be read.
    """
    from fsar.device import resolve_device

    chosen = [rows[index * len(rows) // min(len(rows), N_VIDEOS)] for index in range(min(len(rows), N_VIDEOS))]
    clips, decode_seconds = _decoded(chosen, prepared)
    readable = [row for row in chosen if row.video_id in clips]
    if not readable:
        raise InputError(f"none of {len(chosen)} videos could be read (first: {chosen[0].path})")
    recipe = prepared.recipe
    frames = recipe.n_slots * recipe.n_views
    return Estimate(
        n_videos=len(rows),
        n_measured=len(readable),
        tap_bytes={tap: math.prod(spec.shape) * BYTES[spec.dtype] * frames for tap, spec in prepared.taps.items()},
        decode_seconds=decode_seconds / len(readable),
        forward_seconds=_forward_seconds(readable, clips, prepared, options) / len(readable),
        device=resolve_device(options.engine.device).type,
        n_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _decoded(rows: Sequence[CatalogRow], prepared: EncodePlan) -> tuple[dict[str, DecodedClip], float]:
    """Return the frames of the videos that can be read, and the processor time that took."""
    from fsar.pipeline.video.decode import VideoError

    recipe, clips, seconds = prepared.recipe, {}, 0.0
    for row in rows:
        views = 1 if row.part in ("val", "test") else recipe.n_views
        task = task_of(row.video_id, str(row.path), recipe, views)
        start = time.process_time()
        try:
            clips[row.video_id] = decode_task(task)
        except (VideoError, OSError):
            continue
        seconds += time.process_time() - start
    return clips, seconds


def _forward_seconds(
    rows: Sequence[CatalogRow], clips: dict[str, DecodedClip], prepared: EncodePlan, options: EncodeOptions
) -> float:
    """Return the time to encode videos that are decoded already; once before, to wake the device."""
    engine = replace(options.engine, jobs=0, decode=lambda task: clips[task.video_id])
    ids = {row.video_id for row in rows}
    few = replace(prepared, videos=[video for video in prepared.videos if video.video_id in ids])
    seconds = 0.0
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="fsar-estimate-") as folder:
            out = Path(folder) / "estimate.zarr"
            seconds = encode(rows, out, replace(options, engine=engine), prepared=few, quiet=True).run.seconds
    return seconds
