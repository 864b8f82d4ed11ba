"""Which videos of a store belong to training, validation and test, and which of them can be used."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fsar.errors import InputError, count_of, unknown_name
from fsar.heads.episodes.sampler import EpisodePool, EpisodeShape
from fsar.splits import Split, class_key, match_videos

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore

STATUS_OK = 1
"""Rows with any other status are never drawn (the value of `fsar.pipeline.store.STATUS_OK`)."""


@dataclass(frozen=True, slots=True)
class StoreParts:
    """The pools that episodes of a store are drawn from."""

    name: str
    """Of the split, or of the store where its own parts are used."""
    sha256: str
    """Of the split; empty for the store's own parts."""
    pools: dict[str, EpisodePool]
    """part -> classes with their usable rows; a part without videos is absent."""
    failed: dict[str, int] = field(default_factory=dict)
    """class -> number of videos that could not be encoded."""
    split: Split | None = None
    """None where the store's own parts are used."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Id of a video that is left out -> id of the one with the same content that is drawn."""
    val_share: float | None = None
    """Share of the training classes that `with_val_share` held out."""

    def pool(self, part: str) -> EpisodePool:
        """Return the pool of a part; the error says which parts there are."""
        if part not in self.pools:
            known = [name or "(unnamed)" for name in self.pools]
            if part in ("train", "val", "test"):
                raise InputError(
                    f"{self.name} has no videos of part {part!r}, only of {', '.join(known) or 'none'}; "
                    "name a split with --split, or index the dataset with parts"
                )
            raise unknown_name("part", part, known)
        return self.pools[part]

    def test_part(self, part: str) -> str:
        """Return `part` if there is one, or the only part there is: a store of one part is tested as it is."""
        return next(iter(self.pools)) if part not in self.pools and len(self.pools) == 1 else part

    def with_val_share(self, share: float) -> "StoreParts":
        """Return the parts with a share of the training classes as the validation part.

        Which classes is decided by a hash of their names alone, so that they stay the same as the data grow. At least
        two are held out, and at least two are left.

        Raises:
            InputError: there is a validation part, no training part, a share outside (0, 1), or too few classes.
        """
        if not 0 < share < 1:
            raise InputError(f"--val-share must be between 0 and 1, got {share}")
        if "val" in self.pools:
            raise InputError(f"{self.name} has a validation part: leave --val-share out")
        train = self.pool("train")
        n_held = max(2, round(share * train.n_classes))
        if train.n_classes - n_held < 2:
            raise InputError(
                f"--val-share {share} would hold out {n_held} of {train.n_classes} training classes and leave fewer "
                "than 2 to train on"
            )
        held = set(sorted(train.class_names, key=_name_hash)[:n_held])
        rows = {name: train.rows_of(i) for i, name in enumerate(train.class_names)}
        pools = {
            "train": EpisodePool({name: own for name, own in rows.items() if name not in held}),
            "val": EpisodePool({name: own for name, own in rows.items() if name in held}),
            **{part: pool for part, pool in self.pools.items() if part != "train"},
        }
        return replace(self, pools=pools, val_share=share)

    def notes(self) -> list[str]:
        """Return what a reader of a result should know about the videos that are never drawn."""
        found = []
        if self.failed:
            named = ", ".join(f"{name} ({count})" for name, count in self.failed.items())
            found.append(f"{count_of(self.n_failed, 'video')} could not be encoded, never drawn: {named}")
        if self.duplicates:
            copy, kept = next(iter(self.duplicates.items()))
            found.append(
                f"{count_of(len(self.duplicates), 'video')} left out: the same file is there under another id "
                f"({copy} is {kept}); --allow-duplicates draws both"
            )
        return found

    @property
    def n_failed(self) -> int:
        """Number of videos that could not be encoded."""
        return sum(self.failed.values())


def _name_hash(class_name: str) -> str:
    return hashlib.sha256(class_key(class_name).encode()).hexdigest()


