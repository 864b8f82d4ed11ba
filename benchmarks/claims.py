"""Count and time what many workers at one store cost: claims and journal alone, without videos and without networks.

    python benchmarks/claims.py [--videos 250000] [--workers 1,16,64,256]

All workers are simulated in this process, in turns by a clock of their own; every claim, record and listing is a real
one on the disk. A step is what a worker does between two chunks: commit one, claim another, perhaps one ahead.
`growth.py` shows what commands take on large stores.
"""

import argparse
import heapq
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fsar.pipeline.encode.chunk_size import CHUNKS_PER_WORKER
from fsar.pipeline.encode.engine import MAX_POLL_SECONDS, POLL_SECONDS
from fsar.pipeline.store import ChunkData, TapSpec, VideoRow, create_store
from fsar.pipeline.store.format.layout import Chunk
from fsar.pipeline.store.journal.publish import publish
from fsar.pipeline.store.writer import StoreWriter

CHANGES = ("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.utime")
SECONDS_PER_VIDEO, START_SECONDS, JITTER = 0.5, 30.0, 0.1
NO_DATA = ChunkData({}, *[np.zeros(0)] * 5)


@dataclass
class Calls:
    """Calls of the file system so far, and names that listings returned."""

    n_calls: int = 0
    n_names: int = 0

    def count(self) -> None:
        """Count from now on. Looks at single files (`stat`) are not counted: Python does not tell of them."""
        listdir = os.listdir

        def counted(*arguments: Any) -> list[str]:
            names = listdir(*arguments)
            self.n_names += len(names)
            return names

        os.listdir = counted  # type: ignore[assignment]
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        self.n_calls += event in CHANGES


@dataclass
class Step:
    """What one step cost."""

    n_calls: int
    n_names: int
    seconds: float


class Worker(StoreWriter):
    """A writer that shares its list of videos with the others, and commits a file of a few bytes for a chunk."""

    def __init__(self, number: int, first: StoreWriter) -> None:
        from collections import deque

        from fsar.pipeline.store.format.files import CLAIMS
        from fsar.pipeline.store.journal.claims import Claims

        self.files, self.layout, self.videos = first.files, first.layout, first.videos
        self._claims, self._queue, self._draw = Claims(self.files.folder(CLAIMS)), deque(), random.Random(number)
        self.hand: list[Chunk] = []
        self.wait_seconds, self.n_rows, self.ended_at = POLL_SECONDS, 0, 0.0

    def commit(self, chunk: Chunk, data: ChunkData) -> None:
        """Publish a chunk without numbers."""
        if not self._is_stored(chunk.index):
            details = {"offsets": {}, "rows": [chunk.rows.start, chunk.rows.stop], "failures": []}
            publish(self.files, self._key(chunk.index), {f"features/pooled/c.{chunk.index}": [b"some"]}, details)
        self._claims.release(chunk.index)

    def step(self) -> bool:
        """Commit the chunk in hand, claim what comes next; return whether there is something to do."""
        if self.hand:
            chunk = self.hand.pop(0)
            self.commit(chunk, NO_DATA)
            self.n_rows += len(chunk.rows)
        for ahead in range(len(self.hand), 2):
            chunk_ahead = self.claim(ahead=bool(ahead))
            if chunk_ahead is None:
                break
            self.hand.append(chunk_ahead)
        return bool(self.hand)


@dataclass
class Simulation:
    """All workers at one store, each step when its clock says so."""

    workers: Sequence[Worker]
    calls: Calls
    steps: list[Step] = field(default_factory=list)
    waits: list[Step] = field(default_factory=list)

    def run(self) -> None:
        """Work until nothing is pending."""
        draw, queue = random.Random(0), []
        for number in range(len(self.workers)):
            heapq.heappush(queue, (draw.uniform(0, START_SECONDS), number))
        while queue:
            now, number = heapq.heappop(queue)
            worker = self.workers[number]
            had = bool(worker.hand)
            busy, cost = self._measured(worker.step)
            (self.steps if busy or had else self.waits).append(cost)
            if busy:
                jitter = draw.uniform(1 - JITTER, 1 + JITTER)
                worker.wait_seconds = POLL_SECONDS
                heapq.heappush(queue, (now + len(worker.hand[0].rows) * SECONDS_PER_VIDEO * jitter, number))
                worker.ended_at = queue[0][0]
            elif self._measured(worker.pending_chunks)[0]:
                heapq.heappush(queue, (now + worker.wait_seconds, number))
                worker.wait_seconds = min(worker.wait_seconds * 1.5, MAX_POLL_SECONDS)

    def _measured(self, function: Callable[[], Any]) -> tuple[Any, Step]:
        n_calls, n_names, start = self.calls.n_calls, self.calls.n_names, time.perf_counter()
        found = function()
        spent = time.perf_counter() - start
        return found, Step(self.calls.n_calls - n_calls, self.calls.n_names - n_names, spent)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=250_000)
    parser.add_argument(
        "--workers", type=lambda text: [int(part) for part in text.split(",")], default=[1, 16, 64, 256]
    )
    options = parser.parse_args()
    calls = Calls()
    calls.count()
    videos = [VideoRow(f"v{i:06d}", f"class {i % 400:03d}", "train", f"v/{i:06d}.mp4") for i in range(options.videos)]
    print(
        f"{options.videos:,} videos; a step: one chunk committed, another claimed; a wait: a look that found nothing\n"
    )
    titles = ["workers", "chunks", "steps", "calls a step", "names listed a step", "per chunk"]
    titles += ["ms a step: median (99 %)", "waits", "calls a wait (max)", "names listed a wait", "shares of work"]
    print(f"\n| {' | '.join(titles)} |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for n_workers in options.workers:
        with tempfile.TemporaryDirectory(prefix="fsar-bench-") as folder:
            print(simulate(Path(folder) / "s.zarr", videos, n_workers, calls), flush=True)


def simulate(path: Path, videos: Sequence[VideoRow], n_workers: int, calls: Calls) -> str:
    """Return a line of the table."""
    chunk_rows = min(256, max(1, len(videos) // (CHUNKS_PER_WORKER * n_workers)))
    taps, recipe = {"pooled": TapSpec((1,), "float16")}, {"backbone": "none"}
    first = create_store(path, videos=videos, taps=taps, n_views=1, n_slots=1, recipe=recipe, chunk_rows=chunk_rows)
    simulation = Simulation([Worker(number, first) for number in range(n_workers)], calls)
    simulation.run()
    n_chunks, rows = first.layout.n_chunks(len(videos)), [worker.n_rows for worker in simulation.workers]
    assert sum(rows) == len(videos)
    assert first.pending_chunks() == 0
    for worker in simulation.workers:
        worker.close()
    steps, waits = simulation.steps, simulation.waits or [Step(0, 0, 0.0)]
    names, mean = statistics.mean(step.n_names for step in steps), len(videos) / n_workers
    times = sorted(1e3 * step.seconds for step in steps)
    calls_a_step, calls_a_wait = (statistics.mean(each.n_calls for each in group) for group in (steps, waits))
    cells = [n_workers, n_chunks, len(steps), f"{calls_a_step:.1f}", f"{names:.0f}", f"{names / n_chunks:.2f}"]
    cells += [f"{statistics.median(times):.1f} ({times[int(0.99 * (len(times) - 1))]:.1f})", len(simulation.waits)]
    cells += [f"{calls_a_wait:.1f} ({max(wait.n_calls for wait in waits)})"]
    cells += [
        f"{statistics.mean(wait.n_names for wait in waits):.0f}",
        f"{min(rows) / mean:.2f} to {max(rows) / mean:.2f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    main()
