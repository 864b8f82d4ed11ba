"""decord: FFmpeg 4 behind an interface that many training loops are used to."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError
from fsar.pipeline.video.clip import VideoError, first_line


class DecordReader:
    """decord on one thread: its default threading fails on VP9."""

    name = "decord"

    def read(self, path: Path, indices: list[int]) -> tuple[npt.NDArray[np.uint8], int]:
        """Return the frames at `indices` and the number of all frames, or raise `VideoError`."""
        decord = import_decord()
        try:
            # Without fault_tol decord hands out copies of good frames in place of damaged ones.
            reader = decord.VideoReader(str(path), num_threads=1, fault_tol=1)
            n_frames = len(reader)
            frames = reader.get_batch([index for index in indices if index < n_frames]).asnumpy()
        except (decord.DECORDError, decord.DECORDLimitReachedError) as error:
            raise VideoError("disagreement", f"{path} cannot be decoded by decord: {first_line(error)}") from error
        return frames, n_frames


def import_decord() -> Any:
    """Return the decord module, its chatter off; `InputError` says what to do when it is not installed."""
    try:
        import decord
    except ImportError as error:
        raise InputError("decoder 'decord' is not installed on this machine: use --decoder pyav") from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord
