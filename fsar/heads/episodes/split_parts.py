"""Which videos of a store belong to training, validation and test, and which of them can be used."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsar.errors import InputError, unknown_name
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

    @property
    def n_failed(self) -> int:
        """Number of videos that could not be encoded."""
        return sum(self.failed.values())


def store_parts(store: "FeatureStore", split: Split | None = None) -> StoreParts:
    """Return the parts that `split` gives a store's videos, or those that were recorded when it was encoded.

    Classes keep the order of the split (the class ids of published checkpoints), else of the store. Rows whose video
    failed are left out and counted.
    """
    places, status = _places(store, split), store.status
    members: dict[str, dict[str, list[int]]] = {}
    failed: dict[str, int] = {}
    for row, place in enumerate(places):
        if place is None:
            continue
        part, class_name = place
        rows = members.setdefault(part, {}).setdefault(class_name, [])
        if status[row] == STATUS_OK:
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
    return StoreParts(split.name if split else str(store.path), split.sha256 if split else "", pools, failed)


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
