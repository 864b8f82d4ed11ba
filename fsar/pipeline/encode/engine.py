"""The loop that fills a store: decode ahead, several batches on the device, writing behind."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from fsar.pipeline.encode.chunk import ChunkWork, Pair
from fsar.pipeline.encode.clip_task import ClipTask, DecodedClip, DecodeFailure, InlineDecoder
from fsar.pipeline.encode.cut_clip import decode_and_cut, may_cut, view_of
from fsar.pipeline.encode.forward import Forward, Pending
from fsar.pipeline.encode.recipe import Recipe, task_of
from fsar.pipeline.encode.report import EngineOptions, EngineReport, peak_memory_bytes
from fsar.pipeline.encode.reuse import Reuse
from fsar.pipeline.encode.staging import Item
from fsar.pipeline.encode.workers import DecodePool
from fsar.pipeline.encode.writer import WriterThread
from fsar.pipeline.pixels.prepare import CENTRE
from fsar.pipeline.store.portable import portable_message

if TYPE_CHECKING:
    from fsar.pipeline.store import StoreWriter, TapSpec, VideoRow

__all__ = ["Engine", "EngineOptions", "EngineReport"]

POLL_SECONDS, MAX_POLL_SECONDS = 0.5, 4.0
"""How often to look again at a store that other encoders are still writing to, at first and after a while."""


@dataclass
class _Flight:
    work: ChunkWork
    pairs: list[Pair]
    pending: Pending
    is_last: bool


@dataclass
class Engine:
    """Encode the pending chunks of a store. Rows of the store are the videos, in order."""

    writer: StoreWriter
    videos: Sequence[VideoRow]
    recipe: Recipe
    taps: dict[str, TapSpec]
    forward: Forward
    options: EngineOptions
    advance: Callable[[int], None] = lambda n_items: None
    report: EngineReport = field(default_factory=EngineReport)
    reuse: Reuse | None = None
    """Where rows are looked for before they are computed."""

    def run(self) -> EngineReport:
        """Work until no chunk is pending, also not in another encoder's hands; return what was done here."""
        start = time.perf_counter()
        self._begin()
        try:
            self._encode_all()
        except BaseException:
            self._decoder.close()
            self._output.stop()
            self._release()
            raise
        self._decoder.close()
        self._output.stop()
        self.report.seconds = time.perf_counter() - start
        self.report.peak_memory_bytes = peak_memory_bytes()
        return self.report

    def _begin(self) -> None:
        n_jobs = min(self.options.jobs, self.writer.missing_parts().total())  # no process without a video
        self._decoder = self._decoders(n_jobs)
        self._claimed: deque[ChunkWork] = deque()
        self._rows: deque[int] = deque()
        self._clips: dict[int, DecodedClip | DecodeFailure] = {}
        self._flights: deque[_Flight] = deque()
        self._current: ChunkWork | None = None
        self._look_ahead = True
        self._output = WriterThread(self.writer)
        n_frames = self.options.frames_per_batch(self.forward.device.type, self.recipe.size)
        self._clips_per_batch = max(n_frames // self.recipe.n_frames_seen, 1)
        # Ahead of the network: enough for every batch that may end at once, and two videos for every process.
        self._window = self.forward.depth * self._clips_per_batch + 2 * n_jobs

    def _decoders(self, n_jobs: int) -> DecodePool | InlineDecoder:
        if not n_jobs:
            return InlineDecoder(self.options.decode)
        is_cut = self.forward.device.type == "cpu" and may_cut(self.recipe)  # another device resizes for itself
        decode = partial(decode_and_cut, self.options.decode, self.recipe) if is_cut else self.options.decode
        return DecodePool(n_jobs, decode=decode, timeout_seconds=self.options.timeout_seconds)

    def _encode_all(self) -> None:
        wait_seconds = POLL_SECONDS
        while True:
            while (work := self._next_work()) is not None:
                wait_seconds = POLL_SECONDS
                self._encode_chunk(work)
            self._land(0)
            self._wait_for_writes(self._output.flush)
            if self.writer.pending_chunks() == 0:
                return
            time.sleep(wait_seconds)  # another encoder has the rest; should it die, its chunks can be claimed
            wait_seconds = min(wait_seconds * 1.5, MAX_POLL_SECONDS)

    def _encode_chunk(self, work: ChunkWork) -> None:
        batches = self._batches_to_compute(work)
        if not batches:
            self._hand_over(work)
        for index, pairs in enumerate(batches):
            items = [self._item(row, view, work) for row, view in pairs]
            self._flights.append(_Flight(work, pairs, self.forward.start(items), index == len(batches) - 1))
            self.report.n_frames += sum(row not in work.reused for row, _ in pairs) * self.recipe.n_frames_seen
            self._top_up()
            self._land(self.forward.depth - 1)

    def _batches_to_compute(self, work: ChunkWork) -> list[list[Pair]]:
        """Return the batches that hold a row to compute, as they would be without the rows that are taken.

        A network may round otherwise in a batch of another size, so reused rows keep their place in it, empty.
        """
        batches = work.batches(self._clips_per_batch)
        kept = [pairs for pairs in batches if any(row not in work.reused for row, _ in pairs)]
        n_taken = sum(view == 0 for pairs in batches if pairs not in kept for _, view in pairs)
        if n_taken:
            self.advance(n_taken)
        return kept

    def _next_work(self) -> ChunkWork | None:
        self._look_ahead = True
        if not self._claimed:
            self._claim()
        self._top_up()
        self._current = self._claimed.popleft() if self._claimed else None
        return self._current

    def _claim(self, *, ahead: bool = False) -> bool:
        chunk = self.writer.claim(ahead=ahead)
        if chunk is None:
            self._look_ahead = False
            return False
        work = ChunkWork(chunk, self.recipe, self.taps, [self._n_views(row) for row in chunk.rows])
        for found in self.reuse.find({row: self.videos[row] for row in chunk.rows}) if self.reuse else ():
            work.take(found)
        self.report.n_reused += len(work.reused)
        self._claimed.append(work)
        self._rows.extend(row for row in chunk.rows if row not in work.reused)
        return True

    def _top_up(self) -> None:
        """Keep the decoders fed, into the next chunk if need be (but never more than one ahead)."""
        while self._decoder.n_outstanding < self._window:
            if not self._rows and (self._claimed or not self._look_ahead or not self._claim(ahead=True)):
                return
            if not self._rows:  # every row of that chunk was taken from elsewhere
                return
            row = self._rows.popleft()
            self._decoder.submit(row, self._task(row))

    def _task(self, row: int) -> ClipTask:
        video = self.videos[row]
        return task_of(video.video_id, video.path, self.recipe, self._n_views(row))

    def _n_views(self, row: int) -> int:
        return 1 if self.videos[row].part in ("val", "test") else self.recipe.n_views

    def _item(self, row: int, view: int, work: ChunkWork) -> Item:
        if row in work.reused:
            return None, CENTRE
        if view == 0:
            self._clips = {row: self._decoded(row, work)}
        clip = self._clips[row]
        if isinstance(clip, DecodeFailure):
            return None, CENTRE
        drawn = view_of(self.recipe, self.videos[row].video_id, view)
        return clip.of_view(view), replace(drawn, is_cut=clip.is_cut)

    def _decoded(self, row: int, work: ChunkWork) -> DecodedClip | DecodeFailure:
        start = time.perf_counter()
        clip = self._decoder.take(row)
        self.report.waiting_for_decode_seconds += time.perf_counter() - start
        self._top_up()
        if isinstance(clip, DecodeFailure):
            stored = self.writer.videos[row].path
            clip = replace(clip, message=portable_message(clip.message, self.videos[row].path, stored))
        work.note(row, clip)
        if isinstance(clip, DecodeFailure):
            self.report.n_failed += 1
        else:
            self.report.n_ok += 1
            self.report.decode_cpu_seconds += clip.cpu_seconds
        return clip

    def _land(self, n_in_flight: int) -> None:
        while len(self._flights) > n_in_flight:
            flight = self._flights[0]  # stays there until its chunk is in other hands, for `_release`
            n_rejected = flight.work.put(flight.pairs, flight.pending.result())
            self.report.n_ok -= n_rejected
            self.report.n_failed += n_rejected
            self.advance(sum(view == 0 for _, view in flight.pairs))
            if flight.is_last:
                self._hand_over(flight.work)
            self._flights.popleft()

    def _hand_over(self, work: ChunkWork) -> None:
        self._wait_for_writes(lambda: self._output.put(work.chunk, work.data))

    def _wait_for_writes(self, action: Callable[[], None]) -> None:
        start = time.perf_counter()
        action()
        self.report.waiting_for_write_seconds += time.perf_counter() - start

    def _release(self) -> None:
        """Give back what was claimed and not written, so that others need not wait for it."""
        held: Iterable[ChunkWork] = [*self._claimed, *(flight.work for flight in self._flights)]
        if self._current is not None:
            held = [*held, self._current]
        for work in {work.chunk.index: work for work in held}.values():
            if work.chunk.index not in self._output.committed:
                self.writer.release(work.chunk)
