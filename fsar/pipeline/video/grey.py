"""Grey video: one plane of brightness, whose range programs read in different ways."""

from typing import Any

import numpy as np

FULL_RANGE, LIMITED_RANGE = 2, 1
"""FFmpeg's AVCOL_RANGE_JPEG and AVCOL_RANGE_MPEG."""
_EXPANDED = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)


def is_grey(frame: Any) -> bool:
    """Tell whether an `av.VideoFrame` has brightness alone."""
    layout = frame.format
    return not (layout.is_rgb or layout.has_palette or any(component.is_chroma for component in layout.components))


def full_range_grey(frame: Any) -> Any:
    """Return deep grey of limited range as 8 bits of full range; any other frame as it is.

    Every program takes 8-bit grey for full range, whatever its tag says, and ours does with them. For 10 bits and more
    the ffmpeg program honours the tag, but the library of later versions does not.
    """
    import av

    if frame.color_range != LIMITED_RANGE or not is_grey(frame) or frame.format.components[0].bits <= 8:
        return frame
    expanded = av.VideoFrame.from_ndarray(_EXPANDED[frame.reformat(format="gray").to_ndarray()], format="gray")
    expanded.color_range = FULL_RANGE
    return expanded
