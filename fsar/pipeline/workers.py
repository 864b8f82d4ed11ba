"""Decoding ahead of the network in processes of our own, which are replaced when they hang or die.

A process pool of the standard library cannot give one video a deadline, and a decoder that segfaults breaks the whole
pool; hence a small one of our own: a thread hands out one video per process, watches the clock and the processes, and
keeps at most a window of clips ready. Frames travel through a shared memory map, not through a pipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.files import sha256_file

START_SECONDS = 120.0
"""A process that has not said hello by then will not."""
RECYCLE_AFTER = 2000
"""Videos per process, so that a decoder that leaks cannot fill the memory."""
READY_BYTES = 1 << 30
"""Decoded frames that may wait for the network."""
N_TRIES = 2
"""Times a video may kill or hang its process before it is called failed."""


@dataclass(frozen=True)
class ClipTask:
    """One video to decode and the frames wanted of it."""

    video_id: str
    path: str
    sampler: str
    n_slots: int
    n_views: int
    seed: int
    decoder: str = "pyav"

    def indices(self, n_frames: int) -> npt.NDArray[np.int32]:
        """Return the frames of every view, (V, T). A random sampler draws anew for each, from the video's own seed."""
        from fsar.pipeline.sample import is_random_sampler, sample_indices

        if not is_random_sampler(self.sampler):
            return np.tile(sample_indices(self.sampler, n_frames, self.n_slots, None), (self.n_views, 1))
        draws = [view_generator(self.seed, self.video_id, view) for view in range(self.n_views)]
        return np.stack([sample_indices(self.sampler, n_frames, self.n_slots, draw) for draw in draws])


@dataclass(frozen=True)
class DecodedClip:
    """The distinct frames of one video and which of them each slot shows."""

    frames: npt.NDArray[np.uint8]
    """(U, H, W, 3) RGB, every wanted frame once."""
    slots: npt.NDArray[np.intp]
    """(V, T) rows of `frames`."""
    frame_index: npt.NDArray[np.int32]
    """(V, T)"""
    frame_time: npt.NDArray[np.float64]
    """(V, T) seconds."""
    n_frames: int
    sha256: bytes
    """Of the source file."""
    cpu_seconds: float = 0.0
    """Processor time that decoding took."""


@dataclass(frozen=True)
class DecodeFailure:
    """Why a video has no frames: a short reason for tables and one line for people."""

    reason: str
    message: str


Decode = Callable[[ClipTask], DecodedClip]


def view_generator(seed: int, video_id: str, view: int) -> np.random.Generator:
    """Return the generator of one view of one video: the same in every store and on every machine."""
    key = int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "little")
    return np.random.default_rng([seed, key, view])


def decode_task(task: ClipTask) -> DecodedClip:
    """Decode one video; raises VideoError when it cannot be used."""
    from fsar.pipeline.decode import decode_clip

    start = time.process_time()
    wanted: list[npt.NDArray[np.int32]] = []

    def choose(n_frames: int) -> npt.NDArray[np.int32]:
        wanted[:] = [task.indices(n_frames)]
        return np.unique(wanted[0])

    path = Path(task.path)
    clip = decode_clip(path, choose, decoder=task.decoder)
    slots = np.searchsorted(clip.indices, wanted[0])
    return DecodedClip(
        frames=clip.frames,
        slots=slots,
        frame_index=wanted[0],
        frame_time=clip.times_seconds[slots],
        n_frames=clip.n_frames,
        sha256=source_sha256(path),
        cpu_seconds=time.process_time() - start,
    )


def source_sha256(path: Path) -> bytes:
    """Return the sha256 of a video file, or of the names and hashes of a folder of frames."""
    if not path.is_dir():
        return bytes.fromhex(sha256_file(path))
    listing = "".join(f"{file.name} {sha256_file(file)}\n" for file in sorted(path.iterdir()) if file.is_file())
    return hashlib.sha256(listing.encode()).digest()


def attempt(decode: Decode, task: ClipTask) -> DecodedClip | DecodeFailure:
    """Decode, with what is the video's fault as a `DecodeFailure`."""
    from fsar.errors import InputError
    from fsar.pipeline.decode import VideoError

    try:
        return decode(task)
    except VideoError as error:
        return DecodeFailure(error.reason, str(error))
    except (OSError, InputError) as error:
        return DecodeFailure("unreadable", f"{task.path}: {error}")


class InlineDecoder:
    """Decode in the calling process, when asked for. No deadline, no protection from crashes."""

    def __init__(self, decode: Decode = decode_task) -> None:
        self._decode = decode
        self._tasks: dict[int, ClipTask] = {}

    @property
    def n_outstanding(self) -> int:
        """Videos submitted and not yet taken."""
        return len(self._tasks)

    def submit(self, key: int, task: ClipTask) -> None:
        """Note a video to decode."""
        self._tasks[key] = task

    def take(self, key: int) -> DecodedClip | DecodeFailure:
        """Return the clip of a submitted video."""
        return attempt(self._decode, self._tasks.pop(key))

    def close(self) -> None:
        """Do nothing."""


