"""The other side of a worker process: serve one task after the other until the parent is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from fsar.allocator import keep_big_buffers
from fsar.files import mark_temporaries
from fsar.pipeline.jobs.exchange import Exchange, NoRoomError

LARGE_BYTES = 1 << 30
"""Above this, arrays that find no room are the fault of their task."""


def serve(connection: Connection, exchange: Exchange, function: Callable[[Any], object], mark: str) -> None:
    """Serve tasks until the other end closes: the main function of a worker process.

    Unfinished files that it leaves carry `mark` in their names.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    keep_big_buffers()
    mark_temporaries(mark)
    with contextlib.suppress(EOFError, OSError):  # until the parent is gone
        connection.send(("ready", None))
        if hasattr(signal, "pthread_sigmask"):  # the parent holds signals off while processes start
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        while True:
            connection.send(_answer(function, connection.recv(), exchange))


def _answer(function: Callable[[Any], object], task: object, exchange: Exchange) -> tuple[str, Any]:
    try:
        return "done", exchange.put(function(task))
    except NoRoomError as error:
        if error.n_bytes > LARGE_BYTES:
            size = f"{error.n_bytes / 1e9:.1f} GB"
            return "too-large", f"{size} of frames find no room ({error.strerror}): convert it to a smaller size"
        return "failed", OSError(error.errno, f"no room for decoded frames in {exchange.folder}: {error.strerror}")
    except Exception as error:
        error.__cause__ = error.__context__ = None  # may not travel, and the line is in the note
        error.add_note(_where(error))
        return "failed", error


def _where(error: Exception) -> str:
    import traceback

    return f"in a worker process:\n{''.join(traceback.format_exception(error))}"


def _end_with(parent: int) -> None:
    """End this process soon after its parent is gone, also when a task hangs it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
