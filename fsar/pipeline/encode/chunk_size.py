"""How many videos one chunk of a store holds: what an interruption costs at most."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fsar.pipeline.backbones import Backbone

if TYPE_CHECKING:
    from fsar.pipeline.store import TapSpec

MOST_BYTES = 32 << 20
LEAST_CHUNKS = 16
"""A set is cut into so many chunks at least, so that little of a small set is lost."""
CHUNKS_PER_WORKER = 8
"""Fewer would leave some workers idle at the end for long: the last one to finish has a whole chunk to do."""
LEAST_ROWS = 4
"""Below this the files of a chunk cost more than its features."""
CPU_ROWS, CPU_PARAMETERS = 256, 5e6
"""On a processor a ResNet-50 (25 million parameters) takes about a quarter of a minute for 50 videos of 8 frames, a
ViT-B/16 (86 million) as long for 15: chunks shrink as the network grows."""


def chunk_rows(
    n_videos: int,
    backbone: Backbone,
    taps: Mapping[str, "TapSpec"],
    n_frames: int,
    *,
    chunk_bytes: int | None,
    on_cpu: bool,
    n_workers: int = 1,
) -> int:
    """Return the videos of a chunk.

    Args:
        n_videos: In the set.
        backbone: Its size says how long a chunk takes on a processor.
        taps: The largest one is cut into pieces of about `chunk_bytes`.
        n_frames: Frames stored of a video, all views together.
        chunk_bytes: Size of a chunk of the largest tap, whatever the number of workers and the device; by default
            as much as suits them, at most `MOST_BYTES`.
        on_cpu: No accelerator computes the features.
        n_workers: Processes that will fill the store together.
    """
    largest = max(math.prod(spec.shape) * (2 if spec.dtype == "float16" else 4) for spec in taps.values()) * n_frames
    limits = [CPU_ROWS, max((chunk_bytes or MOST_BYTES) // largest, 1)]
    if chunk_bytes is not None:
        return min(limits)
    limits.append(max(LEAST_ROWS, math.ceil(n_videos / max(LEAST_CHUNKS, CHUNKS_PER_WORKER * n_workers))))
    if on_cpu:
        n_parameters = sum(parameter.numel() for parameter in backbone.module.parameters())
        limits.append(max(LEAST_ROWS, round(CPU_ROWS * min(CPU_PARAMETERS / max(n_parameters, 1), 1))))
    return min(limits)
