"""What every decoder shares: the clip it returns, the error it raises, and the checks that come before decoding."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

Choose = Callable[[int], npt.NDArray[np.integer]]
"""From the number of frames in a video to the indices that are wanted, in any order, repeats allowed."""


MAX_PIXELS = 1 << 27
"""Pixels of one frame (16384 x 8192): more is no video but a mistake or an attack, and would fill the memory."""


class VideoError(Exception):
    """One video cannot be used.

    `reason` is a short code for tables: missing, empty, not-a-video, no-video-stream, no-frames, truncated (ends
    early), damaged (frames lost or patched over), corrupt (the decoder gave up), unsupported, too-large,
    too-short, ambiguous (a folder that holds more than one kind of pictures), disagreement (a decoder gives other
    frames than the reference), timeout, crashed, error (an exception nobody foresaw). `str(error)` is one line that
    says what was found.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both in args, so that the error survives a trip between processes
        self.reason = reason
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Clip:
    """Chosen frames of one video, in the order in which they were asked for."""

    frames: npt.NDArray[np.uint8]
    """(T, H, W, 3) RGB, as a viewer would see them: turned and mirrored as the metadata say."""
    indices: npt.NDArray[np.int32]
    """(T,) position of each frame in the video, from 0."""
    times_seconds: npt.NDArray[np.float64]
    """(T,) presentation time of each frame; see `times.presentation_seconds` for containers that do not state it."""
    n_frames: int
    """Frames in the whole video."""


class Decoder(Protocol):
    """Turns a video into a `Clip`. Implementations give the same pixels for the same file."""

    name: str

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the frames that `choose` picks, or raise `VideoError`."""
        ...


def check_file(path: Path) -> None:
    """Raise `VideoError` unless `path` is a file with something in it."""
    if path.is_dir():
        raise VideoError("not-a-video", f"{path} is a folder, not a video file")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise VideoError("missing", f"{path} does not exist") from None
    except OSError as error:  # a loop of links, a name that is too long, no permission on the way
        raise VideoError("missing", f"{path} cannot be reached: {error.strerror}") from None
    if not stat.S_ISREG(mode):  # a pipe would keep its reader waiting
        raise VideoError("not-a-video", f"{path} is not a regular file")
    if path.stat().st_size == 0:
        raise VideoError("empty", f"{path} is empty (0 bytes)")


def chosen_indices(choose: Choose, n_frames: int, path: Path) -> npt.NDArray[np.int32]:
    """Return `choose(n_frames)` checked: one-dimensional and inside the video; `VideoError` names the path."""
    if n_frames < 1:
        raise VideoError("no-frames", f"{path} has a video stream without frames")
    indices = np.asarray(choose(n_frames), dtype=np.int32)
    if indices.ndim != 1 or indices.size == 0:
        raise ValueError(f"choose must return a non-empty row of indices, got shape {indices.shape}")
    if indices.min() < 0 or indices.max() >= n_frames:
        raise ValueError(f"choose must return indices in 0..{n_frames - 1}, got {indices.min()}..{indices.max()}")
    return indices


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
