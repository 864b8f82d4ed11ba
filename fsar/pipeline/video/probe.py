"""Does a video file hold what its container promises? Counted from its packets, without decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsar.pipeline.video.clip import VideoError, check_file

CONTAINER_SLACK_FRAMES = 1.5
"""A container's duration is rounded and may belong to another stream; a file that ends more than this many frames
before it is truncated."""
STREAM_SLACK_FRAMES = 0.5
"""The same where the container states the duration of the video stream itself."""
AVI_SLACK = 0.02
"""An AVI header is an estimate that writers forget to correct: this share (and 2 frames) may be missing."""


@dataclass(frozen=True)
class Packets:
    """The coded frames of one video stream, in file order."""

    shown: list[Any]
    """`av.Packet`s of the video stream, the closing empty packet included, so that decoding them all flushes."""
    n_shown: int
    """Coded frames that a player would show (an edit list may hide some)."""


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield (container, video stream) of a file; `VideoError` if it is missing, empty, no video or without a stream."""
    import av

    check_file(path)
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise VideoError("not-a-video", f"{path} is not a video that can be read: {_cause(error)}") from error
    with container:
        yield container, video_stream(container, path)


def video_stream(container: Any, path: Path) -> Any:
    """Return the first real video stream (a cover picture of a music file is none)."""
    import av

    attached = getattr(getattr(av.stream, "Disposition", None), "attached_pic", 0)
    for stream in container.streams.video:
        if not attached or not stream.disposition & attached:
            if stream.codec_context is None:
                raise VideoError("unsupported", f"{path}: no decoder for its video stream")
            stream.codec_context.thread_count = 1
            return stream
    if not any(stream.type in ("video", "audio") for stream in container.streams):
        raise VideoError("not-a-video", f"{path} holds no stream that can be read; it may be cut short")
    raise VideoError("no-video-stream", f"{path} has no video stream")


def read_packets(container: Any, stream: Any, path: Path) -> Packets:
    """Return the video packets of a file, or raise `VideoError("truncated")` if it ends before it should."""
    import av

    packets: list[Any] = []
    n_total, n_hidden, end_seconds = 0, 0, 0.0
    frame_seconds = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    streams = [s for s in container.streams if s.type in ("video", "audio")] if not stream.frames else [stream]
    try:
        for packet in container.demux(streams):
            if packet.pts is not None and packet.time_base is not None:
                duration_seconds = float(packet.duration * packet.time_base) if packet.duration else frame_seconds
                end_seconds = max(end_seconds, float(packet.pts * packet.time_base) + duration_seconds)
            if packet.stream.index != stream.index:
                continue
            packets.append(packet)
            if packet.size:
                n_total += 1
                n_hidden += bool(packet.is_discard)
    except av.error.FFmpegError as error:
        raise VideoError("truncated", f"{path} breaks off after {n_total} frames: {_cause(error)}") from error
    _check_promise(container, stream, n_total, end_seconds, frame_seconds, path)
    return Packets(packets, n_total - n_hidden)


def _check_promise(
    container: Any, stream: Any, n_total: int, end_seconds: float, frame_seconds: float, path: Path
) -> None:
    if stream.frames:
        slack = max(2, AVI_SLACK * stream.frames) if "avi" in container.format.name else 0
        if n_total < stream.frames - slack:
            message = f"{path} ends early: {n_total} of the {stream.frames} frames that its header promises"
            raise VideoError("truncated", message)
        return
    promised_seconds, slack_frames = _promised_seconds(container, stream)
    if promised_seconds - end_seconds > slack_frames * frame_seconds:
        message = f"{path} ends early: {end_seconds:.2f} of the {promised_seconds:.2f} s that its header promises"
        raise VideoError("truncated", message)


def _promised_seconds(container: Any, stream: Any) -> tuple[float, float]:
    """Return the stated duration and how many frames may be missing from it."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base), STREAM_SLACK_FRAMES
    hours_minutes_seconds = stream.metadata.get("DURATION", "").split(":")  # Matroska and WebM
    if len(hours_minutes_seconds) == 3:
        hours, minutes, seconds = map(float, hours_minutes_seconds)
        return 3600 * hours + 60 * minutes + seconds, STREAM_SLACK_FRAMES
    return (container.duration or 0) / 1_000_000, CONTAINER_SLACK_FRAMES


def _cause(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
