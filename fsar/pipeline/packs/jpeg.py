"""JPEG in and out: encoded by Pillow, decoded by libjpeg-turbo into ready memory, on a CUDA device by nvJPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Picture = npt.NDArray[np.uint8]
_BASELINE = 0xC0
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """Return a picture (H, W, 3) uint8 RGB as a baseline JPEG; the same picture gives the same bytes."""
    from PIL import Image

    jpeg = io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=quality)
    return jpeg.getvalue()


def shrink(picture: Picture, short_side: int | None) -> Picture:
    """Return a picture whose shorter side is at most `short_side` pixels, by Pillow's bicubic filter."""
    from PIL import Image

    height, width = picture.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return picture
    scale = short_side / min(height, width)
    size = (max(round(width * scale), short_side), max(round(height * scale), short_side))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def jpeg_shape(data: memoryview) -> tuple[int, int] | None:
    """Return height and width that a JPEG's header states; None unless it is a baseline JPEG in three colours.

    Asked before decoding: a few bytes could claim a picture of gigabytes.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _WITHOUT_LENGTH:
            place += 2
            continue
        if marker == _BASELINE:
            header = data[place + 4 : place + 10]
            is_rgb = len(header) == 6 and (header[0], header[5]) == (8, 3)
            return (header[1] << 8 | header[2], header[3] << 8 | header[4]) if is_rgb else None
        if marker in (0xDA, 0xD9) or (0xC1 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return None
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return None


def decode_jpeg(jpeg: memoryview, out: Picture) -> None:
    """Decode a JPEG into `out`, (H, W, 3) uint8 of the shape that its header states; the pixels are Pillow's.

    Raises:
        ValueError: it is cut short or damaged.
    """
    import simplejpeg

    simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out, strict=True)


def decode_jpegs_on_cuda(jpegs: Sequence[memoryview], device: torch.device) -> list[torch.Tensor]:
    """Return pictures (3, H, W) uint8 RGB that nvJPEG decoded on a CUDA device.

    Raises:
        RuntimeError: nvJPEG cannot read one of them.
    """
    import warnings

    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # decoding only reads it
        warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
        encoded = [torch.frombuffer(jpeg, dtype=torch.uint8) for jpeg in jpegs]
        pictures: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
    return pictures
