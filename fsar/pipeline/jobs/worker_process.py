"""The other side of a worker process: serve one task after the other until the parent is gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from fsar.allocator import keep_big_buffers
from fsar.files import mark_temporaries
from fsar.pipeline.jobs.exchange import Exchange, NoRoomError, Parcel
from fsar.pipeline.jobs.places import Desk, PlacedParcel
from fsar.pipeline.video.memory import frames_in

LARGE_BYTES = 1 << 30
"""Above this, arrays that find no room are the fault of their task."""


def serve(
    connection: Connection,
    exchange_path: str,
    places: tuple[str, int] | None,
    function: Callable[[Any], object],
    mark: str,
) -> None:
    """Serve tasks until the other end closes: the main function of a worker process.

    `places` are path and room in bytes of shared places, if there are any. Unfinished files that it leaves carry `mark`
    in their names.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    keep_big_buffers()
    mark_temporaries(mark)
    exchange, desk = Exchange.open(exchange_path), Desk(*places) if places else None
    connection.send(("ready", None))
    if hasattr(signal, "pthread_sigmask"):  # the parent holds signals off while processes start
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    while True:
        try:
            task, place = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if desk is not None and place is not None:
                desk.turn_to(place)
            connection.send(_answer(function, task, exchange, desk if place is not None else None))
        except BrokenPipeError:
            return


def _answer(function: Callable[[Any], object], task: object, exchange: Exchange, desk: Desk | None) -> tuple[str, Any]:
    """Return what to send: kind and content. Arrays go to the desk if there is one and it has room."""
    try:
        return "done", _packed(function, task, exchange, desk)
    except NoRoomError as error:
        if error.n_bytes > LARGE_BYTES:
            size = f"{error.n_bytes / 1e9:.1f} GB"
            return "too-large", f"{size} of frames find no room ({error.strerror}): convert it to a smaller size"
        where = exchange.path.parent
        return "failed", OSError(error.errno, f"no room for decoded frames in {where}: {error.strerror}")
    except Exception as error:
        error.__cause__ = error.__context__ = None  # may not travel, and the line is in the note
        error.add_note(_where(error))
        return "failed", error


def _packed(
    function: Callable[[Any], object], task: object, exchange: Exchange, desk: Desk | None
) -> Parcel | PlacedParcel:
    if desk is None:
        return exchange.put(function(task))
    with frames_in(desk.empty):
        value = function(task)
    return desk.put(value) or exchange.put(value)


def _where(error: Exception) -> str:
    import traceback

    return f"in a worker process:\n{''.join(traceback.format_exception(error))}"


def _end_with(parent: int) -> None:
    """End this process soon after its parent is gone, also when a task hangs it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
