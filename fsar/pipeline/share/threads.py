"""Many requests at once, in threads that an interruption need not wait for."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

GRACE_SECONDS = 2.0
"""How long requests in hand may take to notice that they are to stop."""
Item = TypeVar("Item")
T = TypeVar("T")


def in_threads(
    action: Callable[[Item], T], items: Sequence[Item], *, n_threads: int, stop: threading.Event | None = None
) -> list[T]:
    """Return what an action gives for each item, in their order. The first error, or Ctrl-C, ends it.

    `stop` is set then, for actions that look at it. Those that are waiting for a silent server are left to themselves:
    the threads are daemons, so a program that ends does not wait for them.
    """
    stop, results = stop or threading.Event(), dict[int, T]()
    waiting, ended = iter(range(len(items))), SimpleQueue[BaseException | None]()

    def work() -> None:
        try:
            for number in waiting:
                if stop.is_set():
                    break
                results[number] = action(items[number])
            ended.put(None)
        except BaseException as error:
            ended.put(error)

    threads = [threading.Thread(target=work, name="fsar-fetch", daemon=True) for _ in items[:n_threads]]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            error = ended.get()
            if error is not None:
                raise error
    except BaseException:
        stop.set()
        _wait(threads)
        raise
    return [results[number] for number in range(len(items))]


def _wait(threads: Sequence[threading.Thread]) -> None:
    until = time.monotonic() + GRACE_SECONDS
    with suppress(KeyboardInterrupt):  # a second one: at once, then
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
