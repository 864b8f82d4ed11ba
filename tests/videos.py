"""Short real video files for tests. Every frame carries its own number, so that a test can tell which one it got."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np

N_BARS = 8
"""The frame number in binary, least significant bit leftmost: white bar = 1. They fill the upper half of the frame."""

CODECS = {".webm": "libvpx-vp9", ".mp4": "libx264", ".avi": "mpeg4", ".mkv": "ffv1"}
OPTIONS = {
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "0"},
    "libx264": {"preset": "ultrafast", "crf": "18"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "mpeg4": {"qscale": "2"},
}
_ROTATION_MATRIX = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def numbered_frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return an RGB picture (H, W, 3) uint8 of `size` (width, height) that shows `number` (below 256) as bars."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.empty((height, width, 3), np.uint8)
    picture[..., 0] = 60 + 120 * columns // max(width - 1, 1)
    picture[..., 1] = 60 + 120 * rows // max(height - 1, 1)
    picture[..., 2] = (40 + 5 * number) % 200
    bits = (number >> np.arange(N_BARS)) & 1
    picture[: height // 2] = (20 + 210 * bits[np.arange(width) * N_BARS // width])[None, :, None]
    return picture


def read_number(picture: np.ndarray) -> int:
    """Return the number that a picture of `numbered_frame` shows, also after lossy coding and scaling."""
    height, width = picture.shape[:2]
    row = picture[height // 8 : 3 * height // 8].mean(axis=(0, 2))
    centres = ((np.arange(N_BARS) + 0.5) * width / N_BARS).astype(int)
    return int(((row[centres] > 125) << np.arange(N_BARS)).sum())


def write_clip(
    path: Path,
    *,
    n_frames: int = 16,
    size: tuple[int, int] = (96, 64),
    fps: int = 12,
    codec: str | None = None,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    vfr: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    audio: bool = False,
) -> Path:
    """Write numbered frames to `path` and return it; container by suffix, codec by suffix unless named.

    `size` is (width, height). `rotation` (0, 90, 180, 270 degrees clockwise, mp4 only) is display metadata; pixels are
    stored unrotated. `vfr` gives one presentation time in seconds per frame instead of a constant rate.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    name = codec or CODECS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=fps, options=OPTIONS.get(name, {}) | (options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if vfr is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if audio:
            _add_silence(container)
        for number in range(n_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, size), format="rgb24")
            if vfr is not None:
                frame.pts, frame.time_base = round(vfr[number] * 1000), Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation:
        _set_rotation(path, rotation)
    return path


def write_audio(path: Path) -> Path:
    """Write a file with an audio stream alone."""
    import av

    with av.open(str(path), "w") as container:
        _add_silence(container)
    return path


def cut_file(path: Path, fraction: float) -> Path:
    """Keep the first `fraction` of a file's bytes, as an interrupted download does."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


@contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """Make every file end at `max_bytes`, in this process and in those that it starts inside."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _add_silence(container: object) -> None:
    import av

    stream = container.add_stream("libopus", rate=48000)  # type: ignore[attr-defined]
    for index in range(5):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, index * 960, Fraction(1, 48000)
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]
    container.mux(stream.encode(None))  # type: ignore[attr-defined]


def _set_rotation(path: Path, degrees: int) -> None:
    """Rewrite the display matrix in the track header (ISO 14496-12, 8.3.2), which no muxer option sets everywhere."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4
    offset = start + (52 if data[start] else 40)
    a, b, c, d = _ROTATION_MATRIX[degrees]
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[offset : offset + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(bytes(data))
