"""One video to H.264 mp4, frame for frame, in this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import DISK_ERRNOS
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.probe import Packets, open_video, read_packets
from fsar.pipeline.video.pyav import decoded_frames, frame_times
from fsar.pipeline.video.times import Seconds
from fsar.pipeline.video.yuv import YuvFrames

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
X264_PARAMS = "cpu-independent=1"
"""Without it x264's results depend on the machine and, with some builds, on where its memory happens to lie."""
TIME_TOLERANCE_SECONDS = 0.002
TICKS_PER_SECOND = 90_000
"""At least so finely are times written: frames of one time, which H.264 does not have, come one tick apart."""


@dataclass(frozen=True)
class ConvertSettings:
    """What decides the bytes of a converted video."""

    short_side: int | None = None
    """Pixels of the shorter side, even; None keeps the size. Odd sizes are padded by repeating the last row or column,
    which leaves every pixel of the source as it is."""
    gop: int | None = None
    """Frames from key frame to key frame; None leaves it to x264 (250). Short ones make seeking fast."""
    crf: int = 18
    """Constant rate factor: 0 (lossless) to 51."""
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        """Check every field."""
        if self.short_side is not None and (self.short_side < 2 or self.short_side % 2):
            raise InputError(f"short side must be an even number of pixels, got {self.short_side}")
        if self.gop is not None and self.gop < 1:
            raise InputError(f"gop must be at least 1 frame, got {self.gop}")
        if not 0 <= self.crf <= 51:
            raise InputError(f"crf must be in 0..51, got {self.crf}")
        if self.preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")

    def codec_options(self) -> dict[str, str]:
        """Return libx264's options."""
        options = {"preset": self.preset, "crf": str(self.crf), "x264-params": X264_PARAMS}
        return options if self.gop is None else options | {"g": str(self.gop)}


def transcode(source: Path, target: Path, settings: ConvertSettings) -> int:
    """Write `source` to `target` as H.264 mp4 (yuv420p, index in front) and return its number of frames.

    Every frame of the source becomes one frame with the same presentation time, also at a variable rate (if the first
    time is negative, which mp4 does not have, all are moved so that it is 0). The pixels are turned as the metadata
    say; brightness keeps its range. The result is decoded again and compared: `VideoError` with reason `verify` if a
    frame or a time differs, `encode` if it cannot be written. The same source and settings give the same bytes.
    """
    with open_video(source) as (container, stream):
        packets = read_packets(container, stream, source)
        times = frame_times(stream, packets, source)
        times = times - min(times[0], 0.0)
        _write(decoded_frames(stream, packets, source), times, (stream, packets, source), target, settings)
    verify(target, times, source)
    return len(times)


def verify(target: Path, times: Seconds, source: Path) -> None:
    """Raise `VideoError` unless `target` decodes to frames at exactly `times` (seconds)."""
    with open_video(target) as (container, stream):
        packets = read_packets(container, stream, target)
        found = frame_times(stream, packets, target)
    if len(found) != len(times):
        raise VideoError("verify", f"{source} has {len(times)} frames, its conversion {len(found)}")
    gap = float(np.abs((found - found[0]) - (times - times[0])).max())
    if gap > TIME_TOLERANCE_SECONDS:
        raise VideoError("verify", f"{source}: a frame of its conversion is off by {gap:.3f} s")


def _write(
    frames: Iterator[Any], times: Seconds, origin: tuple[Any, Packets, Path], target: Path, settings: ConvertSettings
) -> None:
    import av

    stream, packets, source = origin
    try:
        with av.open(
            str(target), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
        ) as output:
            _encode(frames, times, (stream, packets), output, settings)
    except av.error.FFmpegError as error:
        if error.errno in DISK_ERRNOS:
            raise
        raise VideoError("encode", f"{source} cannot be written as H.264: {error.strerror or error}") from error


def _encode(
    frames: Iterator[Any], times: Seconds, origin: tuple[Any, Packets], output: Any, settings: ConvertSettings
) -> None:
    stream, packets = origin
    time_base = fine_time_base(stream.time_base)
    ticks = distinct_ticks(times, time_base)
    durations = np.append(np.diff(ticks), max(round(packets.frame_seconds / time_base), 1))
    yuv = YuvFrames(settings.short_side)
    writer: Any = None
    for frame, pts, duration in zip(frames, ticks.tolist(), durations.tolist(), strict=True):
        picture = yuv(frame)
        writer = writer or _writer(output, picture, stream, time_base, settings)
        picture.pts, picture.time_base, picture.duration = pts, time_base, duration
        output.mux(writer.encode(picture))
    output.mux(writer.encode(None))


def fine_time_base(time_base: Fraction | None) -> Fraction:
    """Return the unit for writing times: a whole part of the source's, so that its times stay what they are."""
    denominator = time_base.denominator if time_base else TICKS_PER_SECOND
    denominator *= -(-TICKS_PER_SECOND // denominator)
    return Fraction(1, denominator if denominator < 1 << 31 else TICKS_PER_SECOND)


def distinct_ticks(times: Seconds, time_base: Fraction) -> Any:
    """Return strictly rising whole numbers of `time_base`, as near to `times` as that allows."""
    ticks = np.rint(times / float(time_base)).astype(np.int64)
    places = np.arange(len(ticks))
    return np.maximum.accumulate(ticks - places) + places


def _writer(output: Any, first: Any, stream: Any, time_base: Fraction, settings: ConvertSettings) -> Any:
    from av.codec.context import Flags

    rate = stream.average_rate or stream.guessed_rate or 25
    writer = output.add_stream("libx264", rate=rate, options=settings.codec_options())
    writer.width, writer.height = first.width, first.height
    writer.pix_fmt = "yuv420p"
    context = writer.codec_context
    context.time_base, context.thread_count = time_base, 1
    context.flags |= Flags.frame_duration
    context.color_range, context.colorspace = first.color_range, first.colorspace
    context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
    return writer
