"""From catalog rows to a feature store: the recipe, the store, the run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError, count_of
from fsar.pipeline.encode.engine import Engine, EngineOptions, EngineReport
from fsar.pipeline.encode.plan import EncodeOptions, EncodePlan, plan, tap_specs
from fsar.pipeline.encode.precision import require_precision
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.encode.recorded_backbone import backbone_of
from fsar.pipeline.encode.reuse import Reuse
from fsar.progress import say

__all__ = [
    "EncodeOptions",
    "EncodePlan",
    "EncodeReport",
    "add_videos",
    "backbone_of",
    "encode",
    "open_or_make",
    "plan",
]

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.catalog.catalog import CatalogRow
    from fsar.pipeline.store import FeatureStore, StoreWriter, TapSpec, VideoRow


@dataclass(frozen=True)
class EncodeReport:
    """What an encode run left behind."""

    path: Path
    recipe_id: str
    n_videos: int
    n_resumed: int
    """Videos that were there already."""
    failures: list[tuple[str, str, str, str]]
    """(video_id, path, reason, message) of every failed video of the store."""
    run: EngineReport
    duplicates: list[list[str]] = field(default_factory=list)
    """Groups of ids whose videos have the same content."""
    n_workers: int = 0
    """Processes that were started elsewhere for it; 0 where this one encoded."""


def encode(
    rows: Sequence[CatalogRow],
    out: Path,
    options: EncodeOptions,
    *,
    quiet: bool = False,
    prepared: EncodePlan | None = None,
    reuse: Sequence[FeatureStore] = (),
) -> EncodeReport:
    """Fill the store at `out` (NAME.zarr or NAME.h5) with the features of `rows`; resume it if it is there.

    Every video ends with status ok or failed; failed rows are NaN and listed in the report. The store is sealed at the
    end, unless another writer has added videos that are still pending: that one seals it. The bytes do not depend on
    interruptions, on the number of decode processes or on other encoders at work.

    Videos that a store in `reuse` has by the same recipe, told by the hash of the file, are taken from there, checked.

    Raises:
        InputError: nothing to encode, a store of another recipe (the message names the fields), no video could be read,
            a device without the arithmetic of the recipe.
    """
    from fsar.device import resolve_device
    from fsar.pipeline.store.portable import shared_folder

    todo = prepared or plan(rows, options, out)
    if prepared is None and not quiet:
        for note in todo.notes:
            say(f"note: {note}")
    if not out.exists():
        require_precision(todo.recipe.precision, resolve_device(options.engine.device))
    source = _Source(todo.videos, shared_folder(os.path.abspath(video.path) for video in todo.videos), reuse)
    with open_or_make(out, todo, options) as writer:
        return _fill(writer, source, todo.recipe, todo.backbone, todo.taps, options.engine, quiet=quiet)


def open_or_make(out: Path, todo: EncodePlan, options: EncodeOptions) -> StoreWriter:
    """Return a writer on the store at `out`, made now if it is not there; nothing is encoded.

    Raises:
        InputError: a store of another recipe or other videos is there.
    """
    from fsar.device import resolve_device
    from fsar.pipeline.encode.chunk_size import chunk_rows
    from fsar.pipeline.store import create_store
    from fsar.pipeline.store.portable import portable_rows

    recipe = todo.recipe
    return create_store(
        out,
        videos=portable_rows(todo.videos),
        taps=todo.taps,
        n_views=recipe.n_views,
        n_slots=recipe.n_slots,
        recipe=recipe.to_dict(),
        chunk_rows=chunk_rows(
            len(todo.videos),
            todo.backbone,
            todo.taps,
            recipe.n_views * recipe.n_slots,
            chunk_bytes=options.chunk_bytes,
            n_workers=options.n_workers,
            on_cpu=resolve_device(options.engine.device).type == "cpu",
        ),
    )


def add_videos(
    path: Path,
    videos: Sequence[VideoRow],
    *,
    weights: Path | None = None,
    engine: EngineOptions | None = None,
    quiet: bool = False,
) -> EncodeReport:
    """Encode the `videos` that a store lacks, and rows that it has pending, with the recipe it has, and seal it.

    Videos are read from the paths in `videos` alone, pending ones among them: a store that somebody else made may name
    any file of this machine.
    `weights` is needed when the store was made from a checkpoint file: its hash must be the recorded one. Whatever can
    be found wrong beforehand is found before the store is touched: it stays sealed then.

    Raises:
        InputError: no such device or backbone, a device without the arithmetic of the recipe, other weights than the
            store's, none of the new videos is on the disk, a pending video is not among `videos`.
    """
    from fsar.device import resolve_device
    from fsar.pipeline.packs.catalog import require_frames
    from fsar.pipeline.store import extend_store, open_writer
    from fsar.pipeline.store.portable import folder_for, portable_rows, videos_folders

    options = engine or EngineOptions()
    with open_writer(path) as before:
        files, stored = before.files, before.videos
        known = {video.video_id for video in stored}
        new = [video for video in videos if video.video_id not in known]
        pending = [before.videos[row].video_id for row in before.pending_rows()]
        recipe = Recipe.from_dict(before.layout.recipe)
    backbone, taps = None, {}
    _refuse_unlisted(path, pending, videos)
    if new or pending:
        _check_source(path, recipe, videos)
        read = {*pending, *(video.video_id for video in new)}
        require_frames([video for video in videos if video.video_id in read])
        if new:
            _check_paths(new)
        require_precision(recipe.precision, resolve_device(options.device))
        backbone = backbone_of(recipe, weights)
        taps = _tap_specs(backbone, recipe)
    path_of = {video.video_id: video.path for video in videos}
    folder = folder_for(stored, new, videos_folders(files)) if new else ""
    listed = portable_rows(videos, folder) if new else videos
    with extend_store(path, listed) as writer:
        rows = [replace(video, path=path_of.get(video.video_id, video.path)) for video in writer.videos]
        return _fill(writer, _Source(rows, folder), recipe, backbone, taps, options, quiet=quiet)


def _check_source(path: Path, recipe: Recipe, videos: Sequence[VideoRow]) -> None:
    """Raise InputError unless the videos are given as the store's were: as videos, or in a pack of such frames."""
    from fsar.pipeline.packs.catalog import pack_settings
    from fsar.pipeline.packs.layout import PackSettings

    settings = pack_settings(video.path for video in videos)
    given, wanted = (asdict(settings) if settings else None), recipe.packed
    if given != (dict(wanted) if wanted else None):
        made = f"a pack of {PackSettings(**wanted).describe()}" if wanted else "videos, not a pack of frames"
        raise InputError(f"{path} was made from {made}: add from such a one")


