"""A long video or a camera in sliding windows: one answer each, with its place in time and how late it came."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.pyav import RgbConverter
from fsar.predict.answer import Answer
from fsar.predict.predictor import Predictor

DEFAULT_RATE = 25.0
"""Frames per second of a source that states neither times nor a rate."""


@dataclass(frozen=True, slots=True)
class Window:
    """The answer for one window of a stream."""

    start_seconds: float
    end_seconds: float
    n_frames: int
    answer: Answer
    latency_seconds: float
    """From the moment the window's last frame was there to the answer."""

    def to_dict(self, top: int) -> dict[str, Any]:
        """Return JSON data with the first `top` classes."""
        answer = self.answer.to_dict(top)
        kept = ("decision", "ranking", "known_probability", "none_of_these", "decisive_seconds")
        return {
            "start_seconds": round(self.start_seconds, 3),
            "end_seconds": round(self.end_seconds, 3),
            "n_frames": self.n_frames,
            **{key: answer[key] for key in kept},
            "latency_seconds": round(self.latency_seconds, 4),
        }


@dataclass(frozen=True, slots=True)
class Stream:
    """What to watch, and how."""

    source: str
    """A path, a device or an address: whatever PyAV opens."""
    window_seconds: float = 2.0
    stride_seconds: float = 1.0
    input_format: str | None = None
    """As FFmpeg names it, e.g. v4l2 for a camera under Linux."""
    timeout_seconds: float = 10.0
    """Longest wait for a frame."""
    limit_seconds: float | None = None
    """Stop after so much of the stream."""


def watch(predictor: Predictor, stream: Stream) -> Iterator[Window]:
    """Yield an answer for every window of a stream as soon as its last frame is there.

    A stream that is shorter than one window is answered as a whole. Only the frames that the sampler takes are turned
    into pictures.

    Raises:
        VideoError: the source cannot be opened, holds no video, or breaks off; windows before that were yielded.
    """
    held: deque[tuple[float, Any]] = deque()
    start: float | None = None
    n_windows, last = 0, 0.0
    for seconds, frame in _frames(stream):
        start, last = (seconds if start is None else start), seconds
        while held and seconds >= start + stream.window_seconds:
            inside = [item for item in held if item[0] < start + stream.window_seconds]
            if inside:
                yield _answer(predictor, inside, start, start + stream.window_seconds)
                n_windows += 1
            start += stream.stride_seconds
            while held and held[0][0] < start:
                held.popleft()
        if not held and seconds >= start + stream.window_seconds:  # a gap in the stream
            start = seconds
        held.append((seconds, frame))
    if not n_windows and held and start is not None:
        yield _answer(predictor, list(held), start, last)


def _answer(predictor: Predictor, inside: list[tuple[float, Any]], start: float, end: float) -> Window:
    arrived = time.perf_counter()
    chosen = predictor.encoder.indices(len(inside))
    to_rgb = RgbConverter()
    pictures = {place: to_rgb(inside[place][1]) for place in sorted(set(chosen))}
    frames = np.stack([pictures[place] for place in chosen])
    seconds = predictor.encoder.of_slots([inside[place][0] for place in chosen])
    answer = predictor.predict_frames(frames, seconds, f"{start:.3f}-{end:.3f} s")
    return Window(start, end, len(inside), answer, time.perf_counter() - arrived)


def _frames(stream: Stream) -> Iterator[tuple[float, Any]]:
    """Yield (seconds, frame) until the stream ends, or its limit."""
    first: float | None = None
    with _opened(stream) as (container, video):
        rate = float(video.average_rate or video.guessed_rate or DEFAULT_RATE)
        for number, frame in enumerate(_decoded(container, video, stream)):
            seconds = float(frame.time) if frame.time is not None else number / rate
            first = seconds if first is None else first
            if stream.limit_seconds is not None and seconds - first >= stream.limit_seconds:
                return
            yield seconds, frame
    if first is None:
        raise VideoError("no-frames", f"{stream.source} gave no frame")


def _decoded(container: Any, video: Any, stream: Stream) -> Iterator[Any]:
    import av

    n_frames = 0
    try:
        for frame in container.decode(video):
            yield frame
            n_frames += 1
    except av.error.FFmpegError as error:
        cause = error.strerror or str(error)
        raise VideoError("corrupt", f"{stream.source} stopped after {n_frames} frames: {cause}") from error


@contextmanager
def _opened(stream: Stream) -> Iterator[tuple[Any, Any]]:
    import av

    try:
        container = av.open(stream.source, format=stream.input_format, timeout=stream.timeout_seconds)
    except (av.error.FFmpegError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise VideoError("not-a-video", f"{stream.source} cannot be watched: {cause}") from error
    with container:
        if not container.streams.video:
            raise VideoError("no-video-stream", f"{stream.source} has no video stream")
        yield container, container.streams.video[0]


def check_stream(stream: Stream) -> None:
    """Raise InputError for times that make no windows."""
    for name in ("window_seconds", "stride_seconds", "timeout_seconds"):
        value = getattr(stream, name)
        if not math.isfinite(value) or value <= 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value}")