def store_parts(store: "FeatureStore", split: Split | None = None, *, allow_duplicates: bool = False) -> StoreParts:
    """Return the parts that `split` gives a store's videos, or those that were recorded when it was encoded.

    Classes keep the order of the split (the class ids of published checkpoints), else of the store. Rows whose video
    failed are left out and counted. So are rows that repeat an earlier video of their part byte for byte, unless
    `allow_duplicates` is on: one of them in the support and the other in the query is an answer, not a question.
    """
    places, status = _places(store, split), store.status
    first_of = {} if allow_duplicates else _first_copies(store, places)
    members: dict[str, dict[str, list[int]]] = {}
    failed: dict[str, int] = {}
    for row, place in enumerate(places):
        if place is None:
            continue
        part, class_name = place
        rows = members.setdefault(part, {}).setdefault(class_name, [])
        if status[row] == STATUS_OK:
            if row not in first_of:
                rows.append(row)
        else:
            failed[class_name] = failed.get(class_name, 0) + 1
    if not members:
        name = split.name if split else "its own list"
        raise InputError(f"no video of {store.path} is in {name}; is it a store of another dataset?")
    pools = {
        part: EpisodePool(_in_split_order(members[part], part, split)) for part in sorted(members, key=_part_order)
    }
    if split is None:
        _check_disjoint(pools)
    ids = [video.video_id for video in store.videos]
    duplicates = {ids[row]: ids[first] for row, first in first_of.items()}
    name, sha256 = (split.name, split.sha256) if split else (store.address, "")
    return StoreParts(name, sha256, pools, failed, split, duplicates)


def _first_copies(store: "FeatureStore", places: Sequence[tuple[str, str] | None]) -> dict[int, int]:
    """Return row -> first row of the same content in the same part, for the rows that are not that first one."""
    copies = {}
    for group in store.duplicates():
        first_in: dict[str, int] = {}
        for row in group:
            place = places[row]
            if place is not None and first_in.setdefault(place[0], row) != row:
                copies[row] = first_in[place[0]]
    return copies


def _part_order(part: str) -> int:
    return ("train", "val", "test").index(part) if part in ("train", "val", "test") else 3


def _places(store: "FeatureStore", split: Split | None) -> list[tuple[str, str] | None]:
    if split is None:
        return [(video.part, video.class_name) for video in store.videos]
    matching = match_videos(split, [(video.video_id, video.class_name) for video in store.videos])
    return [place and (place.part, place.class_name) for place in matching.places]


def _in_split_order(rows: dict[str, list[int]], part: str, split: Split | None) -> dict[str, list[int]]:
    if split is None:
        return rows
    return {name: rows[name] for name in split.parts[part] if name in rows}


def _check_disjoint(pools: dict[str, EpisodePool]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for part, pool in pools.items():
        for name in pool.class_names:
            other_part, other = seen.setdefault(class_key(name), (part, name))
            if other_part != part:
                raise InputError(
                    f"class {name!r} is in both {other_part or '(unnamed)'} and {part or '(unnamed)'} (as {other!r}): "
                    "parts must share no class; name a split with --split"
                )


def usable_pool(
    parts: StoreParts, part: str, shape: EpisodeShape, *, drop_small_classes: bool
) -> tuple[EpisodePool, dict[str, int]]:
    """Return the pool of a part for episodes of `shape`, and the classes that were dropped because they are too small.

    Raises:
        InputError: too few classes, or a class too small while `drop_small_classes` is off; the class is named.
    """
    pool, dropped = parts.pool(part), dict[str, int]()
    if drop_small_classes:
        pool, dropped = pool.without_small_classes(shape.n_videos)
    pool.check(shape, f"the {part or 'only'} part of {parts.name}")
    return pool, dropped


def overlapping_classes(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return those of `names` that are among `others` in any spelling."""
    keys = {class_key(name) for name in others}
    return [name for name in names if class_key(name) in keys]
