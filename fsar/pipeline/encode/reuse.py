"""Rows of other stores that need not be computed again: the same recipe, the same bytes of the video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.video.sample import is_random_sampler
from fsar.pipeline.video.source import source_sha256

if TYPE_CHECKING:
    import numpy.typing as npt

    from fsar.pipeline.store import FeatureStore, VideoRow
    from fsar.pipeline.store.checked_rows import CheckedRows

N_HASHING = 4
SMALL_ARRAYS = ("frame_index", "frame_time", "status", "n_frames", "source_sha256")
Key = tuple[bytes, str, bool]
"""Hash of the video; its id where random frames or views depend on it; whether it has augmented views."""


def same_numbers(recipe: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether a store of recipe `other` holds what `recipe` asks for; it may have more taps."""
    wanted, found = {**recipe, "taps": ()}, {**other, "taps": ()}
    return wanted == found and set(recipe["taps"]) <= set(other.get("taps", ()))


@dataclass(frozen=True)
class ReusedRows:
    """Some rows of a chunk, all arrays by their full name, each (R, *tail)."""

    rows: Sequence[int]
    arrays: Mapping[str, npt.NDArray[Any]]


class Reuse:
    """Finds rows in stores that are open."""

    def __init__(self, stores: Sequence[FeatureStore], recipe: Recipe) -> None:
        """Note which rows there are; stores of another recipe are left out."""
        from fsar.pipeline.store import STATUS_OK
        from fsar.pipeline.store.checked_rows import CheckedRows

        self._recipe = recipe
        self._by_id = recipe.n_views > 1 or is_random_sampler(recipe.sampler)
        self.stores = [store for store in stores if same_numbers(recipe.to_dict(), store.recipe)]
        self._places: dict[Key, tuple[CheckedRows, int]] = {}
        for store in self.stores:
            rows, hashes = CheckedRows(store), store.source_sha256
            for row, status in enumerate(store.status.tolist()):
                if status == STATUS_OK:
                    self._places.setdefault(self._key(bytes(hashes[row]), store.videos[row]), (rows, row))

    def find(self, videos: Mapping[int, VideoRow]) -> list[ReusedRows]:
        """Return the rows among `videos` (row of the new store -> video) that are there, read and checked."""
        if not self._places:
            return []
        with ThreadPoolExecutor(N_HASHING) as pool:
            hashes = dict(zip(videos, pool.map(_hash, videos.values()), strict=True))
        found: dict[CheckedRows, list[tuple[int, int]]] = {}
        for row, video in videos.items():
            digest = hashes[row]
            place = self._places.get(self._key(digest, video)) if digest else None
            if place:
                found.setdefault(place[0], []).append((row, place[1]))
        return [self._read(rows, pairs) for rows, pairs in found.items()]

    def _key(self, digest: bytes, video: VideoRow) -> Key:
        is_augmented = self._recipe.n_views > 1 and video.part not in ("val", "test")
        return digest, video.video_id if self._by_id else "", is_augmented

    def _read(self, rows: CheckedRows, pairs: Sequence[tuple[int, int]]) -> ReusedRows:
        import numpy as np

        places = np.array([place for _, place in pairs], np.int64)
        names = [*SMALL_ARRAYS, *(f"features/{tap}" for tap in self._recipe.taps)]
        return ReusedRows([row for row, _ in pairs], {name: rows.read(name, places) for name in names})


def _hash(video: VideoRow) -> bytes:
    """Return the hash of a video file, empty where it cannot be read: then encoding says why."""
    try:
        return bytes.fromhex(source_sha256(Path(video.path)))
    except OSError:
        return b""
