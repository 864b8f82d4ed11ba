"""Does a video file hold what its container promises? Counted from its packets, without decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from fsar.pipeline.video.clip import MAX_PIXELS, VideoError, check_file
from fsar.pipeline.video.matroska import wholeness

CONTAINER_SLACK_FRAMES = 1.5
"""A container's duration is rounded and may belong to another stream; a file that ends more than this many frames
before it is truncated."""
STREAM_SLACK_FRAMES = 0.5
"""The same where the container states the duration of the video stream itself."""
AVI_SLACK = 0.02
"""An AVI header is an estimate that writers forget to correct: this share (and 2 frames) may be missing."""

OTHERS_CONTENT = frozenset(
    {
        *("concat", "dash", "hls", "image2", "imf", "rtp", "rtsp", "sap", "sdp", "vobsub", "webm_dash_manifest"),
        *("alsa", "fbdev", "kmsgrab", "lavfi", "oss", "v4l2", "video4linux2", "x11grab"),
    }
)
"""Formats of FFmpeg that show other files, the network or a device. A video is what its own file holds: that is what
its hash is of, and nobody's catalog may lead elsewhere."""


@dataclass(frozen=True)
class Packets:
    """The coded frames of one video stream, in file order."""

    shown: list[Any]
    """`av.Packet`s of the video stream, the closing empty packet included, so that decoding them all flushes."""
    n_shown: int
    """Coded frames that a player would show (an edit list may hide some)."""
    n_leading: int
    """How many of these may be lost at the start: they refer to frames before a cut, as in recordings of television."""
    start_seconds: float
    """When the first of these is to be decoded."""
    frame_seconds: float
    """How long a frame lasts at the stream's own rate."""


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Yield (container, video stream) of a file; `VideoError` if it is missing, empty, no video or without a stream."""
    import av

    check_file(path)
    options = {"format_whitelist": _own_formats(), "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path}", metadata_errors="replace", options=options)
    except av.error.ArgumentError as error:
        raise VideoError("not-a-video", f"{path} is a list of other files, or no video: name the files") from error
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise
        raise VideoError("not-a-video", f"{path} is not a video that can be read: {_cause(error)}") from error
    with container:
        yield container, video_stream(container, path)


@cache
def _own_formats() -> str:
    """Return FFmpeg's names of the formats whose content is all in the file itself."""
    import av

    return ",".join(sorted(av.formats_available - OTHERS_CONTENT))


def video_stream(container: Any, path: Path) -> Any:
    """Return the stream that players show: the default one, else the best; a cover picture is none."""
    streams = [stream for stream in container.streams.video if not _has(stream, "attached_pic")]
    if not streams:
        if not any(stream.type in ("video", "audio") for stream in container.streams):
            raise VideoError("not-a-video", f"{path} holds no stream that can be read; it may be cut short")
        raise VideoError("no-video-stream", f"{path} has no video stream")
    stream = _preferred(container, streams)
    context = stream.codec_context
    if context is None:
        raise VideoError("unsupported", f"{path}: no decoder for its video stream")
    if context.width * context.height > MAX_PIXELS:
        raise VideoError("too-large", f"{path}: frames of {context.width} x {context.height} pixels are too large")
    context.thread_count = 1
    return stream


def _preferred(container: Any, streams: list[Any]) -> Any:
    marked = [stream for stream in streams if _has(stream, "default")]
    candidates = marked if len(marked) == 1 else streams
    best = container.streams.best("video")
    return best if best in candidates else candidates[0]


def _has(stream: Any, flag: str) -> bool:
    import av

    return bool(stream.disposition & getattr(av.stream.Disposition, flag))


def read_packets(container: Any, stream: Any, path: Path) -> Packets:
    """Return the video packets of a file.

    Raises `VideoError`: "truncated" if it ends before it should, "damaged" if its structure is broken.
    """
    import av

    n_indexed = sum(1 for entry in stream.index_entries if entry.size)  # before reading, which adds to them
    packets: list[Any] = []
    frame_seconds = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    end_seconds = 0.0
    streams = [s for s in container.streams if s.type in ("video", "audio")] if not stream.frames else [stream]
    bases = {s.index: s.time_base for s in streams}  # a packet would make a new fraction each time it is asked
    try:
        for packet in container.demux(streams):
            index = packet.stream.index  # `packet.stream_index` is 0 in the closing packet of any stream
            base = bases[index]
            if packet.pts is not None and base is not None:
                duration_seconds = seconds_of(packet.duration, base) if packet.duration else frame_seconds
                end_seconds = max(end_seconds, seconds_of(packet.pts, base) + duration_seconds)
            if index == stream.index:
                packets.append(packet)
    except av.error.FFmpegError as error:
        raise VideoError("truncated", f"{path} breaks off after {len(packets)} frames: {_cause(error)}") from error
    coded = [packet for packet in packets if packet.size]
    _check_promise(container, stream, n_indexed, len(coded), end_seconds, frame_seconds, path)
    shown = [packet for packet in coded if not packet.is_discard]
    start_seconds = next((seconds_of(packet.dts, packet.time_base) for packet in shown if packet.dts is not None), 0.0)
    return Packets(packets, len(shown), _n_leading(shown), start_seconds, frame_seconds)


def seconds_of(ticks: int, base: Fraction) -> float:
    """Return `float(ticks * base)`, rounded alike, without the product: fractions are slow, a packet has three."""
    return ticks * base.numerator / base.denominator


def _n_leading(shown: list[Any]) -> int:
    """Count the packets that precede the first key frame in the file or in time."""
    first = next((index for index, packet in enumerate(shown) if packet.is_keyframe), len(shown))
    start = shown[first].pts if first < len(shown) else None
    if start is None:
        return first
    return first + sum(1 for packet in shown[first:] if packet.pts is not None and packet.pts < start)


def _check_promise(
    container: Any, stream: Any, n_indexed: int, n_coded: int, end_seconds: float, frame_seconds: float, path: Path
) -> None:
    """Raise `VideoError` where frames are missing at the end.

    The best promise is an index: frames that an edit list skips or that an AVI repeats do not stand in it. The number
    in a header counts those; so do the seconds of an AVI. Matroska states the bytes.
    """
    if n_indexed > 1:
        promised, slack = n_indexed, 0.0
        if n_coded < promised:
            raise VideoError("truncated", f"{path} ends early: {n_coded} of the {promised} frames in its index")
        return
    if stream.frames:
        found = max(n_coded, round(end_seconds / frame_seconds)) if "avi" in container.format.name else n_coded
        slack = max(2, AVI_SLACK * stream.frames) if "avi" in container.format.name else 0
        if found < stream.frames - slack:
            message = f"{path} ends early: {n_coded} of the {stream.frames} frames that its header promises"
            raise VideoError("truncated", message)
        return
    if "matroska" in container.format.name and _is_whole_matroska(path):
        return
    promised_seconds, slack_frames = _promised_seconds(container, stream)
    if promised_seconds - end_seconds > slack_frames * frame_seconds:
        message = f"{path} ends early: {end_seconds:.2f} of the {promised_seconds:.2f} s that its header promises"
        raise VideoError("truncated", message)


def _is_whole_matroska(path: Path) -> bool:
    state, message = wholeness(path)
    if state == "cut":
        raise VideoError("truncated", f"{path} ends early: {message}")
    if state == "broken":
        raise VideoError("damaged", f"{path} is damaged: {message}")
    return state == "whole"


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
