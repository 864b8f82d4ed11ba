"""What another decoder returns counts only where it agrees with PyAV, frame by frame.

The others seek by time stamps, so a stream whose first ones are missing or negative gives them other frames than were
asked for; they conceal damage; they know turns but no mirrors. None of that shows in what they return.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.clip import Choose, Clip, VideoError
from fsar.pipeline.video.pyav import PyAVDecoder

MAX_DIFFERENCE = 3.0
"""Mean difference between two pictures of one frame, of 255 levels: rounding stays below 1, other levels do not."""


class Reader(Protocol):
    """One library's way to the frames of a file."""

    name: str

    def read(self, path: Path, indices: list[int]) -> tuple[npt.NDArray[np.uint8], int]:
        """Return the frames at `indices` (ascending, each once) and the number of all frames; or raise `VideoError`."""
        ...


class CheckedDecoder:
    """Frames by another library, each compared with PyAV's. It costs both decoders' time."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self.name = reader, reader.name

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`, with reason "disagreement" where the two differ."""
        expected = PyAVDecoder().decode(path, choose)
        unique, position = np.unique(expected.indices, return_inverse=True)
        frames, n_frames = self._reader.read(path, unique.tolist())
        if n_frames != expected.n_frames:
            self._refuse(path, f"finds {n_frames} frames, PyAV {expected.n_frames}")
        if frames.shape[1:] != expected.frames.shape[1:]:
            sizes = [f"{shape[2]} x {shape[1]}" for shape in (frames.shape, expected.frames.shape)]
            self._refuse(path, f"gives pictures of {sizes[0]} pixels, PyAV of {sizes[1]}")
        for picture, other, index in zip(frames[position], expected.frames, expected.indices.tolist(), strict=True):
            difference = np.abs(np.subtract(picture, other, dtype=np.int16)).mean()
            if difference > MAX_DIFFERENCE:
                self._refuse(path, f"gives another frame {index} than PyAV (by {difference:.0f} of 255 levels)")
        return Clip(frames[position], expected.indices, expected.times_seconds, expected.n_frames)

    def _refuse(self, path: Path, found: str) -> None:
        raise VideoError("disagreement", f"{path}: {self.name} {found}")