def _refuse_unlisted(path: Path, pending: Sequence[str], videos: Sequence[VideoRow]) -> None:
    """Raise InputError when a video that the store has pending is not listed: the store's own path is not read."""
    listed = {video.video_id for video in videos}
    lacking = [video_id for video_id in pending if video_id not in listed]
    if lacking:
        raise InputError(
            f"{path} has {count_of(len(lacking), 'pending video')} that the list does not have "
            f"(first: {lacking[0]!r}): add them to it; only videos that you list are read"
        )


def _tap_specs(backbone: Backbone, recipe: Recipe) -> dict[str, TapSpec]:
    from fsar.pipeline.backbones.taps import TapExtractor

    with closing(TapExtractor(backbone, recipe.taps)) as extractor:
        return tap_specs(extractor, recipe)


@dataclass(frozen=True)
class _Source:
    """Where rows come from."""

    videos: list[VideoRow]
    """With their paths on this machine."""
    folder: str
    """That the paths in the store count from; empty: nothing is added to it."""
    reuse: Sequence[FeatureStore] = ()


def _fill(
    writer: StoreWriter,
    source: _Source,
    recipe: Recipe,
    backbone: Backbone | None,
    taps: dict[str, TapSpec],
    options: EngineOptions,
    *,
    quiet: bool,
) -> EncodeReport:
    from fsar.pipeline.backbones.taps import TapExtractor
    from fsar.pipeline.encode.forward import Forward
    from fsar.pipeline.store import open_store
    from fsar.progress import progress

    videos, n_resumed = source.videos, writer.n_rows_done
    if n_resumed == len(videos) or backbone is None:
        run = EngineReport()
    else:
        _check_paths(videos)
        with (
            closing(TapExtractor(backbone, recipe.taps)) as extractor,
            closing(Forward(extractor, recipe, options.device)) as forward,
            progress("encode", len(videos), n_done=n_resumed, quiet=quiet) as advance,
        ):
            try:
                run = Engine(
                    writer, videos, recipe, taps, forward, options, advance, reuse=Reuse(source.reuse, recipe)
                ).run()
            except KeyboardInterrupt as interrupt:
                n_kept = writer.n_rows_done
                raise type(interrupt)(f"{n_kept} of {len(videos)} videos are kept in {writer.path}") from interrupt
        writer.record_run(_run_record(forward, recipe, options, run, source.folder))
    store = open_store(writer.path, allow_unsealed=True)
    failures = _failures(store, videos)
    if len(failures) == len(videos):
        reason = f"{failures[0][2]}: {failures[0][3]}"
        raise InputError(
            f"none of the {len(videos)} videos could be read ({reason}); mend that and remove {writer.path}"
        )
    _seal(writer)
    return EncodeReport(writer.path, recipe.recipe_id, len(videos), n_resumed, failures, run, store.duplicate_ids())


def _seal(writer: StoreWriter) -> None:
    """Seal the store; only say so where another writer has added videos since `writer` was opened."""
    from fsar.pipeline.store import open_writer

    try:
        writer.seal()
    except InputError:
        with open_writer(writer.path) as now:
            n_pending = now.missing_parts().total()
        if not n_pending:
            raise
        sys.stderr.write(
            f"note: {writer.path} is not sealed yet: {n_pending} videos that another writer added are pending, "
            "it seals the store when they are done\n"
        )


def _failures(store: FeatureStore, videos: Sequence[VideoRow]) -> list[tuple[str, str, str, str]]:
    """Return (video_id, path, reason, message) of failed videos, with paths on this machine."""
    from fsar.pipeline.store.portable import message_here

    return [
        (videos[row].video_id, videos[row].path, reason, message_here(text, videos[row].path, store.videos[row].path))
        for row, reason, text in store.failures()
    ]


def _run_record(forward: Any, recipe: Recipe, options: EngineOptions, run: EngineReport, folder: str) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    from fsar.pipeline.store.journal.owner import worker_name
    from fsar.pipeline.store.portable import FOLDER

    return {
        **({FOLDER: folder} if folder else {}),
        "fsar": version("fsar"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.node(),
        "device": str(forward.device),
        "threads": forward.n_threads,
        "worker": worker_name(),
        "batch_size": options.frames_per_batch(forward.device.type, recipe.size),
        "jobs": options.jobs,
        "n_ok": run.n_ok,
        "n_failed": run.n_failed,
        "seconds": round(run.seconds, 3),
    }


def _check_paths(videos: Sequence[VideoRow]) -> None:
    if not any(Path(video.path).exists() for video in videos):
        raise InputError(
            f"none of the {len(videos)} videos is on disk (first: {videos[0].path}); were they moved after index?"
        )
