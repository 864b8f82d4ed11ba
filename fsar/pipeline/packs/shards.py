"""The shards of a pack while it is made: who works on which, and how one becomes files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fsar.pipeline.jobs.run import Failure, Outcome
from fsar.pipeline.packs.index import FAILED, OK, ShardIndex
from fsar.pipeline.packs.layout import PackLayout, data_name, index_name
from fsar.pipeline.packs.make import PackTask, VideoFrames
from fsar.pipeline.store.disk import Buffer
from fsar.pipeline.store.format.files import CLAIMS, StoreFiles
from fsar.pipeline.store.journal.claims import Claims
from fsar.pipeline.store.journal.publish import publish, redo
from fsar.pipeline.store.journal.records import chunk_key, stored_rows


class Shards:
    """The shards of a pack that are still to be made; leaving the block gives claims back."""

    def __init__(self, files: StoreFiles, layout: PackLayout) -> None:
        self._files, self._layout = files, layout
        self._claims = Claims(files.folder(CLAIMS))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._claims.close()

    def pending(self) -> list[int]:
        """Return the shards that nobody has finished."""
        stored = stored_rows(self._files)
        return [number for number in range(self._layout.n_shards) if number not in stored]

    def claim(self) -> int | None:
        """Return a shard to make; None when all others are in other hands."""
        for number in self.pending():
            if not self._claims.take(number):
                continue
            redo(self._files, self._key(number))  # what a killed process has announced
            if number in self.pending():
                return number
            self._claims.release(number)
        return None

    def take(self, number: int) -> bool:
        """Claim one shard, finished or not; return whether it is ours now."""
        return self._claims.take(number)

    def release(self, number: int) -> None:
        """Give a shard back."""
        self._claims.release(number)

    def publish(
        self, number: int, rows: range, outcomes: Sequence[Outcome[VideoFrames]], *, replaces: bool = False
    ) -> None:
        """Write a shard, whole or not at all, and give its claim back.

        A finished shard is only replaced if told so; who does that must hold the metadata claim.
        """
        data, index = build_shard(outcomes)
        failures = [[row, *_reason(outcome)] for row, outcome in zip(rows, outcomes, strict=True) if outcome.failure]
        details = {"rows": [rows.start, rows.stop], "offsets": {}, "failures": failures}
        contents: dict[str, list[Buffer]] = {data_name(number): list(data), index_name(number): [index.to_bytes()]}
        publish(self._files, self._key(number), contents, details, keep={} if replaces else None)
        self._claims.release(number)

    def _key(self, number: int) -> str:
        return chunk_key(number, len(self._layout.rows(number)))


class ShardsInHand:
    """The shards that this process fills: claimed when their first video is asked for, published with their last."""

    def __init__(self, shards: Shards, layout: PackLayout, tasks: Sequence[PackTask]) -> None:
        self._shards, self._layout, self._tasks = shards, layout, tasks
        self._made: dict[int, dict[str, Outcome[VideoFrames]]] = {}
        self._shard_of: dict[str, int] = {}

    def tasks(self) -> Iterator[PackTask]:
        """Yield the videos of one pending shard after the other, until all the rest are in other hands."""
        while (number := self._shards.claim()) is not None:
            tasks = [self._tasks[row] for row in self._layout.rows(number)]
            self._made[number] = {}
            self._shard_of |= dict.fromkeys((task.video_id for task in tasks), number)
            yield from tasks

    def keep(self, outcome: Outcome[VideoFrames]) -> None:
        """Note what became of one video; a shard whose videos are all there is published."""
        number = self._shard_of.pop(outcome.key)
        rows, made = self._layout.rows(number), self._made[number]
        made[outcome.key] = outcome
        if len(made) == len(rows):
            self._shards.publish(number, rows, [made[self._tasks[row].video_id] for row in rows])
            del self._made[number]


def _reason(outcome: Outcome[VideoFrames]) -> tuple[str, str]:
    failure = outcome.failure
    assert isinstance(failure, Failure)
    return failure.reason, failure.message


def build_shard(outcomes: Sequence[Outcome[VideoFrames]]) -> tuple[list[bytes], ShardIndex]:
    """Return the JPEGs of a shard in order, and its index."""
    import google_crc32c

    videos = [outcome.value for outcome in outcomes]
    jpegs = [jpeg for video in videos if video is not None for jpeg in video.jpegs]
    sizes = [len(jpeg) for jpeg in jpegs]
    counts = [len(video.jpegs) if video is not None else 0 for video in videos]
    index = ShardIndex(
        status=np.array([OK if video is not None else FAILED for video in videos], np.uint8),
        n_frames=np.array([video.n_frames if video is not None else 0 for video in videos], np.int32),
        source_sha256=np.array(
            [list(video.source_sha256) if video is not None else [0] * 32 for video in videos], np.uint8
        ),
        shape=np.array([video.shape if video is not None else (0, 0) for video in videos], np.int32),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        frame_index=np.concatenate([[], *(v.frame_index for v in videos if v is not None)]).astype(np.int32),
        frame_time=np.concatenate([[], *(v.frame_time for v in videos if v is not None)]).astype(np.float64),
        offset=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        crc32c=np.array([google_crc32c.value(jpeg) for jpeg in jpegs], np.uint32),
    )
    return jpegs, index
