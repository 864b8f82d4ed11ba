"""The default decoder: PyAV with its bundled FFmpeg, one thread, from the first frame to the last."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.clip import Choose, Clip, VideoError, chosen_indices
from fsar.pipeline.video.probe import Packets, open_video, read_packets


class PyAVDecoder:
    """Decodes every frame in order and counts them, so that no loss goes unseen; converts to RGB only what is kept."""

    name = "pyav"

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`."""
        with open_video(path) as (container, stream):
            packets = read_packets(container, stream, path)
            indices = chosen_indices(choose, packets.n_shown, path)
            kept, n_decoded = _decode_packets(stream, packets, set(indices.tolist()), path)
            if n_decoded != packets.n_shown:
                check_loss(stream, packets, n_decoded, path)
                # Some packets are legitimately not frames of their own: choose again by what was decoded.
                indices = chosen_indices(choose, n_decoded, path)
                stream.codec_context.flush_buffers()
                kept, n_decoded = _decode_packets(stream, packets, set(indices.tolist()), path)
        frames = np.stack([kept[index][0] for index in indices.tolist()])
        times = np.array([kept[index][1] for index in indices.tolist()], np.float64)
        return Clip(frames, indices, times, n_decoded)


def iterate_frames(path: Path, choose: Choose) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield (index, RGB picture) of the chosen frames as they are decoded, each once, in order.

    For who cannot hold all frames of a long video at once. A loss may show only after the last picture: treat what was
    yielded as unfinished until the iteration ends.
    """
    with open_video(path) as (container, stream):
        packets = read_packets(container, stream, path)
        n_frames = packets.n_shown
        if stream.codec_context.name in PACKED_CODECS:
            n_frames = sum(1 for _ in decoded_frames(stream, packets, path))
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


def _decode_packets(
    stream: Any, packets: Packets, wanted: set[int], path: Path
) -> tuple[dict[int, tuple[npt.NDArray[np.uint8], float]], int]:
    """Return {index: (RGB picture, seconds)} for the wanted frames and the number of frames that were decoded."""
    to_rgb = RgbConverter()
    kept: dict[int, tuple[npt.NDArray[np.uint8], float]] = {}
    n_decoded = 0
    for index, frame in enumerate(decoded_frames(stream, packets, path)):
        if index in wanted:
            kept[index] = to_rgb(frame), frame_seconds(frame)
        n_decoded += 1
    return kept, n_decoded


def decoded_frames(stream: Any, packets: Packets, path: Path) -> Iterator[Any]:
    """Yield the `av.VideoFrame`s of a stream in order of presentation; `VideoError` on the first that is not sound."""
    import av

    n_decoded = 0
    try:
        for packet in packets.shown:
            for frame in stream.decode(packet):
                if frame.is_corrupt:
                    raise VideoError("damaged", f"{path}: frame {n_decoded} is damaged and was patched over")
                yield frame
                n_decoded += 1
    except av.error.FFmpegError as error:
        reason = "unsupported" if isinstance(error, av.error.PatchWelcomeError) else "corrupt"
        cause = error.strerror or str(error)
        raise VideoError(reason, f"{path} cannot be decoded after frame {n_decoded}: {cause}") from error


def frame_seconds(frame: Any) -> float:
    """Return a frame's presentation time; NaN where the container gives none."""
    return float(frame.time) if frame.time is not None else float("nan")


class RgbConverter:
    """From a decoded frame to an upright RGB picture.

    swscale's bicubic chroma interpolation, its own rounding: with 8-bit 4:2:0 of even height every FFmpeg since 4.0
    gives the same numbers whatever the flags, and for odd heights and 10 bits this choice agrees with torchcodec.
    """

    def __init__(self) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._reformatter = VideoReformatter()
        self._interpolation = Interpolation.BICUBIC
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> npt.NDArray[np.uint8]:
        """Return (H, W, 3) uint8. A stream that changes its size midway keeps the size of its first frame."""
        self._size = self._size or (frame.width, frame.height)
        width, height = self._size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24", interpolation=self._interpolation)
        picture: npt.NDArray[np.uint8] = rgb.to_ndarray()  # type: ignore[assignment]
        return upright(picture, frame.rotation)


def upright(picture: npt.NDArray[np.uint8], rotation: int) -> npt.NDArray[np.uint8]:
    """Turn a picture by its display rotation (degrees counter-clockwise, a multiple of 90)."""
    quarter_turns = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, quarter_turns)) if quarter_turns else picture


def check_loss(stream: Any, packets: Packets, n_decoded: int, path: Path) -> None:
    """Raise `VideoError` when frames were lost, and not merely packed or hidden by the format."""
    n_lost = packets.n_shown - n_decoded
    if n_decoded == 0:
        raise VideoError("damaged", f"{path}: none of its {packets.n_shown} frames can be decoded")
    if n_lost > 0 and stream.codec_context.name not in PACKED_CODECS:
        message = f"{path}: {n_lost} of its {packets.n_shown} frames cannot be decoded"
        raise VideoError("damaged", message)


PACKED_CODECS = frozenset({"vp8", "libvpx", "mpeg4", "msmpeg4", "msmpeg4v2", "h263"})
"""Their files may hold packets that are not frames of their own (hidden references, packed B-frames)."""
