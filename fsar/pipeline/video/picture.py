"""One picture file to RGB, as a viewer sees it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.clip import MAX_PIXELS, VideoError
from fsar.pipeline.video.orientation import orientation_of_exif

_EXIF_ORIENTATION = 274


def read_picture(file: Path) -> npt.NDArray[np.uint8]:
    """Return one picture, (H, W, 3) uint8 RGB, turned as its EXIF data say, or raise `VideoError`.

    16-bit grey keeps its upper byte, as 16-bit video does. Transparency is dropped. Numbers without a meaning as light
    (32-bit integers, floats) are refused: no scale is right for all of them.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about size and metadata; the limit is below
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise VideoError("too-large", f"{file}: {image.width} x {image.height} pixels are too many")
                picture = _rgb(image, file)
                orientation = orientation_of_exif(image.getexif().get(_EXIF_ORIENTATION))
        return orientation.apply(picture)
    except Image.DecompressionBombError:
        raise VideoError("too-large", f"{file} has more pixels than a frame can have") from None
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, ZeroDivisionError) as error:
        raise VideoError("corrupt", f"{file} is not a picture that can be read: {error}") from error


def _rgb(image: Any, file: Path) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.uint16) >> 8)
    if image.mode == "I" and image.format in ("PNG", "PPM"):  # Pillow's other name for their 16-bit grey
        return _grey(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        raise VideoError("unsupported", f"{file}: numbers of mode {image.mode!r} are no picture of 8 or 16 bits")
    return np.asarray(image.convert("RGB"))


def _grey(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Return (H, W) values below 256 as (H, W, 3)."""
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
