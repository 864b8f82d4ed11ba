"""A video that was extracted before: a folder of numbered pictures, one kind of them, in the order of their numbers."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fsar.pipeline.video.clip import Choose, Clip, VideoError, chosen_indices
from fsar.pipeline.video.picture import read_picture

PICTURE_SUFFIXES = frozenset(
    (".bmp", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp")
)
_ONE_SUFFIX = {".jpe": ".jpg", ".jpeg": ".jpg", ".tiff": ".tif"}
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SECONDS = re.compile(r"\d(s|sec|secs|seconds)$")
_FLOW = re.compile(r"(#[_-])?((optical|opt|tvl[1#]|dense)?[_-]?flow|[uvxy])([_-]?[xyuvij])?[_\-#]*")
"""Names of optical flow as extraction tools write them beside frames: flow_x_00001, u_00001, y_1, tvl1_flow_3."""


class ImagesDecoder:
    """Reads the chosen pictures of a folder. There are no times in such a folder: `times_seconds` is NaN."""

    name = "images"

    def decode(self, path: Path, choose: Choose) -> Clip:
        """Return the chosen frames, or raise `VideoError`."""
        files = list_frames(path)
        indices = chosen_indices(choose, len(files), path)
        pictures = dict(_read(files, indices, path))
        frames = np.stack([pictures[index] for index in indices.tolist()])
        return Clip(frames, indices, np.full(len(indices), np.nan), len(files))


def iterate_pictures(path: Path, choose: Choose) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield (index, RGB picture) of the chosen frames of a folder, each once, in order, or raise `VideoError`."""
    files = list_frames(path)
    yield from _read(files, chosen_indices(choose, len(files), path), path)


def _read(
    files: list[Path], indices: npt.NDArray[np.int32], folder: Path
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    shape = None
    for index in sorted(set(indices.tolist())):
        picture = read_picture(files[index])
        shape = shape or picture.shape
        if picture.shape != shape:
            raise VideoError("corrupt", f"{folder}: its pictures differ in size ({files[index].name} from the first)")
        yield index, picture


def list_frames(folder: Path) -> list[Path]:
    """Return the frames of a folder in order.

    Optical flow (flow_x_00001.jpg) and pictures without a number (folder.jpg) beside numbered frames are no frames.
    `VideoError` when there are none, when several kinds could be the frames, and when two would be the same frame.
    """
    if not folder.is_dir():
        raise VideoError("missing", f"{folder} is not a folder of frames")
    with os.scandir(folder) as entries:
        files = [Path(entry.path) for entry in entries if is_picture(entry.name) and not entry.is_dir()]
    if not files:
        raise VideoError("empty", f"{folder} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})")
    return _ordered(_frames_among(files, folder), folder)


def is_picture(name: str) -> bool:
    """Tell whether a file of this name can be a frame; hidden files are none."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def is_flow(name: str) -> bool:
    """Tell whether pictures of this name hold optical flow, where others stand beside them."""
    return _FLOW.fullmatch(_NUMBER.sub("#", name).lower()) is not None


def _frames_among(files: list[Path], folder: Path) -> list[Path]:
    """Return the files of the one kind that can be the frames; names of a kind differ in their numbers alone."""
    kinds: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for file in files:
        suffix = file.suffix.lower()
        kinds[_NUMBER.sub("#", file.stem).lower(), _ONE_SUFFIX.get(suffix, suffix)].append(file)
    numbered = {kind: found for kind, found in kinds.items() if "#" in kind[0]}
    if not numbered:
        return files
    frames = {kind: found for kind, found in numbered.items() if not is_flow(kind[0])} or numbered
    if len(frames) > 1:
        listed = ", ".join(f"{stem}{suffix} ({len(found)})" for (stem, suffix), found in sorted(frames.items())[:4])
        raise VideoError("ambiguous", f"{folder} holds several kinds of pictures: {listed}; keep those of one kind")
    return next(iter(frames.values()))


def _ordered(files: list[Path], folder: Path) -> list[Path]:
    """Return the files by number. A point in a number is read as one where names tell seconds (frame_0.25s.png)."""
    key, ordered = natural_key, sorted(files, key=natural_key)
    if ordered != sorted(files, key=_decimal_key):
        if not _are_seconds(files):
            names = ", ".join(file.name for file in ordered[:3])
            raise VideoError(
                "ambiguous", f"{folder}: the order of its pictures is unclear ({names}): number them 1, 2, 3"
            )
        key, ordered = _decimal_key, sorted(files, key=_decimal_key)
    for first, second in pairwise(ordered):
        if key(first) == key(second):
            raise VideoError("ambiguous", f"{folder}: {first.name} and {second.name} have the same number")
    return ordered


def _are_seconds(files: list[Path]) -> bool:
    """Whether numbers with points are decimals: they have the unit, or none ends as no decimal would (1.10)."""
    stems = [file.stem.lower() for file in files]
    return all(_SECONDS.search(stem) for stem in stems) or not any(re.search(r"\.\d+0(?!\d)", stem) for stem in stems)


def natural_key(path: Path) -> list[tuple[int, int | Fraction | str]]:
    """Return a sort key by which 2.jpg comes before 10.jpg."""
    parts = re.split(r"(\d+)", path.stem.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]


def _decimal_key(path: Path) -> list[tuple[int, int | Fraction | str]]:
    """Return a sort key by which 0.25.jpg comes before 0.5.jpg."""
    parts = re.split(r"(\d+(?:\.\d+)?)", path.stem.lower())
    return [(0, Fraction(part)) if part[0].isdecimal() else (1, part) for part in parts if part]