@dataclass
class _Job:
    key: int
    task: ClipTask
    n_tries: int = 0


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    exchange: _Exchange
    deadline: float
    ready: bool = False
    job: _Job | None = None
    n_served: int = 0


class DecodePool:
    """Decode in `n_workers` spawned processes, in the order of submission, with a deadline for each video.

    A process that hangs is killed and replaced, one that dies is replaced; the video is tried once more and then
    reported as `timeout` or `crashed`. `take` blocks until its video is there. Use as a context manager.
    """

    def __init__(self, n_workers: int, *, decode: Decode = decode_task, timeout_seconds: float = 120.0) -> None:
        self._decode, self._timeout_seconds = decode, timeout_seconds
        self._condition = threading.Condition()
        self._todo: deque[_Job] = deque()
        self._done: dict[int, DecodedClip | DecodeFailure] = {}
        self._n_outstanding, self._ready_bytes = 0, 0
        self._wanted: int | None = None
        self._problem: BaseException | None = None
        self._closing = False
        self._context = multiprocessing.get_context("spawn")
        self._wake_read, self._wake_write = self._context.Pipe(duplex=False)
        self._workers = [self._start() for _ in range(n_workers)]
        self._thread = threading.Thread(target=self._serve, name="fsar-decode", daemon=True)
        self._thread.start()

    @property
    def n_outstanding(self) -> int:
        """Videos submitted and not yet taken."""
        return self._n_outstanding

    def submit(self, key: int, task: ClipTask) -> None:
        """Queue a video; does not block."""
        with self._condition:
            self._todo.append(_Job(key, task))
            self._n_outstanding += 1
        self._wake()

    def take(self, key: int) -> DecodedClip | DecodeFailure:
        """Wait for a submitted video and return it. Raises RuntimeError when decoding itself is broken."""
        with self._condition:
            self._wanted = key
            self._wake()
            while key not in self._done and self._problem is None:
                self._condition.wait(timeout=1.0)  # a timeout, so that Ctrl-C is noticed
            if self._problem is not None:
                raise self._problem
            result = self._done.pop(key)
            self._n_outstanding -= 1
            self._ready_bytes -= _n_bytes(result)
        self._wake()
        return result

    def close(self) -> None:
        """Stop the processes at once; what they were decoding is dropped."""
        self._closing = True
        self._wake()
        self._thread.join()
        for worker in self._workers:
            _stop(worker)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send_bytes(b"")

    # What follows runs in the serving thread.

    def _serve(self) -> None:
        try:
            while not self._closing:
                self._hand_out()
                for item in wait(self._watched(), timeout=self._patience_seconds()):
                    self._handle(item)
                self._check_deadlines()
        except BaseException as error:  # handed to the thread that waits in `take`
            with self._condition:
                self._problem = error
                self._condition.notify_all()

    def _watched(self) -> list[Any]:
        return [self._wake_read, *(worker.connection for worker in self._workers)]

    def _patience_seconds(self) -> float:
        deadlines = [worker.deadline for worker in self._workers if worker.job is not None or not worker.ready]
        return max(min(deadlines, default=time.monotonic() + 60) - time.monotonic(), 0.0)

    def _handle(self, item: Any) -> None:
        if item is self._wake_read:
            while self._wake_read.poll():
                self._wake_read.recv_bytes()
            return
        worker = next((worker for worker in self._workers if worker.connection is item), None)
        if worker is None:
            return
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._lost(worker, "crashed", _last_words(worker))
            return
        self._receive(worker, message)

    def _receive(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        if kind == "ready":
            worker.ready = True
            worker.exchange.unlink()
        elif kind == "broken":
            raise RuntimeError(f"decoding is broken:\n{content}")
        elif kind == "full":
            raise OSError(f"no room for decoded frames in {worker.exchange.path.parent}: {content}")
        else:
            assert worker.job is not None
            key, worker.job, worker.n_served = worker.job.key, None, worker.n_served + 1
            self._finish(key, worker.exchange.clip(content) if kind == "clip" else content)
            if worker.n_served >= RECYCLE_AFTER:
                self._replace(worker)

    def _finish(self, key: int, result: DecodedClip | DecodeFailure) -> None:
        with self._condition:
            self._done[key] = result
            self._ready_bytes += _n_bytes(result)
            self._condition.notify_all()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.job is None and self._may_decode():
                worker.job = self._todo.popleft()
                worker.deadline = time.monotonic() + self._timeout_seconds
                try:
                    worker.connection.send(worker.job.task)
                except OSError:
                    continue  # it died idle: its connection reports that next

    def _may_decode(self) -> bool:
        # The clip that `take` waits for is always decoded, else a full buffer would wait for itself.
        return bool(self._todo) and (self._ready_bytes < READY_BYTES or self._todo[0].key == self._wanted)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if now >= worker.deadline and not worker.ready:
                raise RuntimeError(f"a decode process did not start within {START_SECONDS:.0f} s")
            if now >= worker.deadline and worker.job is not None:
                self._lost(worker, "timeout", f"not decoded within {self._timeout_seconds:g} s")

    def _lost(self, worker: _Worker, reason: str, message: str) -> None:
        if not worker.ready:
            raise RuntimeError(
                f"a decode process ended while it started ({message}); a script that encodes needs "
                '`if __name__ == "__main__":` around its work, or jobs=0'
            )
        job = worker.job
        self._replace(worker)
        if job is None:
            return
        job.n_tries += 1
        if job.n_tries < N_TRIES:
            with self._condition:
                self._todo.appendleft(job)
        else:
            self._finish(job.key, DecodeFailure(reason, f"{job.task.path}: {message}, {N_TRIES} times"))

    def _replace(self, worker: _Worker) -> None:
        _stop(worker)
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        exchange = _Exchange.create()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, str(exchange.path), self._decode), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, exchange, time.monotonic() + START_SECONDS)


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()
    worker.exchange.close()


