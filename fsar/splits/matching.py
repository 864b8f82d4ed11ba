"""Which place in a split a video has, whatever spelling of names its folder uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fsar.splits.names import class_key, loose_video_id, natural_key, numbered_class
from fsar.splits.split import Split


class Place(NamedTuple):
    """Where a split puts a video."""

    part: str
    class_name: str
    """The class as the split writes it."""
    order: int
    """Position within the class."""


@dataclass(frozen=True)
class Matching:
    """The videos at hand against a split."""

    places: list[Place | None]
    """One per video, in the order they were given; None for a video the split does not use."""
    missing: dict[str, dict[str, list[str]]]
    """part -> class -> listed video ids that are not at hand; classes with nothing missing are left out."""
    found: dict[str, dict[str, int]]
    """part -> class -> number of videos at hand, for every class of the split."""


def match_videos(split: Split, videos: Sequence[tuple[str, str]]) -> Matching:
    """Match (video id, class name) pairs to `split`.

    A class is matched by `class_key`, then its videos by id: exactly, else by their last path component without suffix
    and without the start and end of Kinetics names, if just one video has it. Where one side has only numbered classes
    (`train8`), the ids alone decide.
    """
    pools = _Pools(videos)
    places: list[Place | None] = [None] * len(videos)
    missing: dict[str, dict[str, list[str]]] = {}
    found: dict[str, dict[str, int]] = {}
    for part, name, ids in split.classes():
        rows: Sequence[int | None] = pools.whole(name) if ids is None else pools.listed(name, ids)
        at_hand = [row for row in rows if row is not None]
        for order, row in enumerate(at_hand):
            places[row] = Place(part, name, order)
        found.setdefault(part, {})[name] = len(at_hand)
        lost = [video_id for video_id, row in zip(ids or (), rows, strict=False) if row is None]
        if lost:
            missing.setdefault(part, {})[name] = lost
    return Matching(places, missing, found)


class _Pools:
    """Videos at hand by class, by exact and by loose id."""

    def __init__(self, videos: Sequence[tuple[str, str]]) -> None:
        self._ids = [video_id for video_id, _ in videos]
        self._rows: dict[str, list[int]] = {}
        self._numbered: list[int] = []
        for row, (_, class_name) in enumerate(videos):
            self._rows.setdefault(class_key(class_name), []).append(row)
            if numbered_class(class_name):
                self._numbered.append(row)
        self._everything, self._stand_ins = self._by_id(range(len(videos))), self._by_id(self._numbered)

    def whole(self, name: str) -> list[int]:
        """Return the rows of a class in natural order of their ids."""
        rows = self._rows.get(class_key(name), [])
        return sorted(rows, key=lambda row: natural_key(self._ids[row]))

    def listed(self, name: str, ids: list[str]) -> list[int | None]:
        """Return one row for each id, None where it is not at hand."""
        rows = self._rows.get(class_key(name))
        if rows is not None:
            exact, loose = self._by_id(rows)
        else:
            exact, loose = self._everything if numbered_class(name) else self._stand_ins
        taken = {exact[video_id] for video_id in ids if video_id in exact}
        return [_pick(video_id, exact, loose, taken) for video_id in ids]

    def _by_id(self, rows: Sequence[int]) -> tuple[dict[str, int], dict[str, list[int]]]:
        exact = {self._ids[row]: row for row in rows}
        loose: dict[str, list[int]] = {}
        for row in rows:
            loose.setdefault(loose_video_id(self._ids[row]), []).append(row)
        return exact, loose


def _pick(video_id: str, exact: dict[str, int], loose: dict[str, list[int]], taken: set[int]) -> int | None:
    if video_id in exact:
        return exact[video_id]
    near = [row for row in loose.get(loose_video_id(video_id), ()) if row not in taken]
    return near[0] if len(near) == 1 else None
