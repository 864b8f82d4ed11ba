"""One video to decode, what comes of it, and decoding it in this process."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.source import source_sha256

if TYPE_CHECKING:
    from fsar.pipeline.packs import FramePack
    from fsar.pipeline.video.clips import ClipShape


@dataclass(frozen=True)
class ClipTask:
    """One video to decode and the frames wanted of it."""

    video_id: str
    path: str
    sampler: str
    n_slots: int
    n_views: int
    seed: int
    decoder: str = "pyav"
    clip: ClipShape | None = None
    """The clips that the network sees; None where it sees single frames."""

    def indices(self, n_frames: int) -> npt.NDArray[np.int32]:
        """Return the frames that the network sees of every view, (V, F).

        A random sampler draws anew for each, from the video's own seed.
        """
        from fsar.pipeline.video.sample import is_random_sampler

        if not is_random_sampler(self.sampler):
            return np.tile(self._indices(n_frames, None), (self.n_views, 1))
        draws = [view_generator(self.seed, self.video_id, view) for view in range(self.n_views)]
        return np.stack([self._indices(n_frames, draw) for draw in draws])

    def _indices(self, n_frames: int, generator: np.random.Generator | None) -> npt.NDArray[np.int32]:
        from fsar.pipeline.video.sample import sample_indices

        if self.clip is None:
            return sample_indices(self.sampler, n_frames, self.n_slots, generator)
        return self.clip.frames(self.sampler, n_frames, self.n_slots, generator)

    def of_slots(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return of values (V, F) of every frame those that a store records of its slots, (V, T)."""
        return values if self.clip is None else self.clip.first_of_slots(values)


@dataclass(frozen=True)
class DecodedClip:
    """The distinct frames of one video and which of them the network sees, in order."""

    frames: npt.NDArray[np.uint8]
    """(U, H, W, 3) RGB, every wanted frame once."""
    slots: npt.NDArray[np.intp]
    """(V, F) rows of `frames`: every frame that the network sees."""
    frame_index: npt.NDArray[np.int32]
    """(V, T) of the store's slots."""
    frame_time: npt.NDArray[np.float64]
    """(V, T) seconds."""
    n_frames: int
    sha256: bytes
    """Of the source file."""
    cpu_seconds: float = 0.0
    """Processor time that decoding took, and cutting out."""
    is_cut: bool = False
    """Whether the frames are resized and cropped already, for each view its own: (V * F, size, size, 3)."""

    def of_view(self, view: int) -> npt.NDArray[np.uint8]:
        """Return every frame that the network sees of a view, (F, H, W, 3); not copied where they lie in a row."""
        slots = self.slots[view]
        first, end = int(slots[0]), int(slots[0]) + len(slots)
        return self.frames[first:end] if (slots == np.arange(first, end)).all() else self.frames[slots]


@dataclass(frozen=True)
class DecodeFailure:
    """Why a video has no frames: a short reason for tables and one line for people."""

    reason: str
    message: str


Decode = Callable[[ClipTask], DecodedClip]


def view_generator(seed: int, video_id: str, view: int) -> np.random.Generator:
    """Return the generator of one view of one video: the same in every store and on every machine."""
    key = int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, key, view])


def decode_task(task: ClipTask) -> DecodedClip:
    """Decode one video, or its packed frames; raises VideoError when it cannot be used."""
    from fsar.pipeline.packs import is_pack
    from fsar.pipeline.video.decode import decode_clip

    if is_pack(task.path):
        return _packed_clip(task)

    start = time.process_time()
    wanted: list[npt.NDArray[np.int32]] = []

    def choose(n_frames: int) -> npt.NDArray[np.int32]:
        wanted[:] = [task.indices(n_frames)]
        return np.unique(wanted[0])

    path = Path(task.path)
    clip = decode_clip(path, choose, decoder=task.decoder)
    slots = np.searchsorted(clip.indices, wanted[0])
    return DecodedClip(
        frames=clip.frames,
        slots=slots,
        frame_index=task.of_slots(wanted[0]),
        frame_time=task.of_slots(clip.times_seconds[slots]),
        n_frames=clip.n_frames,
        sha256=bytes.fromhex(source_sha256(path)),
        cpu_seconds=time.process_time() - start,
    )


def _packed_clip(task: ClipTask) -> DecodedClip:
    """Sample among the stored frames as if they were the video; what is recorded are the frames of the video itself."""
    start = time.process_time()
    path = Path(task.path)
    pack = _open_pack(path, (path / "pack.json").stat().st_mtime_ns)
    video = pack.video(task.video_id)
    wanted = task.indices(video.n_stored) if video.n_stored else np.zeros((1, 1), np.int32)
    distinct, slots = np.unique(wanted, return_inverse=True)
    return DecodedClip(
        frames=pack.frames(task.video_id, distinct),
        slots=slots.reshape(wanted.shape),
        frame_index=task.of_slots(video.frame_index[wanted]),
        frame_time=task.of_slots(video.frame_time[wanted]),
        n_frames=video.n_frames,
        sha256=video.source_sha256,
        cpu_seconds=time.process_time() - start,
    )


@functools.lru_cache(maxsize=4)
def _open_pack(path: Path, changed_ns: int) -> FramePack:
    """Return a pack that stays open, until videos are added to it."""
    from fsar.pipeline.packs import FramePack

    return FramePack.open(path)


def attempt(decode: Decode, task: ClipTask) -> DecodedClip | DecodeFailure:
    """Decode, with whatever goes wrong as a `DecodeFailure`."""
    from fsar.errors import InputError, unforeseen
    from fsar.pipeline.video.decode import VideoError

    try:
        return decode(task)
    except VideoError as error:
        return DecodeFailure(error.reason, str(error))
    except (OSError, InputError) as error:
        return DecodeFailure("unreadable", f"{task.path}: {error}")
    except Exception as error:  # one strange file must not end the work on all the others
        return DecodeFailure("error", f"{task.path}: {unforeseen(error)}")


class InlineDecoder:
    """Decode in the calling process, when asked for. No deadline, no protection from crashes."""

    def __init__(self, decode: Decode = decode_task) -> None:
        self._decode = decode
        self._tasks: dict[int, ClipTask] = {}

    @property
    def n_outstanding(self) -> int:
        """Videos submitted and not yet taken."""
        return len(self._tasks)

    def submit(self, key: int, task: ClipTask) -> None:
        """Note a video to decode."""
        self._tasks[key] = task

    def take(self, key: int) -> DecodedClip | DecodeFailure:
        """Return the clip of a submitted video."""
        return attempt(self._decode, self._tasks.pop(key))

    def close(self) -> None:
        """Do nothing."""