def _last_words(worker: _Worker) -> str:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    if code is not None and code < 0:
        return f"the decode process died by {signal.Signals(-code).name}"
    return f"the decode process ended with exit code {code}"


def _n_bytes(result: DecodedClip | DecodeFailure) -> int:
    return result.frames.nbytes if isinstance(result, DecodedClip) else 0


@dataclass
class _Exchange:
    """A file in memory that a decode process writes frames to and that we copy them from."""

    path: Path
    descriptor: int
    map: mmap.mmap | None = field(default=None, repr=False)

    @classmethod
    def create(cls) -> _Exchange:
        """Make an empty one, in /dev/shm where there is room, else in the folder for temporary files."""
        descriptor, path = tempfile.mkstemp(prefix="fsar-frames-", dir=_memory_folder())
        return cls(Path(path), descriptor)

    @classmethod
    def open(cls, path: str) -> _Exchange:
        """Open the one at `path`, in the decode process."""
        return cls(Path(path), os.open(path, os.O_RDWR))

    def write(self, frames: npt.NDArray[np.uint8]) -> None:
        """Put frames into it; it grows as needed. Raises OSError when memory or disk is full."""
        if self.map is None or len(self.map) < frames.nbytes:
            _reserve(self.descriptor, frames.nbytes)
            self.map = mmap.mmap(self.descriptor, frames.nbytes)
        np.frombuffer(self.map, np.uint8, frames.nbytes)[:] = frames.reshape(-1)

    def clip(self, parts: tuple[tuple[int, ...], dict[str, Any]]) -> DecodedClip:
        """Return the clip whose frames, of the given shape, lie here; they are copied."""
        shape, fields = parts
        n_bytes = int(np.prod(shape))
        if self.map is None or len(self.map) < n_bytes:
            self.map = mmap.mmap(self.descriptor, n_bytes, prot=mmap.PROT_READ)
        return DecodedClip(frames=np.frombuffer(self.map, np.uint8, n_bytes).reshape(shape).copy(), **fields)

    def unlink(self) -> None:
        """Take the name away once both sides hold it open, so that nothing is left behind by a kill."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give the memory back."""
        self.unlink()
        self.map = None
        os.close(self.descriptor)


def _reserve(descriptor: int, n_bytes: int) -> None:
    # Reserving is what makes a full /dev/shm an error here and not a bus error later. macOS cannot.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)


def _memory_folder() -> str | None:
    shm = Path("/dev/shm")
    if shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= READY_BYTES // 4:
        return str(shm)
    return None


def _work(connection: Connection, exchange_path: str, decode: Decode) -> None:
    """Serve videos until the other end closes: the main function of a decode process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    exchange = _Exchange.open(exchange_path)
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(_answer(attempt(decode, task), exchange))
        except BrokenPipeError:
            return
        except OSError as error:
            connection.send(("full", str(error)))
        except Exception:
            connection.send(("broken", traceback.format_exc()))


def _end_with(parent: int) -> None:
    """End this process soon after its parent is gone, also when a video hangs it."""
    while os.getppid() == parent:
        time.sleep(2.0)
    os._exit(1)


def _answer(result: DecodedClip | DecodeFailure, exchange: _Exchange) -> tuple[str, Any]:
    if isinstance(result, DecodeFailure):
        return "failure", result
    exchange.write(np.ascontiguousarray(result.frames))
    fields = {name: value for name, value in vars(result).items() if name != "frames"}
    return "clip", (result.frames.shape, fields)
