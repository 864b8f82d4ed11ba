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
    from fsar.pipeline.packs import FramePack
    from fsar.pipeline.store import FeatureStore

    Ints = np.typing.NDArray[np.integer]
    Pictures = np.typing.NDArray[np.uint8]

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

    def __init__(self, store: "FeatureStore", frames: Sequence[int], pack: "FramePack | None" = None) -> None:
        """Keep the store, the slots to show, and packed frames to show in place of videos."""
        self._store, self._frames, self._pack = store, list(frames), pack
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
        path = self._store.video_path(row)
        try:
            pack = self._pack or _pack_of(path)
            found = _packed(pack, video.video_id, indices) if pack is not None else _decoded(path, indices)
        except (VideoError, InputError, OSError) as error:
            return Strip(video.video_id, video.class_name, (), times, f"frames left out: {error}")
        return Strip(video.video_id, video.class_name, tuple(jpeg(frame) for frame in found), times)


def _pack_of(path: Path) -> "FramePack | None":
    """Return the pack that a store was made from; None where it was made from videos."""
    from fsar.pipeline.packs import FramePack, is_pack

    return FramePack.open(path) if is_pack(path) else None


def _packed(pack: "FramePack", video_id: str, indices: "Ints") -> "Pictures":
    """Return frames by their position in the video, out of those that a pack stores."""
    video = pack.video(video_id)
    lacking = [int(index) for index in indices if index not in video.frame_index]
    if lacking:
        raise VideoError("missing", f"{pack.path} does not hold frame {lacking[0]} of {video_id}")
    return pack.frames(video_id, np.searchsorted(video.frame_index, indices))


def _decoded(path: Path, indices: "Ints") -> "Pictures":
    """Return frames of a video file by their position."""
    wanted = np.unique(indices)

    def choose(n_frames: int) -> "Ints":
        if wanted[-1] >= n_frames:
            raise VideoError("too-short", f"{path} has {n_frames} frames, frame {wanted[-1]} was stored")
        return wanted

    clip = decode_clip(path, choose)
    return clip.frames[np.searchsorted(wanted, indices)]


def jpeg(frame: "np.typing.NDArray[np.uint8]", size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """Return a frame (H, W, 3) as the data address of a small JPEG picture."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail(size)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
