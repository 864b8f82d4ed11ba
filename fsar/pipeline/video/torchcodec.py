"""torchcodec: PyTorch's own decoder, on the FFmpeg of the system."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError
from fsar.pipeline.video.clip import VideoError, first_line


class TorchcodecReader:
    """torchcodec with an exact scan of the file. To be made after a process was spawned, never before a fork."""

    name = "torchcodec"

    def read(self, path: Path, indices: list[int]) -> tuple[npt.NDArray[np.uint8], int]:
        """Return the frames at `indices` and the number of all frames, or raise `VideoError`."""
        make_decoder = import_torchcodec()
        try:
            reader = make_decoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            n_frames = len(reader)
            batch = reader.get_frames_at([index for index in indices if index < n_frames])
        except (RuntimeError, ValueError, IndexError) as error:
            raise VideoError("disagreement", f"{path} cannot be decoded by torchcodec: {first_line(error)}") from error
        return batch.data.numpy(), n_frames


def import_torchcodec() -> Any:
    """Return torchcodec's `VideoDecoder`; `InputError` says what to do when it or its FFmpeg is missing."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        message = "decoder 'torchcodec' needs `pip install fsar[torchcodec]` and FFmpeg on the system: "
        raise InputError(message + first_line(error)) from error
    return VideoDecoder
