"""Decoded frames of any pixel format to upright yuv420p of one even size, brightness unchanged."""

from typing import Any

import numpy as np

from fsar.pipeline.video.grey import FULL_RANGE, LIMITED_RANGE, full_range_grey, is_grey
from fsar.pipeline.video.orientation import orientation_of_frame

BT601 = 6
"""FFmpeg's AVCOL_SPC_SMPTE170M: what RGB sources are written in."""


class YuvFrames:
    """Converts the frames of one stream; all get the size of the first.

    Planes of 8-bit 4:2:0 pass as they are, so every number keeps its meaning. Other YUV keeps its range and its matrix.
    Grey is full range, whatever its tag says, as it is for swscale. RGB becomes limited-range BT.601 and says so.
    """

    def __init__(self, short_side: int | None) -> None:
        self._short_side = short_side
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> Any:
        """Return a new `av.VideoFrame`; its times are not set."""
        orientation = orientation_of_frame(frame)
        frame = full_range_grey(frame)
        full, colorspace = _is_full_range(frame), _colorspace(frame)
        if not orientation.is_upright:
            frame = _turned(frame, orientation, full)
        if self._size is None:
            self._first = (frame.width, frame.height)
            self._size = _target_size(frame.width, frame.height, self._short_side)
        picture = self._sized(frame, full)
        picture.color_range = FULL_RANGE if full else LIMITED_RANGE
        picture.colorspace = colorspace
        return picture

    def _sized(self, frame: Any, full: bool) -> Any:
        assert self._size is not None
        size = self._first if self._short_side is None else self._size  # odd sizes are padded, not scaled
        if frame.format.name not in ("yuv420p", "yuvj420p") or (frame.width, frame.height) != size:
            frame = _reformat(frame, "420p", full, size)
        return _padded(frame, self._size)


def _is_full_range(frame: Any) -> bool:
    if _is_rgb(frame):
        return False
    return frame.format.name.startswith("yuvj") or frame.color_range == FULL_RANGE or is_grey(frame)


def _is_rgb(frame: Any) -> bool:
    return bool(frame.format.is_rgb or frame.format.has_palette)


def _colorspace(frame: Any) -> int:
    return BT601 if _is_rgb(frame) else int(frame.colorspace)


def _reformat(frame: Any, layout: str, full: bool, size: tuple[int, int]) -> Any:
    """Return the frame as yuv`layout` (420p, 444p) of the range that it is meant in."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    options: dict[str, Any] = {"interpolation": Interpolation.BICUBIC, "threads": 1}
    if _is_rgb(frame):
        exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP  # else a fast way that is off by 3 levels
        options |= {"interpolation": Interpolation.BICUBIC | exact}
        options |= {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}
    return frame.reformat(*size, f"yuvj{layout}" if full else f"yuv{layout}", **options)


def _turned(frame: Any, orientation: Any, full: bool) -> Any:
    import av

    layout = "yuvj444p" if full else "yuv444p"
    planes = _reformat(frame, "444p", full, (frame.width, frame.height)).to_ndarray()  # (3, H, W)
    turned = av.VideoFrame.from_ndarray(orientation.apply(planes, axes=(1, 2)), format=layout)
    turned.colorspace, turned.color_range = _colorspace(frame), FULL_RANGE if full else LIMITED_RANGE
    turned.color_primaries, turned.color_trc = frame.color_primaries, frame.color_trc
    return turned


def _target_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    if short_side is None:
        return width + width % 2, height + height % 2
    scale = short_side / min(width, height)
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))


def _padded(frame: Any, size: tuple[int, int]) -> Any:
    """Return a yuv420p copy; the last row and column of brightness repeat where the size is odd.

    The colour planes of an odd size already cover them.
    """
    import av

    padded = av.VideoFrame(size[0], size[1], "yuv420p")
    for source, target in zip(frame.planes, padded.planes, strict=True):
        old = _pixels(source)[: target.height, : target.width]
        new = _pixels(target)
        new[: old.shape[0], : old.shape[1]] = old
        new[: old.shape[0], old.shape[1] : target.width] = old[:, -1:]
        new[old.shape[0] : target.height] = new[old.shape[0] - 1]
    padded.color_primaries, padded.color_trc = frame.color_primaries, frame.color_trc
    return padded


def _pixels(plane: Any) -> Any:
    """Return a plane's memory as (height, width), writable."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
