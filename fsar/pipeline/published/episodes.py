"""The test episodes that temporal_matching publishes: supports and targets as tensors, one file for each."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fsar.documents import read_text
from fsar.errors import InputError
from fsar.pipeline.published.rows import Dtype, ImportReport, ReadRow, import_rows, read_tensor
from fsar.pipeline.store import VideoRow
from fsar.splits import Split

SETS = ("support", "target")
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PublishedEpisodes:
    """E episodes whose rows are those of a store: every episode's supports, then its targets."""

    report: ImportReport
    class_names: tuple[str, ...]
    class_ids: Ints
    """(E, N) of `class_names`, by label."""
    support_labels: Ints
    """(E, S)."""
    query_labels: Ints
    """(E, Q)."""
    video_ids: tuple[str, ...]
    """Of the rows of the store."""


def import_episodes(
    folder: Path, out: Path, split: Split, *, dtype: Dtype = "float32", quiet: bool = False
) -> PublishedEpisodes:
    """Write the videos of all episodes in a folder as a store, a row for every time that one is shown.

    Args:
        folder: With support_set_ID.pth, support_labels_ID.pth, support_frame_names_ID.txt, and the same of target.
        out: The store; one that was begun is finished.
        split: Says of which class a video is; the files hold labels of single episodes only.
        dtype: Of the stored numbers.
        quiet: Show no progress.

    Raises:
        InputError: no episodes there, a file of another form, episodes of other sizes, a video that the split does not
            have, or an episode whose labels and classes do not fit together.
    """
    numbers = sorted(int(m[1]) for path in folder.glob("support_set_*.pth") if (m := _NUMBER.fullmatch(path.name)))
    if not numbers:
        raise InputError(f"{folder} holds no episodes: files support_set_ID.pth, support_labels_ID.pth and so on")
    class_of = {video_id: name for _, name, ids in split.classes() for video_id in ids or ()}
    labels = {kind: np.stack([_labels(folder, kind, n) for n in numbers]) for kind in SETS}
    names = [[_video_ids(folder, kind, n, labels[kind].shape[1]) for kind in SETS] for n in numbers]
    classes = sorted({_class(class_of, name, split) for both in names for own in both for name in own})
    place = {name: i for i, name in enumerate(classes)}
    ids = np.stack([
        _class_ids(n, [place[class_of[name]] for own in both for name in own], both_labels)
        for n, both, both_labels in zip(numbers, names, np.concatenate(list(labels.values()), 1), strict=True)
    ])  # fmt: skip
    rows = [
        VideoRow(f"{n:05}-{kind}-{i:02}-{name}", class_of[name], "test", str(folder / f"{kind}_set_{n}.pth"))
        for n, both in zip(numbers, names, strict=True)
        for kind, own in zip(SETS, both, strict=True)
        for i, name in enumerate(own)
    ]
    n_support, n_videos = labels["support"].shape[1], sum(own.shape[1] for own in labels.values())

    @lru_cache(maxsize=2)
    def read_set(path: str) -> npt.NDArray[np.float32]:
        return read_tensor(Path(path))[0]

    def read(row: int) -> ReadRow:
        videos = read_set(rows[row].path)
        place = row % n_videos
        kind, i = (0, place) if place < n_support else (1, place - n_support)
        n_expected = labels[SETS[kind]].shape[1]
        if videos.ndim != 3 or len(videos) != n_expected or videos.shape[1] != n_slots:
            raise InputError(f"{rows[row].path} must hold ({n_expected}, {n_slots}, width) numbers, got {videos.shape}")
        sha256 = hashlib.sha256(videos[i].tobytes()).digest()  # the file holds other videos, too
        return ReadRow(videos[i : i + 1], np.full((1, n_slots), -1, np.int32), 0, sha256)

    first = read_set(rows[0].path)
    if first.ndim != 3:
        raise InputError(f"{rows[0].path} must hold (videos, clips, width) numbers, got {first.shape}")
    n_slots = first.shape[1]
    recipe = {"sampler": "temporal-matching", "episodes": len(numbers)}
    report = import_rows(out, rows, read, shape=(1, *first.shape[1:]), recipe=recipe, dtype=dtype, quiet=quiet)
    video_ids = tuple(row.video_id for row in rows)
    return PublishedEpisodes(report, tuple(classes), ids, labels["support"], labels["target"], video_ids)


_NUMBER = re.compile(r"support_set_(\d+)\.pth")


def _labels(folder: Path, kind: str, number: int) -> Ints:
    path = folder / f"{kind}_labels_{number}.pth"
    labels, _ = read_tensor(path)
    if labels.ndim != 1 or not len(labels) or (labels != labels.astype(np.int64)).any() or labels.min() < 0:
        raise InputError(f"{path} must hold whole numbers from 0, one for each video")
    return labels.astype(np.int64)


def _video_ids(folder: Path, kind: str, number: int, n_videos: int) -> list[str]:
    """Return the video of each line: clips joined by ";", frames by ",", each VIDEO/FRAME."""
    path = folder / f"{kind}_frame_names_{number}.txt"
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    ids = [line.partition(";")[0].partition(",")[0].strip().rpartition("/")[0].rpartition("/")[2] for line in lines]
    if len(ids) != n_videos or not all(ids):
        raise InputError(f"{path} must name the frames of {n_videos} videos, VIDEO/FRAME, one video a line")
    return ids


def _class(class_of: dict[str, str], video_id: str, split: Split) -> str:
    if video_id not in class_of:
        raise InputError(
            f"split {split.name!r} has no video {video_id!r}: name the split of these episodes with --split"
        )
    return class_of[video_id]


def _class_ids(number: int, classes: list[int], labels: Ints) -> Ints:
    """Return the class (N,) of each label of an episode."""
    found: dict[int, int] = {}
    for label, own in zip(labels.tolist(), classes, strict=True):
        if found.setdefault(label, own) != own:
            raise InputError(f"episode {number}: videos of label {label} are of two classes in the split")
    if sorted(found) != list(range(len(found))) or len(set(found.values())) < len(found):
        raise InputError(
            f"episode {number}: labels must be 0 to N - 1, each of a class of its own, got {sorted(found)}"
        )
    return np.array([found[label] for label in range(len(found))], np.int64)
