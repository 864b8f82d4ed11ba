"""Decoding ahead of the network in processes of our own, which are replaced when they hang or die.

A process pool of the standard library cannot give one video a deadline, and a decoder that segfaults breaks the whole
pool; hence a small one of our own: a thread hands out one video per process, watches the clock and the processes, and
keeps at most a window of clips ready. Frames travel through a shared memory map, not through a pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from fsar.pipeline.encode.clip_task import ClipTask, Decode, DecodedClip, DecodeFailure, decode_task
from fsar.pipeline.encode.shared_frames import Exchange
from fsar.pipeline.encode.worker_process import serve

START_SECONDS = 120.0
"""A process that has not said hello by then will not."""
RECYCLE_AFTER = 2000
"""Videos per process, so that a decoder that leaks cannot fill the memory."""
READY_BYTES = 1 << 30
"""Decoded frames that may wait for the network."""
N_TRIES = 2
"""Times a video may kill or hang its process before it is called failed."""


@dataclass
class _Job:
    key: int
    task: ClipTask
    n_tries: int = 0


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    exchange: Exchange
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
        exchange = Exchange.create()
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs, str(exchange.path), self._decode), daemon=True)
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
