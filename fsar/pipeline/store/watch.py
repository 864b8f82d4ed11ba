"""How far a store has come, as its own files tell: works while others fill it, and with nobody at work."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsar.pipeline.store.format.files import CLAIMS, StoreFiles, read_store
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.claims import METADATA_INDEX, claim_names
from fsar.pipeline.store.journal.manifest import is_sealed
from fsar.pipeline.store.journal.owner import is_gone, read_owner
from fsar.pipeline.store.journal.records import chunk_key, read_record, record_path, stored_rows

RATE_SECONDS = 600.0
"""The rate is that of the chunks finished in so long before the newest one."""


@dataclass(frozen=True)
class InHand:
    """A chunk that somebody works on."""

    chunk: int
    host: str
    pid: int
    worker: str
    """The worker's name, empty for a process that nobody gave one."""
    held_seconds: float
    """Since it was claimed, by the clocks of the holder and of the one who looks."""
    silent_seconds: float
    """Since the last heartbeat, of which there is one every 30 seconds."""
    dead: bool
    """The holder's process is known to have ended."""


@dataclass(frozen=True)
class Failure:
    """A video that could not be encoded."""

    video_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class StoreProgress:
    """What a look at a store found."""

    path: str
    sealed: bool
    n_videos: int
    n_videos_done: int
    n_chunks: int
    n_chunks_done: int
    in_hand: list[InHand]
    videos_per_second: float | None
    """Of all who write, lately; None until two chunks are finished."""
    seconds_left: float | None
    """None where nobody works, or the rate is not known yet."""
    failures: list[Failure] = field(default_factory=list)

    @property
    def n_chunks_pending(self) -> int:
        """Chunks that nobody has begun."""
        return max(self.n_chunks - self.n_chunks_done - len(self.in_hand), 0)

    @property
    def n_videos_left(self) -> int:
        """Videos that are not committed."""
        return self.n_videos - self.n_videos_done


@dataclass
class _Chunk:
    n_rows: int
    finished: float
    failures: list[Any]


class Watch:
    """Looks at one store again and again; each look reads what is new since the last one.

    Raises:
        FileNotFoundError: there is no store.
        InputError: it is damaged.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._files, self._clock = StoreFiles.at(path), clock
        self._layout, self._videos = read_store(self._files)
        self._chunks: dict[int, _Chunk] = {}

    @property
    def videos(self) -> list[VideoRow]:
        """The rows of the store."""
        return self._videos

    def look(self) -> StoreProgress:
        """Return how far the store is now."""
        self._read_new(stored_rows(self._files))
        n_done = sum(chunk.n_rows for chunk in self._chunks.values())
        if n_done > len(self._videos):  # it was extended meanwhile
            self._layout, self._videos = read_store(self._files)
        in_hand, rate = self._in_hand(), self._rate()
        n_left = len(self._videos) - n_done
        working = any(not each.dead for each in in_hand)
        return StoreProgress(
            path=str(self._files.path),
            sealed=is_sealed(self._files),
            n_videos=len(self._videos),
            n_videos_done=n_done,
            n_chunks=self._layout.n_chunks(len(self._videos)),
            n_chunks_done=self._n_whole(),
            in_hand=in_hand,
            videos_per_second=rate,
            seconds_left=0.0 if not n_left else n_left / rate if rate and working else None,
            failures=self._failures(),
        )

    def _read_new(self, stored: dict[int, int]) -> None:
        for gone in self._chunks.keys() - stored.keys():  # `retry` made them pending again
            del self._chunks[gone]
        for index, n_rows in stored.items():
            if index in self._chunks and self._chunks[index].n_rows == n_rows:
                continue
            key = chunk_key(index, n_rows)
            try:
                finished = record_path(self._files, key).stat().st_mtime
                failures = read_record(self._files, key)["failures"]
            except FileNotFoundError:  # it grew at this moment: the next look finds it
                continue
            self._chunks[index] = _Chunk(n_rows, finished, failures)

    def _n_whole(self) -> int:
        n_videos = len(self._videos)
        return sum(
            chunk.n_rows >= len(self._layout.chunk_range(index, n_videos)) for index, chunk in self._chunks.items()
        )

    def _in_hand(self) -> list[InHand]:
        folder, found = self._files.folder(CLAIMS), []
        for name in claim_names(folder):
            path = folder / name
            owner = read_owner(path)
            try:
                touched = path.stat().st_mtime
            except FileNotFoundError:
                continue
            if owner is not None and int(name) != METADATA_INDEX and int(name) not in self._chunks:
                held, silent = (max(self._clock() - time, 0.0) for time in (owner.since or touched, touched))
                gone = bool(is_gone(owner))
                found.append(InHand(int(name), owner.host_name, owner.pid, owner.worker, held, silent, gone))
        return found

    def _rate(self) -> float | None:
        """Return videos a second between the first and the last chunk that were finished lately."""
        chunks = sorted(self._chunks.values(), key=lambda chunk: chunk.finished)
        lately = [chunk for chunk in chunks if chunk.finished >= chunks[-1].finished - RATE_SECONDS]
        if len(lately) < 2 or lately[-1].finished <= lately[0].finished:
            return None
        return sum(chunk.n_rows for chunk in lately[1:]) / (lately[-1].finished - lately[0].finished)

    def _failures(self) -> list[Failure]:
        found = sorted(tuple(failure) for chunk in self._chunks.values() for failure in chunk.failures)
        return [Failure(self._videos[row].video_id, reason, message) for row, reason, message in found]
