"""The one pool of worker processes: each task has a deadline, and processes that hang or die are replaced.

Pools made elsewhere end as a whole when one of their processes dies, with everything that was in hand, and give no
task a deadline; but one video in ten thousand makes a decoder crash or hang. So processes here serve one task at a
time: a thread hands tasks out, watches the clock and the processes, and keeps results until they are taken. joblib's
loky starts the processes: unlike those of the standard library they do not run the user's main script again, so that
scripts and notebooks need no guard, and functions defined there can be sent. Programs of ours may have them forked.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from fsar.pipeline.jobs.exchange import Exchange, Parcel
from fsar.pipeline.jobs.fork_server import ForkedProcess, fork_server
from fsar.pipeline.jobs.worker_process import serve

Task = TypeVar("Task")
Result = TypeVar("Result")

START_SECONDS = 120.0
"""A process that has not said hello by then will not."""
RECYCLE_AFTER = 2000
"""Tasks per process, so that a decoder that leaks cannot fill the memory."""
READY_BYTES = 1 << 30
"""Arrays that may wait to be taken."""
N_TRIES = 2
"""Times a task may kill or hang its process before it is called lost."""


@dataclass(frozen=True)
class Lost(Generic[Task]):
    """What comes back of a task that has no result."""

    task: Task
    reason: str
    """crashed, timeout or too-large."""
    message: str


@dataclass
class _Job:
    key: int
    task: Any
    n_tries: int = 0


@dataclass
class _Worker:
    process: BaseProcess | ForkedProcess
    connection: Connection
    exchange: Exchange
    deadline: float
    ready: bool = False
    job: _Job | None = None
    n_served: int = 0


class WorkerPool(Generic[Task, Result]):
    """Run `function` on tasks in `n_workers` processes. Use as a context manager.

    Tasks are handed out in the order of submission. One that kills its process, or takes longer than `timeout_seconds`,
    is tried once more and then comes back as `Lost`. What `function` raises ends all work: `take` raises it.
    """

    def __init__(
        self, function: Callable[[Task], Result], n_workers: int, *, timeout_seconds: float | None = None
    ) -> None:
        self.mark = secrets.token_hex(4)
        """Part of the names of unfinished files that the processes of this pool leave."""
        self._function, self._n_workers = function, n_workers
        self._timeout_seconds = float("inf") if timeout_seconds is None else timeout_seconds
        self._condition = threading.Condition()
        self._todo: deque[_Job] = deque()
        self._done: dict[int, tuple[Result | Lost[Task], int]] = {}
        self._n_outstanding, self._ready_bytes = 0, 0
        self._wanted: int | None = None
        self._problem: BaseException | None = None
        self._closing = False
        self._forks = fork_server()
        self._wake_read, self._wake_write = Pipe(duplex=False)
        self._workers: list[_Worker] = []
        self._thread = threading.Thread(target=self._serve, name="fsar-pool", daemon=True)
        self._thread.start()

    @property
    def n_outstanding(self) -> int:
        """Tasks submitted and not yet taken."""
        return self._n_outstanding

    def submit(self, key: int, task: Task) -> None:
        """Queue a task; does not block."""
        with self._condition:
            self._todo.append(_Job(key, task))
            self._n_outstanding += 1
        self._wake()

    def take(self, key: int) -> Result | Lost[Task]:
        """Wait for a submitted task and return its result. Raises what `function` raised for any task."""
        with self._condition:
            self._wanted = key
            self._wake()
            self._wait_for(lambda: key in self._done)
            return self._taken(key)

    def take_any(self) -> tuple[int, Result | Lost[Task]]:
        """Wait for whichever task ends first and return its key and result. Raises as `take` does."""
        with self._condition:
            self._wait_for(lambda: bool(self._done))
            key = next(iter(self._done))
            return key, self._taken(key)

    def close(self) -> None:
        """Stop the processes at once; what they were working on is dropped."""
        self._closing = True
        self._wake()
        self._thread.join()
        for worker in self._workers:
            _stop(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_for(self, is_there: Callable[[], bool]) -> None:
        while not is_there() and self._problem is None:
            self._condition.wait(timeout=1.0)  # a timeout, so that Ctrl-C is noticed
        if self._problem is not None:
            raise self._problem

    def _taken(self, key: int) -> Result | Lost[Task]:
        result, n_bytes = self._done.pop(key)
        self._n_outstanding -= 1
        self._ready_bytes -= n_bytes
        self._wake()
        return result

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send_bytes(b"")

    # What follows runs in the serving thread.

    def _serve(self) -> None:
        try:
            _hold_signals()
            self._workers += [self._start() for _ in range(self._n_workers)]
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
        now = time.monotonic()
        return min(max(min(deadlines, default=now) - now, 0.0), 60.0) if deadlines else 60.0

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
            return
        if kind == "failed":
            raise content
        job, worker.job, worker.n_served = worker.job, None, worker.n_served + 1
        assert job is not None
        if kind == "done":
            self._finish(job.key, worker.exchange.take(content), content)
        else:
            self._finish(job.key, Lost(job.task, kind, content))
        if worker.n_served >= RECYCLE_AFTER:
            self._replace(worker)

    def _finish(self, key: int, result: Result | Lost[Task], parcel: Parcel | None = None) -> None:
        n_bytes = parcel.n_bytes if parcel else 0
        with self._condition:
            self._done[key] = result, n_bytes
            self._ready_bytes += n_bytes
            self._condition.notify_all()

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.job is None and self._may_work():
                worker.job = self._todo.popleft()
                worker.deadline = time.monotonic() + self._timeout_seconds
                try:
                    worker.connection.send(worker.job.task)
                except OSError:
                    continue  # it died idle: its connection reports that next

    def _may_work(self) -> bool:
        # The task that `take` waits for is always worked on, else full memory would wait for itself.
        return bool(self._todo) and (self._ready_bytes < READY_BYTES or self._todo[0].key == self._wanted)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if now >= worker.deadline and not worker.ready:
                raise ChildProcessError(f"a worker process did not start within {START_SECONDS:.0f} s")
            if now >= worker.deadline and worker.job is not None:
                self._lost(worker, "timeout", f"not finished within {self._timeout_seconds:g} s")

    def _lost(self, worker: _Worker, reason: str, message: str) -> None:
        if not worker.ready:
            raise ChildProcessError(
                f"a worker process ended while it started ({message}); --jobs 0 or 1 works without any"
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
            self._finish(job.key, Lost(job.task, reason, f"{message}, {N_TRIES} times"))

    def _replace(self, worker: _Worker) -> None:
        _stop(worker)
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        exchange = Exchange.create()
        ours, theirs = Pipe()
        arguments = (theirs, exchange, self._function, self.mark)
        process = self._forks.start(*arguments) if self._forks is not None else _started(*arguments)
        theirs.close()
        return _Worker(process, ours, exchange, time.monotonic() + START_SECONDS)


def _started(*arguments: Any) -> BaseProcess:
    """Return a new interpreter that serves."""
    from joblib.externals.loky.backend import get_context

    process: BaseProcess = get_context("loky").Process(target=serve, args=arguments, daemon=True)
    process.start()
    return process


def _hold_signals() -> None:
    """Keep Ctrl-C and SIGTERM from this thread and from processes while they start; else each shows a traceback."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _stop(worker: _Worker) -> None:
    _kill(worker.process)
    worker.process.join()
    worker.connection.close()
    worker.exchange.close()


def _kill(process: BaseProcess | ForkedProcess) -> None:
    if isinstance(process, BaseProcess) and sys.platform == "win32":
        process.terminate()
    elif process.exitcode is None and process.pid is not None:
        import os

        with contextlib.suppress(ProcessLookupError):  # a forked one whose server is gone
            os.kill(process.pid, signal.SIGKILL)


def _last_words(worker: _Worker) -> str:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    if code is not None and code < 0:
        return f"its process died by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"
