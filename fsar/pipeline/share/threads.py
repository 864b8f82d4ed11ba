"""Many requests at once, in threads that an interruption need not wait for."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

GRACE_SECONDS = 2.0
"""How long requests in hand may take to notice that they are to stop."""
LOOK_SECONDS = 1.0
"""How often threads from which nothing comes are looked at: are they alive?"""
Item = TypeVar("Item")
T = TypeVar("T")


def in_threads(
    action: Callable[[Item], T], items: Sequence[Item], *, n_threads: int, stop: threading.Event | None = None
) -> list[T]:
    """Return what an action gives for each item, in their order. The first error, or Ctrl-C, ends it.

    `stop` is set then, for actions that look at it. Those that are waiting for a silent server are left to themselves:
    the threads are daemons, so a program that ends does not wait for them. A thread that could not begin (no memory, a
    tracer's fault) leaves its items to the others.
    """
    stop, waiting = stop or threading.Event(), iter(range(len(items)))
    ended = SimpleQueue[tuple[int, T] | BaseException]()

    def work() -> None:
        try:
            for number in waiting:
                if stop.is_set():
                    break
                ended.put((number, action(items[number])))
        except BaseException as error:
            ended.put(error)

    threads = [threading.Thread(target=work, name="fsar-fetch", daemon=True) for _ in items[:n_threads]]
    for thread in threads:
        thread.start()
    try:
        results = dict(_received(ended, threads, len(items)))
    except BaseException:
        stop.set()
        _wait(threads)
        raise
    return [results[number] for number in range(len(items))]


def _received(
    ended: SimpleQueue[tuple[int, T] | BaseException], threads: Sequence[threading.Thread], n_items: int
) -> Iterator[tuple[int, T]]:
    n_received = 0
    while n_received < n_items:
        alive = any(thread.is_alive() for thread in threads)  # asked before: what the last one put is not missed
        try:
            result = ended.get(timeout=LOOK_SECONDS if alive else 0)
        except Empty:
            if alive:
                continue
            raise RuntimeError("threads ended before their work was done") from None
        if isinstance(result, BaseException):
            raise result
        n_received += 1
        yield result


def _wait(threads: Sequence[threading.Thread]) -> None:
    until = time.monotonic() + GRACE_SECONDS
    with suppress(KeyboardInterrupt):  # a second one: at once, then
        for thread in threads:
            thread.join(max(until - time.monotonic(), 0.0))
