"""Worker processes forked from a process that has imported what they need: they start in milliseconds, torch and all.

That process is itself forked from this one, early, while there are no other threads that a child would miss; so nothing
is imported twice. It does nothing but fork and ends with this process, however that ends; its workers end with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

from fsar.pipeline.jobs.exchange import Exchange
from fsar.pipeline.jobs.worker_process import serve

MAX_REQUEST_BYTES = 1 << 16
_running: list[ForkServer] = []


class ForkServer:
    """The side of the process that asks for workers. Use `forking` to begin one."""

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # else a fork prints it again
        with _holding_signals():  # until it ignores them, it would take them for this process
            self._pid = os.fork()
            if self._pid == 0:
                self._socket.close()
                _be_server(theirs, prepare)
        theirs.close()

    def start(
        self, connection: Connection, exchange: Exchange, function: Callable[[Any], object], mark: str
    ) -> ForkedProcess:
        """Start a process that runs `serve` with these arguments.

        Raises:
            ChildProcessError: the server is gone.
            OSError: the system lets it start no more processes.
        """
        request = pickle.dumps(("start", (exchange.folder, pickle.dumps(function), mark)))
        try:
            socket.send_fds(self._socket, [request], [connection.fileno(), exchange.descriptor])
            answer = self._answer()
        except OSError as error:
            raise ChildProcessError("the process that starts worker processes was killed: run again") from error
        if isinstance(answer, OSError):
            raise answer
        return ForkedProcess(answer, self)

    def wait(self, pid: int, timeout_seconds: float | None) -> int | None:
        """Wait for a process to end and return its exit code, -n for signal n; None when it takes longer."""
        self._socket.send(pickle.dumps(("wait", (pid, timeout_seconds))))
        code: int | None = self._answer()
        return code

    def close(self) -> None:
        """End the server; processes that it started end soon after."""
        self._socket.close()
        os.kill(self._pid, signal.SIGKILL)  # also one that was stopped
        os.waitpid(self._pid, 0)

    def _answer(self) -> Any:
        answer = self._socket.recv(MAX_REQUEST_BYTES)
        if not answer:
            raise ConnectionResetError("the server has ended")
        return pickle.loads(answer)


@dataclass
class ForkedProcess:
    """A process of a server, as much of `multiprocessing.Process` as a pool needs."""

    pid: int
    server: ForkServer = field(repr=False)
    exitcode: int | None = None

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for `timeout` seconds. Until then no other process has its number."""
        if self.exitcode is None:
            try:
                self.exitcode = self.server.wait(self.pid, timeout)
            except OSError:  # it ends with its server
                self.exitcode = -signal.SIGKILL


@contextmanager
def forking(prepare: Callable[[], None]) -> Iterator[None]:
    """Let pools that are made in this block fork their processes, after `prepare()` was called in a fork of this one.

    Only Linux can, and only where no other thread runs yet: else pools start theirs as ever.
    """
    if sys.platform != "linux" or threading.active_count() > 1 or _running:
        yield
        return
    _running.append(ForkServer(prepare))
    try:
        yield
    finally:
        _running.pop().close()


def fork_server() -> ForkServer | None:
    """Return the server of this process, if there is one."""
    return _running[0] if _running else None


@contextmanager
def _holding_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_server(requests: socket.socket, prepare: Callable[[], None]) -> NoReturn:
    """Fork a process for each request, until the other side is gone, and end this one."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _running.clear()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        prepare()
        with contextlib.suppress(ConnectionError):  # the other side was killed while it was being answered
            _serve_forks(requests)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _serve_forks(requests: socket.socket) -> None:
    processes: dict[int, BaseProcess] = {}
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 2)
        if not request:
            return
        kind, arguments = pickle.loads(request)
        if kind == "start":
            answer: int | OSError | None
            try:
                process = _forked(requests, descriptors, *arguments)
            except OSError as error:
                answer = error
            else:
                answer = process.pid
                processes[process.pid or 0] = process
            requests.send(pickle.dumps(answer))
        else:
            pid, timeout_seconds = arguments
            processes[pid].join(timeout_seconds)
            requests.send(pickle.dumps(processes[pid].exitcode))


def _forked(requests: socket.socket, descriptors: list[int], *arguments: Any) -> BaseProcess:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_work, args=(requests, *descriptors, *arguments), daemon=True)
    try:
        process.start()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return process


def _work(requests: socket.socket, connection: int, exchange: int, folder: str, function: bytes, mark: str) -> None:
    requests.close()
    with contextlib.closing(Connection(connection)) as open_connection:
        serve(open_connection, Exchange(exchange, folder), pickle.loads(function), mark)
