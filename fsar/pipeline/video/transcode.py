"""One video to H.264 mp4, frame for frame, in this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.video.clip import VideoError
from fsar.pipeline.video.probe import open_video, read_packets
from fsar.pipeline.video.pyav import check_loss, decoded_frames

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
X264_PARAMS = "cpu-independent=1"
"""Without it x264's results depend on the machine and, with some builds, on where its memory happens to lie."""
TIME_TOLERANCE_SECONDS = 0.002


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

    Every frame of the source becomes one frame with the same presentation time, also at a variable rate; rotation
    metadata is applied to the pixels. The result is decoded again and compared: `VideoError` with reason `verify` if
    a frame or a time differs. The same source and settings give the same bytes.
    """
    with open_video(source) as (container, stream):
        packets = read_packets(container, stream, source)
        times = _encode(decoded_frames(stream, packets, source), stream, target, settings)
        if len(times) != packets.n_shown:
            check_loss(stream, packets, len(times), source)
    verify(target, times, source)
    return len(times)


def verify(target: Path, times: list[float], source: Path) -> None:
    """Raise `VideoError` unless `target` decodes to frames at exactly `times` (seconds)."""
    with open_video(target) as (container, stream):
        packets = read_packets(container, stream, target)
        found = [frame.time for frame in decoded_frames(stream, packets, target)]
    if len(found) != len(times):
        raise VideoError("verify", f"{source} has {len(times)} frames, its conversion {len(found)}")
    gap = float(np.abs(np.subtract(found, found[0]) - np.subtract(times, times[0])).max())
    if gap > TIME_TOLERANCE_SECONDS:
        raise VideoError("verify", f"{source}: a frame of its conversion is off by {gap:.3f} s")


def _encode(frames: Iterator[Any], stream: Any, target: Path, settings: ConvertSettings) -> list[float]:
    """Write the frames and return their times in seconds."""
    import av

    times: list[float] = []
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(target), "w", format="mp4", options=options) as output:
        writer: Any = None
        for frame in _upright(frames):
            pts, time_base = _timestamp(frame, stream, len(times))
            if writer is None:
                writer = _writer(output, frame, stream, time_base, settings)
            even = _even(frame, (writer.width, writer.height), settings.short_side is not None)
            even.pts, even.time_base = pts, time_base
            even.duration = frame.duration
            output.mux(writer.encode(even))
            times.append(float(pts * time_base))
        if writer is None:
            raise VideoError("no-frames", f"{stream.container.name} has a video stream without frames")
        output.mux(writer.encode(None))
    return times


def _timestamp(frame: Any, stream: Any, index: int) -> tuple[int, Fraction]:
    if frame.pts is not None and frame.time_base:
        return frame.pts, frame.time_base
    return index, 1 / Fraction(stream.average_rate or 25)  # old AVI files carry no times


def _writer(output: Any, first: Any, stream: Any, time_base: Fraction, settings: ConvertSettings) -> Any:
    from av.codec.context import Flags

    rate = stream.average_rate or stream.guessed_rate or 25
    writer = output.add_stream("libx264", rate=rate, options=settings.codec_options())
    writer.width, writer.height = _target_size(first.width, first.height, settings.short_side)
    writer.pix_fmt = "yuv420p"
    context = writer.codec_context
    context.time_base, context.thread_count = time_base, 1
    context.flags |= Flags.frame_duration
    if first.format.name in SAME_LAYOUT or _is_full_range(first):  # numbers pass as they are, so must their meaning
        context.color_range = first.color_range
    context.colorspace = first.colorspace
    context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
    return writer


SAME_LAYOUT = ("yuv420p", "yuvj420p")
"""Formats whose planes are copied unchanged; the second is the first with the range of JPEG."""


def _is_full_range(frame: Any) -> bool:
    return bool(frame.format.name.startswith("yuvj"))


def _target_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    if short_side is None:
        return width + width % 2, height + height % 2
    scale = short_side / min(width, height)
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _upright(frames: Iterator[Any]) -> Iterator[Any]:
    """Turn frames whose metadata says that the camera was held sideways."""
    import av

    for frame in frames:
        quarter_turns = round(frame.rotation / 90) % 4
        if not quarter_turns:
            yield frame
            continue
        layout = "yuvj444p" if _is_full_range(frame) else "yuv444p"
        planes = frame.reformat(format=layout).to_ndarray()  # (3, H, W)
        turned = np.ascontiguousarray(np.rot90(planes, quarter_turns, axes=(1, 2)))
        upright = av.VideoFrame.from_ndarray(turned, format=layout)
        upright.colorspace, upright.color_range = frame.colorspace, frame.color_range
        upright.pts, upright.time_base, upright.duration = frame.pts, frame.time_base, frame.duration
        yield upright


def _even(frame: Any, size: tuple[int, int], may_scale: bool) -> Any:
    """Return the frame as yuv420p of an even size."""
    from av.video.reformatter import Interpolation

    width, height = size if may_scale else (frame.width, frame.height)
    if frame.format.name not in SAME_LAYOUT or (frame.width, frame.height) != (width, height):
        layout = "yuvj420p" if _is_full_range(frame) else "yuv420p"
        frame = frame.reformat(width, height, layout, interpolation=Interpolation.BICUBIC)
    is_ready = frame.format.name == "yuv420p" and (frame.width, frame.height) == size
    return frame if is_ready else _padded(frame, size)


def _padded(frame: Any, size: tuple[int, int]) -> Any:
    """Repeat the last row and column of brightness; the colour planes of an odd size already cover them."""
    import av

    padded = av.VideoFrame(size[0], size[1], "yuv420p")
    for source, target in zip(frame.planes, padded.planes, strict=True):
        old = _pixels(source)[: target.height, : target.width]
        new = _pixels(target)
        new[: old.shape[0], : old.shape[1]] = old
        new[: old.shape[0], old.shape[1] : target.width] = old[:, -1:]
        new[old.shape[0] : target.height] = new[old.shape[0] - 1]
    return padded


def _pixels(plane: Any) -> Any:
    """Return a plane's memory as (height, width), writable."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
