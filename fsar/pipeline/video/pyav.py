"""The default decoder: PyAV with its bundled FFmpeg, one thread, from the first frame to the last."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.clip import MAX_PIXELS, Choose, Clip, VideoError, chosen_indices
from fsar.pipeline.video.grey import full_range_grey
from fsar.pipeline.video.orientation import orientation_of_frame
from fsar.pipeline.video.probe import Packets, open_video, read_packets, seconds_of
from fsar.pipeline.video.times import Seconds, presentation_seconds

Picture = npt.NDArray[np.uint8]


class PyAVDecoder:
    """Decodes every frame in order and counts them, so that no loss goes unseen; converts to RGB only what is kept."""

    name = "pyav"

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`."""
        with open_video(path) as (container, stream):
            packets = read_packets(container, stream, path)
            indices = chosen_indices(choose, packets.n_shown, path)
            kept, times = _decode_packets(stream, packets, set(indices.tolist()), path)
            if len(times) != packets.n_shown:
                check_loss(stream, packets, len(times), path)
                # Some packets are legitimately not frames of their own: choose again by what was decoded.
                indices = chosen_indices(choose, len(times), path)
                stream.codec_context.flush_buffers()
                kept, times = _decode_packets(stream, packets, set(indices.tolist()), path)
        frames = np.stack([kept[index] for index in indices.tolist()])
        return Clip(frames, indices, times[indices], len(times))


def iterate_frames(path: Path, choose: Choose) -> Iterator[tuple[int, Picture]]:
    """Yield (index, RGB picture) of the chosen frames as they are decoded, each once, in order.

    For who cannot hold all frames of a long video at once. A loss may show only after the last picture: treat what was
    yielded as unfinished until the iteration ends.
    """
    with open_video(path) as (container, stream):
        packets = read_packets(container, stream, path)
        n_frames = packets.n_shown
        if may_hide_frames(stream) or packets.n_leading:
            n_frames = sum(1 for _ in decoded_frames(stream, packets, path))
            check_loss(stream, packets, n_frames, path)
            stream.codec_context.flush_buffers()
        wanted = set(chosen_indices(choose, n_frames, path).tolist())
        to_rgb = RgbConverter()
        n_decoded = 0
        for index, frame in enumerate(decoded_frames(stream, packets, path)):
            n_decoded += 1
            if index in wanted:
                yield index, to_rgb(frame)
        if n_decoded != n_frames:
            check_loss(stream, packets, n_decoded, path)


def frame_times(stream: Any, packets: Packets, path: Path) -> Seconds:
    """Return the presentation time of every frame, (n_frames,), by decoding them all; the stream is rewound."""
    stamps = _Stamps(stream, packets)
    for frame in decoded_frames(stream, packets, path):
        stamps.add(frame)
    check_loss(stream, packets, len(stamps.shown), path)
    stream.codec_context.flush_buffers()
    return stamps.seconds()


def _decode_packets(stream: Any, packets: Packets, wanted: set[int], path: Path) -> tuple[dict[int, Picture], Seconds]:
    """Return {index: RGB picture} for the wanted frames and the times of all that were decoded."""
    to_rgb = RgbConverter()
    kept: dict[int, Picture] = {}
    stamps = _Stamps(stream, packets)
    for index, frame in enumerate(decoded_frames(stream, packets, path)):
        if index in wanted:
            kept[index] = to_rgb(frame)
        stamps.add(frame)
    return kept, stamps.seconds()


