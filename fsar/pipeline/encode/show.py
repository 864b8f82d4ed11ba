"""What the network sees of a video: its frames sampled, resized and cropped as in encoding, as a strip of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.files import atomic_path
from fsar.pipeline.encode.clip_task import ClipTask, decode_task
from fsar.pipeline.encode.packed_frames import as_packed
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.pixels.spec import ImageSpec

if TYPE_CHECKING:
    from torch import Tensor

    from fsar.pipeline.packs.layout import PackSettings

GAP = 2
"""White pixels between frames."""


def seen_frames(
    task: ClipTask, spec: ImageSpec, packed: PackSettings | None = None
) -> tuple[npt.NDArray[np.uint8], list[float]]:
    """Return the network's input of a video's first view, normalised back, (T, size, size, 3), and the frames' seconds.

    Args:
        task: The video and the frames wanted of it.
        spec: How pictures are prepared.
        packed: How frames were packed before; None where videos were read.

    Raises:
        VideoError: the video cannot be used.
    """
    decoded = decode_task(task)
    frames = decoded.frames[decoded.slots[0]]
    if packed is not None:
        frames = np.stack([as_packed(frame, packed) for frame in frames])
    return normalised_back(prepare(frames, spec), spec), [float(t) for t in decoded.frame_time[0]]


def normalised_back(pixels: Tensor, spec: ImageSpec) -> npt.NDArray[np.uint8]:
    """Return a network's input (T, 3, size, size) as pictures (T, size, size, 3)."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    shown = ((pixels * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return shown.numpy()


def write_strip(frames: npt.NDArray[np.uint8], out: Path) -> None:
    """Write frames (T, H, W, 3) side by side as one picture; the suffix says the format."""
    from PIL import Image

    height, width = frames.shape[1:3]
    strip: Any = np.full((height, len(frames) * (width + GAP) - GAP, 3), 255, np.uint8)
    for place, frame in enumerate(frames):
        left = place * (width + GAP)
        strip[:, left : left + width] = frame
    with atomic_path(out) as temporary:
        Image.fromarray(strip).save(temporary)
