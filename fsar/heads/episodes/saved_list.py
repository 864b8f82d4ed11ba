"""Lists of episodes that outlive a store: by video id, saved, hashed, quoted with every result."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsar.errors import InputError
from fsar.files import atomic_path
from fsar.heads.episodes.sampler import Episodes, Ints

ARRAYS = ("class_ids", "support", "support_labels", "query", "query_labels", "unlabelled", "indices")


@dataclass(frozen=True, slots=True)
class EpisodeList:
    """Episodes whose rows are positions in a list of video ids instead of rows of one store."""

    class_names: tuple[str, ...]
    """What `episodes.class_ids` point to."""
    video_ids: tuple[str, ...]
    """What the rows of `episodes` point to: sorted, each used at least once."""
    episodes: Episodes

    @property
    def sha256(self) -> str:
        """Hex digest of everything that decides a result: equal digests mean the same episodes in the same order."""
        digest = hashlib.sha256(json.dumps([self.class_names, self.video_ids], ensure_ascii=False).encode())
        for name in ARRAYS[:-1]:
            array = getattr(self.episodes, name)
            digest.update(json.dumps([name, array.shape]).encode())
            digest.update(np.ascontiguousarray(array, "<i8").tobytes())
        return digest.hexdigest()

    def check(self) -> None:
        """Raise InputError for what no drawn list holds: arrays that do not fit, or a video twice in an episode."""
        e = self.episodes
        n_episodes, n_way = e.class_ids.shape if e.class_ids.ndim == 2 else (0, 0)
        shapes = {name: getattr(e, name).shape for name in ARRAYS}
        per_video = (e.support, e.query, e.unlabelled)
        if (
            n_episodes < 1
            or n_way < 2
            or shapes["indices"] != (n_episodes,)
            or any(rows.ndim != 2 or len(rows) != n_episodes for rows in per_video)
            or shapes["support"] != shapes["support_labels"]
            or shapes["query"] != shapes["query_labels"]
        ):
            raise InputError(f"its arrays do not fit together: {shapes}")
        _check_range("class_ids", e.class_ids, len(self.class_names))
        for name in ("support", "query", "unlabelled"):
            _check_range(name, getattr(e, name), len(self.video_ids))
        for name in ("support_labels", "query_labels"):
            _check_range(name, getattr(e, name), n_way)
        _check_distinct("class", e.class_ids)
        _check_distinct("video", np.concatenate(per_video, 1))
        shown = (e.support_labels[:, :, None] == np.arange(n_way)).any(1)
        if not shown.all():
            raise InputError(f"episode {int(np.argmin(shown.all(1)))} has a class without support")

    def in_store(self, row_of: Callable[[str], int], part_classes: Mapping[str, int]) -> Episodes:
        """Return the episodes with rows of a store and class ids of a pool.

        Args:
            row_of: Store row of a video id; raises InputError or KeyError for an unknown one.
            part_classes: Class name -> class id of the pool.
        """
        missing = [name for name in self.class_names if name not in part_classes]
        if missing:
            raise InputError(
                f"the episode list uses class {missing[0]!r}, which is not in the chosen part of the store"
            )
        rows = np.array([_row(row_of, video_id) for video_id in self.video_ids], np.int64)
        classes = np.array([part_classes[name] for name in self.class_names], np.int64)
        e = self.episodes
        return Episodes(
            class_ids=classes[e.class_ids],
            support=rows[e.support],
            support_labels=e.support_labels,
            query=rows[e.query],
            query_labels=e.query_labels,
            unlabelled=rows[e.unlabelled],
            indices=e.indices,
        )


def _check_range(name: str, values: Ints, limit: int) -> None:
    if values.size and (values.min() < 0 or values.max() >= limit):
        raise InputError(f"{name} must be 0 to {limit - 1}, it has {int(values.min())} to {int(values.max())}")


def _check_distinct(what: str, values: Ints) -> None:
    ordered = np.sort(values, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if twice.any():
        raise InputError(f"episode {int(np.argmax(twice))} has a {what} twice")


def _row(row_of: Callable[[str], int], video_id: str) -> int:
    try:
        return row_of(video_id)
    except KeyError:
        raise InputError(f"the episode list uses video {video_id!r}, which the store does not have") from None


def to_list(episodes: Episodes, class_names: Sequence[str], video_id_of: Sequence[str]) -> EpisodeList:
    """Return `episodes` of a store by video id; `video_id_of[row]` names the video of a row."""
    rows = episodes.rows()
    ids = np.array([video_id_of[row] for row in rows])
    order = np.argsort(ids)
    rank = np.empty(len(rows), np.int64)
    rank[order] = np.arange(len(rows))

    def position(of: Ints) -> Ints:
        return rank[np.searchsorted(rows, of)]

    listed = Episodes(
        class_ids=episodes.class_ids,
        support=position(episodes.support),
        support_labels=episodes.support_labels,
        query=position(episodes.query),
        query_labels=episodes.query_labels,
        unlabelled=position(episodes.unlabelled),
        indices=episodes.indices,
    )
    return EpisodeList(tuple(class_names), tuple(ids[order].tolist()), listed)


def save_list(episode_list: EpisodeList, path: Path) -> None:
    """Write a list as .npz (plain arrays, no pickles), whole or not at all."""
    arrays = {name: getattr(episode_list.episodes, name) for name in ARRAYS}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            class_names=np.array(episode_list.class_names),
            video_ids=np.array(episode_list.video_ids),
            sha256=np.array(episode_list.sha256),
            allow_pickle=False,
            **arrays,
        )


def load_list(path: Path) -> EpisodeList:
    """Read a list that `save_list` wrote; raises InputError if the file is something else, or was changed."""
    if not path.is_file():
        raise InputError(f"no episode list at {path}; --save-episodes PATH writes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            episodes = Episodes(*(file[name].astype(np.int64) for name in ARRAYS))
            names, ids = (tuple(file[name].tolist()) for name in ("class_names", "video_ids"))
            listed, written = EpisodeList(names, ids, episodes), str(file["sha256"])
    except (KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is not an episode list of fsar ({error})") from error
    try:
        listed.check()
    except InputError as error:
        raise InputError(f"{path} is not a sound list of episodes: {error}") from error
    if listed.sha256 != written:
        raise InputError(f"{path} was changed after it was written: its hash is {listed.sha256}, not {written}")
    return listed
