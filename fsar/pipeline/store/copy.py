"""New stores from old ones: subsets, the other format, several joined. The same numbers, byte for byte.

The result is an ordinary unfinished store until its last chunk is copied: interrupt it and run it again.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError, unknown_name
from fsar.pipeline.store.checked_rows import CheckedRows
from fsar.pipeline.store.create import create_store
from fsar.pipeline.store.format.chunk_data import ChunkData
from fsar.pipeline.store.format.identity import differing_fields
from fsar.pipeline.store.format.layout import STATUS_PENDING, Chunk, VideoRow, refuse_other_parts
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.journal.damage import intact_tables
from fsar.pipeline.store.journal.manifest import PARTS
from fsar.pipeline.store.portable import FOLDER, videos_folders
from fsar.pipeline.store.reader import FeatureStore, open_store
from fsar.pipeline.store.text_tables import write_text
from fsar.pipeline.store.writer import StoreWriter

Advance = Callable[[int], None]
POLL_SECONDS = 0.2
"""How often to look again at a copy that another process is making, too."""


@dataclass(frozen=True)
class _Source:
    """Where a row comes from."""

    store: FeatureStore
    row: int


def opened(store: str | Path | FeatureStore, *, allow_unsealed: bool = False) -> FeatureStore:
    """Return a store that is given open, or by its path."""
    return store if isinstance(store, FeatureStore) else open_store(store, allow_unsealed=allow_unsealed)


def select_videos(
    store: FeatureStore, *, parts: Sequence[str] = (), classes: Sequence[str] = ()
) -> np.ndarray[Any, Any]:
    """Return the rows of the named split parts and classes, all where none is named.

    Raises:
        InputError: a part or class that no video has; the nearest names are given.
    """
    for kind, wanted, known in (
        ("split part", parts, {video.part for video in store.videos}),
        ("class", classes, {video.class_name for video in store.videos}),
    ):
        for name in wanted:
            if name not in known:
                raise unknown_name(kind, name, known)
    chosen = [
        row
        for row, video in enumerate(store.videos)
        if (not parts or video.part in parts) and (not classes or video.class_name in classes)
    ]
    if not chosen:
        raise InputError(f"no video of {store.path} is in the named parts and classes")
    return np.array(chosen, np.int64)


def export_store(
    source: str | Path | FeatureStore,
    target: str | Path,
    *,
    taps: Sequence[str] = (),
    parts: Sequence[str] = (),
    classes: Sequence[str] = (),
    advance: Advance | None = None,
) -> FeatureStore:
    """Write a subset of a store, or all of it, as another store, zarr or HDF5 by its suffix; return it.

    Args:
        source: a sealed store, or its path.
        target: NAME.zarr or NAME.h5; an interrupted export to it is completed.
        taps: only these; all by default.
        parts: only these split parts.
        classes: only these classes.
        advance: called with the number of rows after each chunk.
    """
    store = opened(source)
    rows = select_videos(store, parts=parts, classes=classes)
    store.fetch_metadata()
    tables = list(intact_tables(store.files).values())
    sources = [_Source(store, int(row)) for row in rows]
    return _copy(target, sources, known_taps(store, taps), tables, advance)


def merge_stores(
    sources: Sequence[str | Path | FeatureStore], target: str | Path, *, advance: Advance | None = None
) -> FeatureStore:
    """Join sealed stores of equal recipe and disjoint videos into a new one, rows grouped by part and class; return it.

    Raises:
        InputError: fewer than two stores, another recipe or other taps (the fields are named), a video that two stores
            have, a class that is in another split part in each, or two different text tables of one name.
    """
    if len(sources) < 2:
        raise InputError("merging needs at least two stores")
    stores = [opened(source) for source in sources]
    for store in stores[1:]:
        _refuse_unequal(stores[0], store)
    _refuse_shared_videos(stores)
    for position, store in enumerate(stores):
        for earlier in stores[:position]:
            refuse_other_parts(earlier.videos, str(earlier.path), store.videos, str(store.path))
    rows = [_Source(store, row) for store in stores for row in range(store.n_videos)]
    place: dict[tuple[str, str], int] = {}
    for source in rows:
        video = source.store.videos[source.row]
        place.setdefault((video.part, video.class_name), len(place))
    rows.sort(key=lambda source: _row_rank(source.store.videos[source.row], place))
    return _copy(target, rows, list(stores[0].taps), _merged_tables(stores), advance)


def known_taps(store: FeatureStore, taps: Sequence[str]) -> list[str]:
    """Return the named taps, all where none is named, in the order in which the recipe has them."""
    for tap in taps:
        if tap not in store.taps:
            raise unknown_name("tap", tap, store.taps)
    return [tap for tap in store.recipe.get("taps", store.taps) if tap in (taps or store.taps)]


def _row_rank(video: VideoRow, place: Mapping[tuple[str, str], int]) -> tuple[int, int]:
    """Return where a row belongs: by part, then by class in the order of first appearance."""
    part = PARTS.index(video.part) if video.part in PARTS else len(PARTS)
    return part, place[video.part, video.class_name]


def _refuse_unequal(a: FeatureStore, b: FeatureStore) -> None:
    lines = differing_fields(a.recipe, b.recipe)
    shape_a, shape_b = (
        {"taps": store.layout.to_dict()["taps"], "n_views": store.n_views, "n_slots": store.n_slots} for store in (a, b)
    )
    lines += differing_fields(shape_a, shape_b)
    if lines:
        raise InputError(f"{a.path} and {b.path} cannot be joined, they differ in {'; '.join(lines)}")


def _refuse_shared_videos(stores: Sequence[FeatureStore]) -> None:
    owner: dict[str, Path] = {}
    for store in stores:
        for video in store.videos:
            if video.video_id in owner:
                raise InputError(
                    f"video {video.video_id!r} is in {owner[video.video_id]} and in {store.path}: export one of them "
                    "without the videos they share"
                )
            owner[video.video_id] = store.path


def _merged_tables(stores: Sequence[FeatureStore]) -> list[TextTable]:
    tables: dict[str, TextTable] = {}
    for store in stores:
        store.fetch_metadata()
        for name, table in intact_tables(store.files).items():
            if name in tables and not tables[name].same_as(table):
                raise InputError(f"two of the stores have different text tables {name!r}: rename one of them first")
            tables[name] = table
    return list(tables.values())


def _copy(
    target: str | Path,
    sources: Sequence[_Source],
    taps: Sequence[str],
    tables: Sequence[TextTable],
    advance: Advance | None,
) -> FeatureStore:
    first = sources[0].store
    intact = {store: CheckedRows(store) for store in {source.store for source in sources}}
    if any(store.path.resolve() == Path(target).resolve() for store in intact):
        raise InputError(f"{target} is one of the stores to copy from: choose another name")
    writer = create_store(
        target,
        videos=[source.store.videos[source.row] for source in sources],
        taps={tap: first.taps[tap] for tap in taps},
        n_views=first.n_views,
        n_slots=first.n_slots,
        recipe=first.recipe | ({"taps": list(taps)} if set(taps) != set(first.taps) else {}),
    )
    with writer:
        _refuse_older_copy(writer, sources)
        for folder in sorted({folder for store in intact for folder in videos_folders(store.files)}):
            writer.record_run({FOLDER: folder})
        for chunk in _chunks_to_copy(writer):
            writer.commit(chunk, _chunk_data(chunk, [sources[row] for row in chunk.rows], taps, intact))
            if advance:
                advance(len(chunk.rows))
        writer.seal()
    for table in tables:
        write_text(target, table)
    return open_store(target)


def _refuse_older_copy(writer: StoreWriter, sources: Sequence[_Source]) -> None:
    """Raise InputError when rows that are there already came from another video file or ended otherwise."""
    there = open_store(writer.path, allow_unsealed=True)
    for row in np.flatnonzero(there.status != STATUS_PENDING).tolist():
        store, origin = sources[row].store, sources[row].row
        if there.status[row] != store.status[origin] or (there.source_sha256[row] != store.source_sha256[origin]).any():
            raise InputError(
                f"{writer.path} holds an older copy, in which video {there.videos[row].video_id!r} is another: "
                "remove it or choose another name"
            )


def _chunks_to_copy(writer: StoreWriter) -> Iterator[Chunk]:
    """Yield claimed chunks until none is pending, also not in the hands of another copy to the same target."""
    while True:
        while (chunk := writer.claim()) is not None:
            yield chunk
        if not writer.pending_chunks():
            return
        time.sleep(POLL_SECONDS)  # should the other one die, its chunks can be claimed


def _chunk_data(
    chunk: Chunk, sources: Sequence[_Source], taps: Sequence[str], intact: Mapping[FeatureStore, CheckedRows]
) -> ChunkData:
    found = [(row, source.store.failure_of(source.row)) for row, source in zip(chunk.rows, sources, strict=True)]
    failures = [(row, *failure) for row, failure in found if failure is not None]
    names = ("frame_index", "frame_time", "status", "n_frames", "source_sha256")
    features = {tap: _gather(sources, f"features/{tap}", intact) for tap in taps}
    return ChunkData(features, **{name: _gather(sources, name, intact) for name in names}, failures=failures)


def _gather(sources: Sequence[_Source], name: str, intact: Mapping[FeatureStore, CheckedRows]) -> np.ndarray[Any, Any]:
    """Return the rows of an array, read in one go for each run of rows of one store."""
    pieces, start = [], 0
    while start < len(sources):
        store, stop = sources[start].store, start
        while stop < len(sources) and sources[stop].store is store:
            stop += 1
        rows = np.array([source.row for source in sources[start:stop]], np.int64)
        pieces.append(intact[store].read(name, rows))
        start = stop
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
