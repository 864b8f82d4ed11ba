"""Forward passes side by side on a CPU: one batch per core instead of all cores on one batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fsar.allocator import keep_big_buffers

T = TypeVar("T")

MAX_LANES = 16
"""Batches computed at once, so that memory stays bounded on machines with many cores."""


class Lanes:
    """Threads that each run whole batches with a core of their own.

    While decode processes want the same cores, threads that share one batch wait for the slowest of them at the end of
    every operation, and burn their time slices doing so (a small network took six times its processor time that way).
    Separate batches never wait for each other, and one thread per batch makes the result independent of the number of
    cores. Beyond `MAX_LANES` cores a lane has several threads. Until `close`, other torch code of this process
    runs with a lane's number of threads, too.
    """

    def __init__(self) -> None:
        import torch

        self.n_cores = torch.get_num_threads()  # what the user or the scheduler grants
        self.n_lanes = min(self.n_cores, MAX_LANES)
        torch.set_num_threads(max(self.n_cores // self.n_lanes, 1))
        keep_big_buffers()
        self._executor = ThreadPoolExecutor(self.n_lanes, thread_name_prefix="fsar-forward")

    def submit(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Queue a batch for the next free lane."""
        return self._executor.submit(function, *arguments)

    def close(self) -> None:
        """Drop what has not begun, wait for the rest, and give torch its threads back."""
        import torch

        self._executor.shutdown(cancel_futures=True)
        torch.set_num_threads(self.n_cores)
