"""The features that temporal_matching publishes: one file for each video, with a vector for every clip of it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fsar.documents import read_text
from fsar.errors import InputError
from fsar.pipeline.published.rows import CLIP_FRAMES, Dtype, ImportReport, ReadRow, import_rows, read_tensor
from fsar.pipeline.store import VideoRow
from fsar.splits import PARTS

FEATURES, CLIPS = "video_features.pth", "clip_names.txt"
SAMPLER = "temporal-matching"
ASKED_FOR_WIDTH = 16
"""Videos whose files say how wide features are, about."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What of the clips of a video is stored."""

    n_slots: int = 8
    """Clips T of a view."""
    n_views: int = 1
    """Views: each draws its own clips, as the published code draws anew whenever it reads a video."""
    seed: int = 0
    dtype: Dtype = "float32"


def import_features(
    folder: Path, out: Path, options: ImportOptions = ImportOptions(), *, quiet: bool = False
) -> ImportReport:
    """Write the features below FOLDER/train|val|test/CLASS/VIDEO as a store; one that was begun is finished.

    Raises:
        InputError: no such files, a video in two parts, or a store of something else at `out`.
    """
    videos = list(find_videos(folder))
    if not videos:
        raise InputError(f"{folder} holds no features: they lie in FOLDER/train|val|test/CLASS/VIDEO/{FEATURES}")
    dim = _width(videos)

    def read(row: int) -> ReadRow:
        return read_video(Path(videos[row].path), options, row)

    shape = (options.n_views, options.n_slots, dim)
    recipe = {"sampler": SAMPLER, "seed": options.seed, "clip": {"length": CLIP_FRAMES, "stride": 0, "steps": 1}}
    return import_rows(out, videos, read, shape=shape, recipe=recipe, dtype=options.dtype, quiet=quiet)


def find_videos(folder: Path) -> Iterator[VideoRow]:
    """Yield the videos of a published folder, in the order of parts, classes and names."""
    for part in PARTS:
        for file in sorted((folder / part).glob(f"*/*/{FEATURES}")):
            yield VideoRow(file.parent.name, file.parent.parent.name, part, str(file.parent))


def _width(videos: list[VideoRow]) -> int:
    """Return the width that most features have, of a few spread over the folder; of all if those cannot be read."""
    few = videos[:: max(len(videos) // ASKED_FOR_WIDTH, 1)]
    reasons: list[Exception] = []
    for asked in (few, videos):
        widths: Counter[int] = Counter()
        for video in asked:
            try:
                shape = read_tensor(Path(video.path) / FEATURES)[0].shape
                widths.update(shape[-1:] if len(shape) in (1, 2) else ())
            except (InputError, OSError) as error:
                reasons.append(error)
        if widths:
            return widths.most_common(1)[0][0]
    raise InputError(f"no file of features can be read: {reasons[0] if reasons else 'all have other axes'}")


def read_video(folder: Path, options: ImportOptions, row: int) -> ReadRow:
    """Return the clips that are stored of a video, drawn for its row; raises InputError for a file of another form."""
    clips, sha256 = read_tensor(folder / FEATURES)
    clips = clips[None] if clips.ndim == 1 else clips  # of a single clip
    if clips.ndim != 2 or 0 in clips.shape:
        raise InputError(f"{folder / FEATURES} must hold (clips, width) numbers, got {clips.shape}")
    starts = _starts(folder / CLIPS, len(clips))
    places = np.stack(
        [
            clip_places(len(clips), options.n_slots, np.random.default_rng([options.seed, row, view]))
            for view in range(options.n_views)
        ]
    )
    return ReadRow(clips[places], starts[places], len(clips) + CLIP_FRAMES - 1, sha256)


def clip_places(n_clips: int, n_slots: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the clips (T,) of a view, ascending: one at random of each of T equal parts.

    Where there are no more than T all are taken, and the last one again.
    """
    if n_clips <= n_slots:
        return np.minimum(np.arange(n_slots), n_clips - 1)
    bounds = np.ceil(np.linspace(0, n_clips, n_slots + 1)).astype(np.int64)
    return generator.integers(bounds[:-1], bounds[1:])


def _starts(path: Path, n_clips: int) -> npt.NDArray[np.int32]:
    """Return the first frame (n_clips,) of each clip, from 0: as the list of names says, else one clip a frame."""
    if not path.is_file():
        return np.arange(n_clips, dtype=np.int32)
    lines = read_text(path).split()
    names = [line.partition(",")[0].rpartition("/")[2].partition(".")[0] for line in lines]
    if len(names) != n_clips or not all(name.isascii() and name.isdigit() and 0 < int(name) < 2**31 for name in names):
        raise InputError(f"{path} must name the frames of {n_clips} clips, one clip a line")
    return np.array([int(name) - 1 for name in names], np.int32)
