"""The frames that a store used, fetched again from the videos by stored index, as small JPEG pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.decode import decode_clip

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

HEIGHT, WIDTH = 60, 80
"""Of a picture on the page, pixels; one of another shape is fitted in."""
QUALITY = 70


@dataclass(frozen=True)
class Strip:
    """The frames of one video."""

    video_id: str
    class_name: str
    pictures: tuple[str, ...]
    """Data addresses of JPEG pictures, empty where the video is gone."""
    times_seconds: tuple[float, ...]
    note: str = ""


class FrameFetcher:
    """Strips of a store's videos. A video that is gone, or no longer the one that was encoded, gives a note instead."""

    def __init__(self, store: "FeatureStore", frames: Sequence[int]) -> None:
        """Keep the store and the slots to show."""
        self._store, self._frames = store, list(frames)
        self._known: dict[int, Strip] = {}

    def strip(self, row: int) -> Strip:
        """Return the frames of a row."""
        if row not in self._known:
            self._known[row] = self._fetch(row)
        return self._known[row]

    def _fetch(self, row: int) -> Strip:
        video = self._store.videos[row]
        indices = np.asarray(self._store.frame_index([row]))[0, 0][self._frames]
        times = tuple(float(t) for t in np.asarray(self._store.frame_time([row]))[0, 0][self._frames])
        wanted = np.unique(indices)

        def choose(n_frames: int) -> "np.typing.NDArray[np.integer]":
            if wanted[-1] >= n_frames:
                raise VideoError("too-short", f"{video.path} has {n_frames} frames, frame {wanted[-1]} was stored")
            return wanted

        try:
            clip = decode_clip(Path(video.path), choose)
        except (VideoError, InputError, OSError) as error:
            return Strip(video.video_id, video.class_name, (), times, f"frames left out: {error}")
        pictures = {index: jpeg(frame) for index, frame in zip(wanted.tolist(), clip.frames, strict=True)}
        return Strip(video.video_id, video.class_name, tuple(pictures[int(i)] for i in indices), times)


def jpeg(frame: "np.typing.NDArray[np.uint8]", size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """Return a frame (H, W, 3) as the data address of a small JPEG picture."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail(size)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
