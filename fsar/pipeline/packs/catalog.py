"""A pack in the place of a catalog of videos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, read_catalog
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.packs.reader import FramePack, is_pack
from fsar.pipeline.store import VideoRow


def read_videos(path: str | Path) -> Catalog:
    """Return the videos of a catalog.csv or of a pack; those of a pack have the pack itself as their path.

    Raises:
        FileNotFoundError: there is none.
        InputError: it cannot be read; a catalog's line is named.
    """
    if not is_pack(path):
        return read_catalog(path)
    pack = FramePack.open(path)
    place = pack.path.absolute()
    rows = (CatalogRow(video.video_id, place, video.class_name, 0, video.part) for video in pack.videos)
    return Catalog(tuple(rows), pack.path.stem)


def video_rows(rows: Iterable[CatalogRow]) -> list[VideoRow]:
    """Return the videos of a catalog, or some of them, as rows of a store or a pack."""
    return [VideoRow(row.video_id, row.class_name, row.part, str(row.path)) for row in rows]


def pack_settings(paths: Iterable[str | Path]) -> PackSettings | None:
    """Return how the frames were made where videos come from a pack; None where they are videos.

    Raises:
        InputError: videos and frames, or frames of different packs, are mixed.
    """
    places = {str(path) if is_pack(path) else "" for path in paths}
    if len(places) > 1:
        raise InputError(f"videos of one store must come from one place, not from {', '.join(sorted(places))}")
    place = next(iter(places), "")
    return FramePack.open(place).settings if place else None


def require_frames(videos: Sequence[VideoRow]) -> None:
    """Raise InputError, with the command that fetches them, where a partial copy of a pack lacks some of the videos."""
    if videos and is_pack(videos[0].path):
        FramePack.open(videos[0].path).require(video.video_id for video in videos)