class _Stamps:
    """The time stamps of the frames of one stream, as they come."""

    def __init__(self, stream: Any, packets: Packets) -> None:
        self._stream, self._packets = stream, packets
        self.shown: list[float | None] = []
        self._decoded_ticks: list[int | None] = []

    def add(self, frame: Any) -> None:
        """Note the stamps of an `av.VideoFrame`."""
        self.shown.append(frame.time)
        self._decoded_ticks.append(frame.dts)

    def seconds(self) -> Seconds:
        """Return the presentation times, (n_frames,)."""
        is_avi = "avi" in self._stream.container.format.name
        reorders = bool(self._stream.codec_context.has_b_frames)
        base = self._stream.time_base
        return presentation_seconds(
            self.shown,
            [None if ticks is None else seconds_of(ticks, base) for ticks in self._decoded_ticks],
            start_seconds=self._packets.start_seconds,
            frame_seconds=self._packets.frame_seconds,
            has_presentation_times=not (is_avi and reorders),
        )


def decoded_frames(stream: Any, packets: Packets, path: Path) -> Iterator[Any]:
    """Yield the `av.VideoFrame`s of a stream in order of presentation; `VideoError` on the first that is not sound."""
    import av

    n_decoded = 0
    try:
        for packet in packets.shown:
            for frame in stream.decode(packet):
                if frame.is_corrupt:
                    raise VideoError("damaged", f"{path}: frame {n_decoded} is damaged and was patched over")
                if frame.width * frame.height > MAX_PIXELS:
                    raise VideoError(
                        "too-large", f"{path}: frame {n_decoded} has {frame.width} x {frame.height} pixels"
                    )
                yield frame
                n_decoded += 1
    except av.error.FFmpegError as error:
        reason = "unsupported" if isinstance(error, av.error.PatchWelcomeError) else "corrupt"
        cause = error.strerror or str(error)
        raise VideoError(reason, f"{path} cannot be decoded after frame {n_decoded}: {cause}") from error


class RgbConverter:
    """From a decoded frame to an upright RGB picture.

    swscale's bicubic chroma interpolation, its own rounding: with 8-bit 4:2:0 of even height every FFmpeg since 4.0
    gives the same numbers whatever the flags, and for odd heights and 10 bits this choice agrees with torchcodec.
    One thread: swscale would begin one per core for every video, whose frames are converted in less time.
    """

    def __init__(self) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._reformatter = VideoReformatter()
        self._interpolation = Interpolation.BICUBIC
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> Picture:
        """Return (H, W, 3) uint8. A stream that changes its size midway keeps the size of its first frame."""
        self._size = self._size or (frame.width, frame.height)
        width, height = self._size
        plain = full_range_grey(frame)
        rgb = self._reformatter.reformat(plain, width, height, "rgb24", interpolation=self._interpolation, threads=1)
        picture: Any = rgb.to_ndarray()
        return orientation_of_frame(frame).apply(picture)


def check_loss(stream: Any, packets: Packets, n_decoded: int, path: Path) -> None:
    """Raise `VideoError` when frames were lost, and not merely packed or hidden by the format."""
    n_lost = packets.n_shown - n_decoded
    if n_decoded == 0:
        raise VideoError("damaged", f"{path}: none of its {packets.n_shown} frames can be decoded")
    if n_lost <= packets.n_leading or stream.codec_context.name in PACKED_CODECS:
        return
    if may_hide_frames(stream) and 2 * n_decoded >= packets.n_shown:  # two fields, each a packet, make a frame
        return
    raise VideoError("damaged", f"{path}: {n_lost} of its {packets.n_shown} frames cannot be decoded")


def may_hide_frames(stream: Any) -> bool:
    """Tell whether a sound file of this codec may hold more packets than frames."""
    context = stream.codec_context
    is_interlaced = context.field_order not in (0, 1)  # unknown, progressive
    return context.name in PACKED_CODECS or (is_interlaced and context.name in FIELD_CODECS)


PACKED_CODECS = frozenset({"vp8", "libvpx", "mpeg4", "msmpeg4", "msmpeg4v2", "h263"})
"""Their files may hold packets that are not frames of their own (hidden references, packed B-frames)."""
FIELD_CODECS = frozenset({"h264", "hevc", "vc1"})
"""Where a picture is interlaced, their packets may be fields."""
