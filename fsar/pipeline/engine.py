"""The loop that fills a store: decode ahead, one batch on the device, writing behind."""

from __future__ import annotations

import itertools
import queue
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.engine_forward import Features, Forward, Item, Pending
from fsar.pipeline.images import CENTRE, View, draw_view
from fsar.pipeline.recipe import Recipe
from fsar.pipeline.workers import (
    ClipTask,
    Decode,
    DecodedClip,
    DecodeFailure,
    DecodePool,
    InlineDecoder,
    decode_task,
    view_generator,
)

if TYPE_CHECKING:
    from fsar.pipeline.store import Chunk, ChunkData, StoreWriter, TapSpec, VideoRow

POLL_SECONDS = 1.0
"""How often to look again at a store that other encoders are still writing to."""


@dataclass(frozen=True)
class EngineOptions:
    """How the work is done; nothing here decides what the numbers mean."""

    device: str = "auto"
    batch_size: int = 64
    """Frames per forward pass."""
    jobs: int = 1
    """Decode processes; 0 decodes in the calling process."""
    timeout_seconds: float = 120.0
    """Longest time one video may take to decode."""
    decode: Decode = decode_task
    """What runs in the decode processes; must be importable there by name."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.jobs < 0 or self.timeout_seconds <= 0:
            raise InputError("batch size must be 1 or more, jobs 0 or more, the timeout more than 0 seconds")


@dataclass
class EngineReport:
    """What one run did and where its time went."""

    n_ok: int = 0
    n_failed: int = 0
    n_frames: int = 0
    """Frames through the backbone."""
    seconds: float = 0.0
    waiting_for_decode_seconds: float = 0.0
    waiting_for_write_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0
    """Processor time of decoding, summed over processes."""
    peak_memory_bytes: int = 0
    """Of this process."""

    def shares(self) -> dict[str, float]:
        """Return the parts of the time spent waiting for decode, computing and waiting for writes; they sum to 1."""
        total = max(self.seconds, 1e-9)
        decode, write = self.waiting_for_decode_seconds / total, self.waiting_for_write_seconds / total
        return {"decode": decode, "compute": max(1.0 - decode - write, 0.0), "write": write}


@dataclass
class _ChunkWork:
    chunk: Chunk
    data: ChunkData
    batches: list[list[tuple[int, int]]]
    """(row, view) pairs of each forward pass. Fixed by the chunk and the batch size alone: a rerun repeats them."""


@dataclass
class _Flight:
    work: _ChunkWork
    pairs: list[tuple[int, int]]
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

    def run(self) -> EngineReport:
        """Work until no chunk is pending, also not in another encoder's hands; return what was done here."""
        start = time.perf_counter()
        options = self.options
        self._decoder: DecodePool | InlineDecoder = (
            DecodePool(options.jobs, decode=options.decode, timeout_seconds=options.timeout_seconds)
            if options.jobs
            else InlineDecoder(options.decode)
        )
        self._claimed: deque[_ChunkWork] = deque()
        self._rows: deque[int] = deque()
        self._clips: dict[int, DecodedClip | DecodeFailure] = {}
        self._flights: deque[_Flight] = deque()
        self._output = _WriterThread(self.writer)
        # Ahead of the network: enough for every batch that may end at once, and two videos for every process.
        self._window = self.forward.depth * self._clips_per_batch() + 2 * options.jobs
        try:
            self._encode_all()
        except BaseException:
            self._decoder.close()
            self._output.stop()
            self._release()
            raise
        self._decoder.close()
        self.report.seconds = time.perf_counter() - start
        self.report.peak_memory_bytes = peak_memory_bytes()
        return self.report

    def _encode_all(self) -> None:
        while True:
            while (work := self._next_work()) is not None:
                self._encode_chunk(work)
            self._land(0)
            self._wait_for_writes(self._output.flush)
            if self.writer.pending_chunks() == 0:
                self._output.stop()
                return
            time.sleep(POLL_SECONDS)  # another encoder has the rest; should it die, its chunks can be claimed

    def _encode_chunk(self, work: _ChunkWork) -> None:
        for index, pairs in enumerate(work.batches):
            items = [self._item(row, view, work) for row, view in pairs]
            flight = _Flight(work, pairs, self.forward.start(items), is_last=index == len(work.batches) - 1)
            self._flights.append(flight)
            self.report.n_frames += len(pairs) * self.recipe.n_slots
            self._top_up()
            self._land(self.forward.depth - 1)

    def _next_work(self) -> _ChunkWork | None:
        if not self._claimed:
            self._claim()
        self._top_up()
        self._current = self._claimed.popleft() if self._claimed else None
        return self._current

    def _claim(self) -> bool:
        chunk = self.writer.claim()
        if chunk is None:
            return False
        rows = list(chunk.rows)
        self._claimed.append(_ChunkWork(chunk, self._empty(len(rows)), self._batches(rows)))
        self._rows.extend(rows)
        return True

    def _top_up(self) -> None:
        """Keep the decoders fed, into the next chunk if need be (but never more than one ahead)."""
        while self._decoder.n_outstanding < self._window:
            if not self._rows and (self._claimed or not self._claim()):
                return
            row = self._rows.popleft()
            self._decoder.submit(row, self._task(row))

    def _task(self, row: int) -> ClipTask:
        video, recipe = self.videos[row], self.recipe
        return ClipTask(
            video.video_id,
            video.path,
            recipe.sampler,
            recipe.n_slots,
            self._n_views(row),
            recipe.seed,
            recipe.decoder,
        )

    def _n_views(self, row: int) -> int:
        return 1 if self.videos[row].part in ("val", "test") else self.recipe.n_views

    def _clips_per_batch(self) -> int:
        return max(self.options.batch_size // self.recipe.n_slots, 1)

    def _batches(self, rows: list[int]) -> list[list[tuple[int, int]]]:
        pairs = [(row, view) for row in rows for view in range(self._n_views(row))]
        n_batches = -(-len(pairs) // self._clips_per_batch())
        edges = np.linspace(0, len(pairs), n_batches + 1).round().astype(int)
        return [pairs[first:last] for first, last in itertools.pairwise(edges)]

    def _item(self, row: int, view: int, work: _ChunkWork) -> Item:
        if view == 0:
            self._clips = {row: self._decoded(row, work)}
        clip = self._clips[row]
        if isinstance(clip, DecodeFailure):
            return None, CENTRE
        slots = clip.slots[view]
        in_order = len(slots) == len(clip.frames) and (slots == np.arange(len(slots))).all()
        return clip.frames if in_order else clip.frames[slots], self._view(row, view)

    def _view(self, row: int, view: int) -> View:
        if view == 0:
            return CENTRE
        generator = view_generator(self.recipe.seed, f"view of {self.videos[row].video_id}", view)
        return draw_view(generator, flip=self.recipe.flip, jitter=self.recipe.jitter)

    def _decoded(self, row: int, work: _ChunkWork) -> DecodedClip | DecodeFailure:
        from fsar.pipeline.store import STATUS_FAILED, STATUS_OK

        start = time.perf_counter()
        clip = self._decoder.take(row)
        self.report.waiting_for_decode_seconds += time.perf_counter() - start
        self._top_up()
        place, data = row - work.chunk.rows.start, work.data
        if isinstance(clip, DecodeFailure):
            data.status[place] = STATUS_FAILED
            data.failures.append((row, clip.reason, clip.message))
            self.report.n_failed += 1
            return clip
        data.status[place], data.n_frames[place] = STATUS_OK, clip.n_frames
        data.frame_index[place], data.frame_time[place] = clip.frame_index, clip.frame_time  # one view fills all
        data.source_sha256[place] = np.frombuffer(clip.sha256, np.uint8)
        self.report.n_ok += 1
        self.report.decode_cpu_seconds += clip.cpu_seconds
        return clip

    def _land(self, n_in_flight: int) -> None:
        while len(self._flights) > n_in_flight:
            flight = self._flights.popleft()
            self._store(flight.work, flight.pairs, flight.pending.result())
            self.advance(sum(view == 0 for _, view in flight.pairs))
            if flight.is_last:
                self._wait_for_writes(lambda: self._output.put(flight.work.chunk, flight.work.data))  # noqa: B023

    def _store(self, work: _ChunkWork, pairs: list[tuple[int, int]], features: Features) -> None:
        from fsar.pipeline.store import STATUS_OK

        for index, (row, view) in enumerate(pairs):
            place = row - work.chunk.rows.start
            if work.data.status[place] != STATUS_OK:
                continue
            odd = [tap for tap, values in features.items() if not np.isfinite(values[index]).all()]
            if odd:
                self._reject(work, row, odd[0])
                continue
            views = slice(None) if self._n_views(row) == 1 else view
            for tap, values in features.items():
                work.data.features[tap][place, views] = values[index]

    def _reject(self, work: _ChunkWork, row: int, tap: str) -> None:
        """Fail a video whose features do not fit the stored type; the store turns its row into NaN."""
        from fsar.pipeline.store import STATUS_FAILED

        numbers = f"{self.recipe.dtype} with precision {self.recipe.precision}"
        message = f"tap {tap} is not finite in {numbers}; store float32 or use another precision"
        work.data.status[row - work.chunk.rows.start] = STATUS_FAILED
        work.data.failures.append((row, "non-finite", message))
        self.report.n_ok, self.report.n_failed = self.report.n_ok - 1, self.report.n_failed + 1

    def _wait_for_writes(self, action: Callable[[], None]) -> None:
        start = time.perf_counter()
        action()
        self.report.waiting_for_write_seconds += time.perf_counter() - start

    def _empty(self, n_rows: int) -> ChunkData:
        from fsar.pipeline.store import ChunkData

        leading = (n_rows, self.recipe.n_views, self.recipe.n_slots)
        return ChunkData(
            features={tap: np.full((*leading, *spec.shape), np.nan, spec.dtype) for tap, spec in self.taps.items()},
            frame_index=np.full(leading, -1, np.int32),
            frame_time=np.full(leading, np.nan, np.float64),
            status=np.zeros(n_rows, np.uint8),
            n_frames=np.zeros(n_rows, np.int32),
            source_sha256=np.zeros((n_rows, 32), np.uint8),
            failures=[],
        )

    def _release(self) -> None:
        held = [*self._claimed, *(flight.work for flight in self._flights)]
        current = getattr(self, "_current", None)
        for work in {id(work): work for work in [*held, *([current] if current else [])]}.values():
            if work.chunk.index not in self._output.committed:
                self.writer.release(work.chunk)


class _WriterThread:
    """Commit finished chunks behind the encoder's back; at most one waits, so memory stays bounded."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[tuple[Chunk, ChunkData] | None] = queue.Queue(maxsize=1)
        self._problem: BaseException | None = None
        self.committed: set[int] = set()
        self._thread = threading.Thread(target=self._serve, name="fsar-write", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk, data: ChunkData) -> None:
        """Hand over a chunk. Raises what an earlier one failed with."""
        self._raise()
        self._queue.put((chunk, data))

    def flush(self) -> None:
        """Wait until everything is on disk. Raises what a chunk failed with."""
        self._queue.join()
        self._raise()

    def stop(self) -> None:
        """Finish the chunks that were handed over and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._problem is not None:
            raise self._problem

    def _serve(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self._problem is None:
                    self._writer.commit(*job)
                    self.committed.add(job[0].index)
            except BaseException as error:  # raised again in the encoder's thread
                self._problem = error
            finally:
                self._queue.task_done()


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
