"""The alternatives to PyAV, for who prefers them and as a second opinion before a video is called unreadable."""

from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.video.clip import Choose, Clip, VideoError, chosen_indices
from fsar.pipeline.video.probe import open_video, read_packets


class DecordDecoder:
    """decord on one thread: its default threading fails on VP9."""

    name = "decord"

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`."""
        decord = import_decord()
        check_whole(path)
        try:
            # Without fault_tol decord hands out copies of good frames in place of damaged ones.
            reader = decord.VideoReader(str(path), num_threads=1, fault_tol=1)
            indices = chosen_indices(choose, len(reader), path)
            unique, position = np.unique(indices, return_inverse=True)
            frames = reader.get_batch(unique.tolist()).asnumpy()[position]
            times = reader.get_frame_timestamp(indices.tolist())[:, 0].astype(np.float64)
        except (decord.DECORDError, decord.DECORDLimitReachedError) as error:
            raise VideoError("corrupt", f"{path} cannot be decoded by decord: {_first_line(error)}") from error
        return Clip(frames, indices, times, len(reader))


class TorchcodecDecoder:
    """torchcodec, which uses the FFmpeg of the system. To be made after a process was spawned, never before a fork."""

    name = "torchcodec"

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`."""
        make_decoder = import_torchcodec()
        check_whole(path)
        try:
            reader = make_decoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            indices = chosen_indices(choose, len(reader), path)
            unique, position = np.unique(indices, return_inverse=True)
            batch = reader.get_frames_at(unique.tolist())
        except RuntimeError as error:
            raise VideoError("corrupt", f"{path} cannot be decoded by torchcodec: {_first_line(error)}") from error
        return Clip(batch.data.numpy()[position], indices, batch.pts_seconds.numpy()[position], len(reader))


def check_whole(path: Path) -> None:
    """Raise `VideoError` for a file that is missing, empty, no video or shorter than its container promises."""
    with open_video(path) as (container, stream):
        read_packets(container, stream, path)


def import_decord() -> Any:
    """Return the decord module, its chatter off; `InputError` says what to do when it is not installed."""
    try:
        import decord
    except ImportError as error:
        raise InputError("decoder 'decord' is not installed on this machine: use --decoder pyav") from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def import_torchcodec() -> Any:
    """Return torchcodec's `VideoDecoder`; `InputError` says what to do when it or its FFmpeg is missing."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        message = "decoder 'torchcodec' needs `pip install fsar[torchcodec]` and FFmpeg on the system: "
        raise InputError(message + _first_line(error)) from error
    return VideoDecoder


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
