"""Making a pack: claim a shard, decode its videos in worker processes, publish it as one step; seal at the end.

The journal, the claims and the manifest are those of feature stores, with their guarantees: a kill at any moment loses
the shards in hand and nothing else, several processes may fill one pack, and equal videos give equal bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.jobs.run import TIMEOUT_SECONDS, Outcome, run_jobs, stream_jobs
from fsar.pipeline.packs.layout import (
    PACK_FILE,
    PackLayout,
    PackSettings,
    data_name,
    new_layout,
    pack_files,
    pack_json,
    read_pack,
)
from fsar.pipeline.packs.make import PackTask, VideoFrames, video_frames
from fsar.pipeline.packs.mend import mend_shards, shards_with_failures
from fsar.pipeline.packs.seal import STAGE, pack_failures, seal_pack
from fsar.pipeline.packs.shards import Shards, ShardsInHand
from fsar.pipeline.store.disk import Buffer, list_names
from fsar.pipeline.store.format.files import (
    CLAIMS,
    JOURNAL,
    MANIFEST_FILE,
    METADATA_KEY,
    STAGING,
    VIDEOS_FILE,
    StoreFiles,
    videos_csv,
)
from fsar.pipeline.store.format.identity import differing_fields
from fsar.pipeline.store.format.layout import VideoRow, check_videos, refuse_other_parts
from fsar.pipeline.store.journal.claims import live_claims, metadata_claim
from fsar.pipeline.store.journal.publish import publish, redo
from fsar.pipeline.store.journal.records import intents, metadata_entries, stored_rows
from fsar.pipeline.store.partial import refuse_partial
from fsar.pipeline.store.portable import message_here, portable_message, portable_rows
from fsar.progress import Advance, progress

POLL_SECONDS = 1.0
"""How often to look again at a pack that other processes are still filling."""


@dataclass(frozen=True)
class PackReport:
    """What a run left behind."""

    path: Path
    n_videos: int
    n_packed: int
    """Videos decoded by this run."""
    failures: list[tuple[str, str, str, str]]
    """(video_id, path, reason, message) of every failed video of the pack."""
    n_bytes: int
    """Of the frames."""


def pack_frames(
    videos: Sequence[VideoRow],
    out: Path,
    settings: PackSettings,
    *,
    n_jobs: int = 1,
    quiet: bool = False,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> PackReport:
    """Fill the pack at `out` (NAME.frames) with the frames of `videos`, in order; resume it if it is there.

    A video that fails has no frames and is listed in failures.csv; the rest goes on. Videos that failed in an earlier
    run are tried again.

    Raises:
        InputError: nothing to pack, a pack of other settings or videos, or not one video can be read.
    """
    check_videos(videos)
    files = pack_files(out)
    if not files.exists():
        _refuse_strangers(files)
        with metadata_claim(files.folder(CLAIMS)):
            redo(files, METADATA_KEY)
            if not files.exists():
                publish(files, METADATA_KEY, _metadata(new_layout(settings, len(videos)), portable_rows(videos)))
    _finish_interrupted(files)
    _refuse_differences(files, settings, videos)
    return _fill(files, videos, n_jobs=n_jobs, quiet=quiet, timeout_seconds=timeout_seconds)


def add_to_pack(
    path: Path,
    videos: Sequence[VideoRow],
    *,
    n_jobs: int = 1,
    quiet: bool = False,
    timeout_seconds: float | None = TIMEOUT_SECONDS,
) -> PackReport:
    """Pack the `videos` that a pack lacks, by its own settings, in shards of their own; what is there stays as it is.

    Raises:
        FileNotFoundError: there is no pack.
        InputError: another process is filling it, or a class comes in another split part.
    """
    check_videos(videos)
    files = pack_files(path)
    refuse_partial(files, "write to it")
    _finish_interrupted(files)
    old = read_pack(files)[1]
    known = {video.video_id for video in old}
    new = [video for video in videos if video.video_id not in known]
    if new:
        with metadata_claim(files.folder(CLAIMS)):
            _append(files, portable_rows(new))
    paths = {video.video_id: video.path for video in videos}
    rows = [replace(video, path=paths.get(video.video_id, video.path)) for video in read_pack(files)[1]]
    return _fill(files, rows, n_jobs=n_jobs, quiet=quiet, timeout_seconds=timeout_seconds)


def plan_pack(videos: Sequence[VideoRow], out: Path, settings: PackSettings) -> tuple[int, int]:
    """Return how many videos `pack_frames` would decode and how many are there, after the same checks."""
    check_videos(videos)
    files = pack_files(out)
    if not files.exists():
        _refuse_strangers(files)
        return len(videos), 0
    _refuse_differences(files, settings, videos)
    n_done = sum(stored_rows(files).values())
    return len(videos) - n_done, n_done


def finished_pack(videos: Sequence[VideoRow], out: Path, *, n_packed: int) -> PackReport:
    """Seal a pack that other processes have filled, unless they have; return what is in it. No video is tried again.

    Args:
        videos: of the pack, with their paths here.
        out: where it is.
        n_packed: how many of them are new.

    Raises:
        InputError: shards are missing, or not one video could be read.
    """
    files = pack_files(out)
    layout, stored = read_pack(files)
    names = {video.video_id: video.path for video in stored}
    return _finish(files, layout, videos, names, n_packed)


def _append(files: StoreFiles, new: Sequence[VideoRow]) -> None:
    redo(files, METADATA_KEY)
    layout, old = read_pack(files)
    busy = live_claims(files.folder(CLAIMS))
    if busy:
        raise InputError(f"{files.path} is being filled ({len(busy)} shards in hand); add videos when that is done")
    refuse_other_parts(old, str(files.path), new, "the videos to add")
    rows = [*old, *new]
    files.locate(MANIFEST_FILE).unlink(missing_ok=True)
    publish(files, METADATA_KEY, _metadata(layout.grown(len(rows)), rows), keep=metadata_entries(files))


def _metadata(layout: PackLayout, videos: Sequence[VideoRow]) -> dict[str, list[Buffer]]:
    return {PACK_FILE: [pack_json(layout, videos)], VIDEOS_FILE: [videos_csv(videos)]}


def _finish_interrupted(files: StoreFiles) -> None:
    if METADATA_KEY in intents(files):
        with metadata_claim(files.folder(CLAIMS)):
            redo(files, METADATA_KEY)


def _refuse_strangers(files: StoreFiles) -> None:
    """Raise InputError when something else than a pack, or the beginning of one, is there."""
    begun = any(files.folder(name).exists() for name in (JOURNAL, CLAIMS, STAGING))
    if files.path.exists() and not begun and (not files.path.is_dir() or list_names(files.path)):
        raise InputError(f"{files.path} exists and is not a pack of frames: choose another name or remove it")


def _refuse_differences(files: StoreFiles, settings: PackSettings, videos: Sequence[VideoRow]) -> None:
    refuse_partial(files, "write to it")
    layout, stored = read_pack(files)
    lines = differing_fields(asdict(layout.settings), asdict(settings))
    if lines:
        raise InputError(f"{files.path} was packed with other settings ({'; '.join(lines)}): choose another name")
    there, wanted = ([(v.video_id, v.class_name, v.part) for v in rows] for rows in (stored, videos))
    if there != wanted:
        n_new = len({row[0] for row in wanted} - {row[0] for row in there})
        n_gone = len({row[0] for row in there} - {row[0] for row in wanted})
        listed = f"{n_new} of this list are not in it, {n_gone} of its {len(there)} are not in this list"
        raise InputError(f"{files.path} holds other videos ({listed}); `fsar-store add` adds new ones")


def _fill(
    files: StoreFiles, videos: Sequence[VideoRow], *, n_jobs: int, quiet: bool, timeout_seconds: float | None
) -> PackReport:
    layout, stored = read_pack(files)
    shards = Shards(files, layout)
    n_done = sum(stored_rows(files).values())
    if n_done < len(videos) and not any(Path(video.path).exists() for video in videos):
        raise InputError(f"none of the {len(videos)} videos is on disk (first: {videos[0].path})")
    # In an earlier run: what others fail at now, they have just tried.
    failed = {} if live_claims(files.folder(CLAIMS)) else shards_with_failures(files)
    tasks = [PackTask(video.video_id, Path(video.path), layout.settings) for video in videos]
    how: dict[str, Any] = {"n_jobs": n_jobs, "key": _video_id, "timeout_seconds": timeout_seconds}

    names = Names({task.video_id: str(task.path) for task in tasks}, {video.video_id: video.path for video in stored})

    def decode(chosen: Sequence[PackTask]) -> list[Outcome[VideoFrames]]:
        return [names.kept(outcome) for outcome in run_jobs(STAGE, chosen, video_frames, quiet=True, **how)]

    with shards, progress(STAGE, len(videos), n_done=n_done, quiet=quiet) as advance:
        n_packed = _fill_pending(shards, layout, tasks, how, names.kept, advance)
        n_packed += mend_shards(files, layout, shards, failed, tasks, decode)
    return _finish(files, layout, videos, names.stored, n_packed)


def _finish(
    files: StoreFiles, layout: PackLayout, videos: Sequence[VideoRow], stored: Mapping[str, str], n_packed: int
) -> PackReport:
    failures = [
        (video_id, path, reason, message_here(message, path, stored[video_id]))
        for video_id, path, reason, message in pack_failures(files, videos)
    ]
    if len(failures) == len(videos):
        reason = f"{failures[0][2]}: {failures[0][3]}"
        raise InputError(
            f"none of the {len(videos)} videos could be read ({reason}); mend that and remove {files.path}"
        )
    seal_pack(files)
    n_bytes = sum(files.locate(data_name(number)).stat().st_size for number in range(layout.n_shards))
    return PackReport(files.path, len(videos), n_packed, failures, n_bytes)


def _fill_pending(
    shards: Shards,
    layout: PackLayout,
    tasks: Sequence[PackTask],
    how: Mapping[str, Any],
    kept: Callable[[Outcome[VideoFrames]], Outcome[VideoFrames]],
    advance: Advance,
) -> int:
    """Fill shards until none is pending, also not in another process's hands; return how many videos were decoded."""
    n_packed = 0
    while shards.pending():
        hand = ShardsInHand(shards, layout, tasks)
        with stream_jobs(STAGE, hand.tasks(), video_frames, **how) as outcomes:
            for _, outcome in outcomes:
                hand.keep(kept(outcome))
                n_packed += 1
                advance()
        if shards.pending():  # another process has the rest; should it die, its shards can be claimed
            time.sleep(POLL_SECONDS)
    return n_packed


@dataclass(frozen=True)
class Names:
    """What videos are called here and in the pack, by their ids."""

    here: Mapping[str, str]
    stored: Mapping[str, str]

    def kept(self, outcome: Outcome[VideoFrames]) -> Outcome[VideoFrames]:
        """Return an outcome as the pack keeps it: a message names its video as videos.csv does."""
        if outcome.failure is None:
            return outcome
        own, stored = self.here[outcome.key], self.stored[outcome.key]
        message = portable_message(outcome.failure.message, own, stored)
        return replace(outcome, failure=replace(outcome.failure, message=message))


def _video_id(task: PackTask) -> str:
    return task.video_id
