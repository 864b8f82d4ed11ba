"""Create, resume, extend and reopen stores: whatever decides which rows a store has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.store.disk import Buffer, list_names
from fsar.pipeline.store.format.files import (
    CLAIMS,
    JOURNAL,
    MANIFEST_FILE,
    METADATA_KEY,
    STAGING,
    STORE_FILE,
    VIDEOS_FILE,
    StoreFiles,
    read_store,
    store_json,
    videos_csv,
)
from fsar.pipeline.store.format.identity import differing_fields
from fsar.pipeline.store.format.layout import Layout, TapSpec, VideoRow, check_videos, plan_layout, refuse_other_parts
from fsar.pipeline.store.journal.claims import live_claims, metadata_claim
from fsar.pipeline.store.journal.damage import intact_tables, refuse_damaged_chunk
from fsar.pipeline.store.journal.publish import publish, redo
from fsar.pipeline.store.journal.records import intents, metadata_entries, stored_rows
from fsar.pipeline.store.partial import refuse_partial
from fsar.pipeline.store.repair import mend_master
from fsar.pipeline.store.writer import StoreWriter

DEFAULT_CHUNK_BYTES = 32 << 20


def create_store(
    path: str | Path,
    *,
    videos: Sequence[VideoRow],
    taps: Mapping[str, TapSpec],
    n_views: int,
    n_slots: int,
    recipe: Mapping[str, Any],
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    chunk_rows: int | None = None,
) -> StoreWriter:
    """Return a writer on the store at `path` (NAME.zarr or NAME.h5), made now or resumed.

    Args:
        path: where the store is or shall be.
        videos: its rows, in order.
        taps: name -> shape and dtype per frame.
        n_views: V, stored views of each video.
        n_slots: T, stored frames of each view.
        recipe: what decides the numbers, as JSON data.
        chunk_bytes: size of a chunk of the biggest tap; only used when the store is made.
        chunk_rows: rows of a chunk instead, at most 256 by default.

    Raises:
        InputError: another store is there: the message names what differs.
    """
    check_videos(videos)
    layout = plan_layout(
        taps, n_views=n_views, n_slots=n_slots, recipe=recipe, chunk_bytes=chunk_bytes, chunk_rows=chunk_rows
    )
    files = StoreFiles.at(path)
    if not files.exists():
        _refuse_strangers(files)
        with metadata_claim(files.folder(CLAIMS)):  # several encoders may start at the same moment
            redo(files, METADATA_KEY)
            if not files.exists():
                publish(files, METADATA_KEY, _metadata_contents(files, layout, videos))
    mend_master(files)
    writer = StoreWriter(files)
    _refuse_differences(writer, layout, videos)
    return writer


def extend_store(path: str | Path, videos: Sequence[VideoRow]) -> StoreWriter:
    """Return a writer on an existing store whose rows are continued by those of `videos` that it lacks.

    Stored rows keep their numbers and their place; a short last chunk grows. The store counts as unsealed until the new
    rows are committed and it is sealed again. Nothing changes when there is nothing new.

    Raises:
        FileNotFoundError: there is no store.
        InputError: another process is writing to it, the chunk that would grow is damaged, or one of its classes comes
            in another split part.
    """
    check_videos(videos)
    files = _mended(path)
    known = {video.video_id for video in read_store(files)[1]}
    if any(video.video_id not in known for video in videos):
        with metadata_claim(files.folder(CLAIMS)):
            redo(files, METADATA_KEY)
            _append(files, videos)
    return open_writer(path)


def _append(files: StoreFiles, videos: Sequence[VideoRow]) -> None:
    layout, old = read_store(files)
    known = {video.video_id for video in old}
    new = [video for video in videos if video.video_id not in known]
    refuse_other_parts(old, str(files.path), new, "the videos to add")
    refuse_busy(files, "add videos")
    grown, n_rows = divmod(len(old), layout.chunk_rows)
    if stored_rows(files).get(grown, 0) == n_rows:
        refuse_damaged_chunk(files, grown, n_rows)
    contents = _metadata_contents(files, layout, [*old, *new])
    files.locate(MANIFEST_FILE).unlink(missing_ok=True)
    publish(files, METADATA_KEY, contents, keep=metadata_entries(files))


def refuse_busy(files: StoreFiles, action: str) -> None:
    """Raise InputError while living writers hold chunks."""
    busy = live_claims(files.folder(CLAIMS))
    if busy:
        raise InputError(f"{files.path} is being written ({len(busy)} chunks in hand); {action} when that is done")


def open_writer(path: str | Path) -> StoreWriter:
    """Return a writer on an existing store, to compute what it lacks by the recipe that it holds."""
    return StoreWriter(_mended(path))


def _mended(path: str | Path) -> StoreFiles:
    files = StoreFiles.at(path)
    refuse_partial(files, "write to it")
    finish_interrupted(files)
    mend_master(files)
    return files


def finish_interrupted(files: StoreFiles) -> None:
    """Carry out a change of the metadata that was announced and cut short; nothing where there is none."""
    if METADATA_KEY in intents(files):
        with metadata_claim(files.folder(CLAIMS)):
            redo(files, METADATA_KEY)


def _metadata_contents(files: StoreFiles, layout: Layout, videos: Sequence[VideoRow]) -> dict[str, list[Buffer]]:
    """Return all files of a store that do not hold its numbers."""
    tables = intact_tables(files) if files.exists() else {}
    own: dict[str, list[Buffer]] = {STORE_FILE: [store_json(layout, videos)], VIDEOS_FILE: [videos_csv(videos)]}
    return own | files.format.metadata_files(files.path, layout, len(videos), tables)


def _refuse_strangers(files: StoreFiles) -> None:
    """Raise InputError when something else than a store, or the beginning of one, is there."""
    occupied = bool(list_names(files.home)) or (files.path != files.home and files.path.exists())
    # Looked for last: another process may have begun the store between the two looks.
    begun = any(files.folder(name).exists() for name in (JOURNAL, CLAIMS, STAGING))
    if occupied and not begun:
        raise InputError(f"{files.path} exists and is not a store of fsar: choose another name or remove it")


def _refuse_differences(writer: StoreWriter, layout: Layout, videos: Sequence[VideoRow]) -> None:
    stored = writer.layout
    lines = differing_fields(stored.recipe, layout.recipe)
    shape = {"n_views": stored.n_views, "n_slots": stored.n_slots, "taps": stored.to_dict()["taps"]}
    wanted = {"n_views": layout.n_views, "n_slots": layout.n_slots, "taps": layout.to_dict()["taps"]}
    lines += differing_fields(shape, wanted)
    path = writer.files.path
    if lines:
        listed = "; ".join(dict.fromkeys(lines))  # the recipe may name the numbers of views and slots too
        raise InputError(f"{path} holds another recipe ({listed}): choose another name or the same recipe")
    if _identity(writer.videos) != _identity(videos):
        raise InputError(f"{path} holds other videos ({_video_differences(writer.videos, videos)}), see fsar-store add")


def _identity(videos: Sequence[VideoRow]) -> list[tuple[str, str, str]]:
    """Return what makes rows the same videos; a data set may be mounted at another path the next day."""
    return [(video.video_id, video.class_name, video.part) for video in videos]


def _video_differences(stored: Sequence[VideoRow], wanted: Sequence[VideoRow]) -> str:
    a, b = {video.video_id for video in stored}, {video.video_id for video in wanted}
    if a == b:
        row = next(row for row, (x, y) in enumerate(zip(_identity(stored), _identity(wanted), strict=True)) if x != y)
        return f"row {row} is {_identity(stored)[row]}, not {_identity(wanted)[row]}"
    return f"{len(a - b)} of its {len(a)} are not in this list, {len(b - a)} of this list are not in it"
