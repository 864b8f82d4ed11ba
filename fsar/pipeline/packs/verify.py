"""Re-read every byte of a pack and say what is wrong, by file and by video."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fsar.errors import InputError
from fsar.files import TEMPORARY_MARK
from fsar.pipeline.packs.layout import PackLayout, data_name, index_name, pack_files, read_pack
from fsar.pipeline.packs.reader import FramePack
from fsar.pipeline.store.format.files import CLAIMS, JOURNAL, MANIFEST_FILE, METADATA_KEY, STAGING, StoreFiles
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.records import announced_files, chunk_key, intents, stored_rows
from fsar.pipeline.store.partial import PARTIAL_FILE, read_partial
from fsar.pipeline.store.verify import Problem, Verification, check_files, expected_files
from fsar.pipeline.video.clip import VideoError

_TRACE = re.compile(rf"({CLAIMS}|{STAGING})/.+|{JOURNAL}/({METADATA_KEY}|\d+\.\d+)\.intent")
_RECORD = re.compile(rf"{JOURNAL}/(\d+)\.(\d+)\.json")


def verify_pack(path: str | Path, *, advance: Callable[[int], None] | None = None) -> Verification:
    """Check every file against the manifest (the journal of an unfinished pack), then every frame against its index.

    Raises:
        FileNotFoundError: there is no pack.
    """
    files = pack_files(path)
    if not files.path.is_dir():
        read_pack(files)  # says that there is none
    sealed = files.locate(MANIFEST_FILE).exists()
    problems: list[Problem] = []
    owners = _owners(files, problems)
    whole = expected = expected_files(files, sealed, problems, lambda name: owners.get(name, ()))
    partial = read_partial(files)
    if partial:
        here = set(files.names())
        expected = {name: entry for name, entry in whole.items() if name in here}
    moving = announced_files(files)
    for name, what in check_files(files, {n: e for n, e in expected.items() if n not in moving}, advance):
        problems.append(Problem(name, what, owners.get(name, ())))
    known = expected.keys() | moving | {MANIFEST_FILE, *([PARTIAL_FILE] if partial else [])}
    for name in sorted(set(files.names()) - known):
        own = TEMPORARY_MARK in name or _TRACE.fullmatch(name) or (not sealed and _RECORD.fullmatch(name))
        if not own:
            problems.append(Problem(name, "foreign: no file of this pack"))
    if not problems:
        problems += _frame_problems(files)
    notes = []
    if partial:
        notes.append(f"a partial copy of {partial.source}: {len(expected)} of its {len(whole)} files are here")
    notes += [] if sealed else ["the pack is not finished: checked against its journal"]
    notes += [
        f"{key} was announced and not finished; the command that made the pack finishes it" for key in intents(files)
    ]
    return Verification(sealed, len(expected), sum(entry.n_bytes for entry in expected.values()), problems, notes)


def _owners(files: StoreFiles, problems: list[Problem]) -> dict[str, tuple[str, ...]]:
    """Return the ids of the videos in each file."""
    layout: PackLayout
    videos: list[VideoRow]
    try:
        layout, videos = read_pack(files)
    except (InputError, OSError) as error:
        problems.append(Problem("pack", f"cannot tell which videos are hit: {error}"))
        return {}
    owners: dict[str, tuple[str, ...]] = {}
    for number in range(layout.n_shards):
        ids = tuple(videos[row].video_id for row in layout.rows(number))
        key = f"{JOURNAL}/{chunk_key(number, len(ids))}.json"
        owners |= dict.fromkeys((data_name(number), index_name(number), key), ids)
    return owners


def _frame_problems(files: StoreFiles) -> list[Problem]:
    """Return what the index and the frames themselves say, where all files are as they were written."""
    pack = FramePack.open(files.path, allow_unsealed=True)
    problems = []
    done = stored_rows(files)
    for number in range(pack.layout.n_shards):
        for row in pack.layout.rows(number) if number in done else ():
            video_id = pack.videos[row].video_id
            try:
                video = pack.video(video_id)
                if video.n_stored:
                    pack.jpegs(video_id, range(video.n_stored))
            except (InputError, VideoError) as error:
                problems.append(Problem(data_name(number), str(error), (video_id,)))
    return problems
