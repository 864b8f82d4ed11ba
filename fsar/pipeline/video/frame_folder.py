"""A video that was extracted before: a folder of pictures in natural order (frame 10 after frame 9)."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.clip import Choose, Clip, VideoError, chosen_indices

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


class ImagesDecoder:
    """Reads the chosen pictures of a folder. There are no times in such a folder: `times_seconds` is NaN."""

    name = "images"

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`."""
        files = list_frames(path)
        indices = chosen_indices(choose, len(files), path)
        pictures = {index: read_picture(files[index]) for index in sorted(set(indices.tolist()))}
        if len({picture.shape for picture in pictures.values()}) > 1:
            raise VideoError("corrupt", f"{path}: its pictures differ in size")
        frames = np.stack([pictures[index] for index in indices.tolist()])
        return Clip(frames, indices, np.full(len(indices), np.nan), len(files))


def list_frames(folder: Path) -> list[Path]:
    """Return the pictures of a folder in natural order; `VideoError` when there are none."""
    if not folder.is_dir():
        raise VideoError("missing", f"{folder} is not a folder of frames")
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise VideoError("empty", f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return sorted(files, key=natural_key)


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Return a sort key by which 2.jpg comes before 10.jpg."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def read_picture(file: Path) -> npt.NDArray[np.uint8]:
    """Return one picture, (H, W, 3) uint8 RGB, or raise `VideoError`."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise VideoError("corrupt", f"{file} is not a picture that can be read: {error}") from error
