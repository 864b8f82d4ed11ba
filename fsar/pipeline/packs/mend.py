"""Another chance for the videos of a pack that failed in an earlier run; all other frames are kept as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fsar.pipeline.jobs.run import Outcome
from fsar.pipeline.packs.layout import PackLayout
from fsar.pipeline.packs.make import PackTask, VideoFrames
from fsar.pipeline.packs.reader import FramePack
from fsar.pipeline.packs.shards import Shards
from fsar.pipeline.store.format.files import CLAIMS, MANIFEST_FILE, StoreFiles
from fsar.pipeline.store.journal.claims import metadata_claim
from fsar.pipeline.store.journal.records import chunk_records

Made = Outcome[VideoFrames]


def shards_with_failures(files: StoreFiles) -> dict[int, list[int]]:
    """Return the failed rows of each finished shard that has any."""
    found = {number: [int(row) for row, *_ in record["failures"]] for number, record in chunk_records(files).items()}
    return {number: rows for number, rows in found.items() if rows}


def mend_shards(
    files: StoreFiles,
    layout: PackLayout,
    shards: Shards,
    failed: dict[int, list[int]],
    tasks: Sequence[PackTask],
    decode: Callable[[list[PackTask]], list[Made]],
) -> int:
    """Decode failed videos again; a shard in which one succeeds is replaced as one step. Return how many succeeded.

    A shard in which none does stays as it is, and so does the pack's identity.
    """
    n_mended = 0
    for number in failed:
        if not shards.take(number):
            continue
        rows = shards_with_failures(files).get(number, [])  # another process may have mended some
        again = dict(zip(rows, decode([tasks[row] for row in rows]), strict=True))
        n_good = sum(outcome.failure is None for outcome in again.values())
        if n_good:
            kept = _kept(files, layout, number, again)
            with metadata_claim(files.folder(CLAIMS)):
                files.locate(MANIFEST_FILE).unlink(missing_ok=True)
                shards.publish(number, layout.rows(number), kept, replaces=True)
        shards.release(number)
        n_mended += n_good
    return n_mended


def _kept(files: StoreFiles, layout: PackLayout, number: int, again: dict[int, Made]) -> list[Made]:
    """Return what the shard consists of now: the new outcomes, and the stored frames of all other rows."""
    pack = FramePack.open(files.path, allow_unsealed=True)
    return [again[row] if row in again else _stored(pack, pack.videos[row].video_id) for row in layout.rows(number)]


def _stored(pack: FramePack, video_id: str) -> Made:
    video = pack.video(video_id)
    frames = VideoFrames(
        jpegs=[bytes(jpeg) for jpeg in pack.jpegs(video_id, range(video.n_stored))],
        frame_index=video.frame_index,
        frame_time=video.frame_time,
        shape=(video.height, video.width),
        n_frames=video.n_frames,
        source_sha256=video.source_sha256,
    )
    return Outcome(video_id, value=frames)
