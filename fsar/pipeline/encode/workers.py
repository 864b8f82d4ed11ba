"""Decoding ahead of the network in worker processes."""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager
from functools import partial

from fsar.pipeline.encode.clip_task import ClipTask, Decode, DecodedClip, DecodeFailure, attempt, decode_task
from fsar.pipeline.jobs.fork_server import forking
from fsar.pipeline.jobs.pool import Lost, WorkerPool


class DecodePool:
    """Decode in `n_workers` processes, in the order of submission, with a deadline for each video.

    A video whose process hangs or dies is tried once more and then reported as `timeout` or `crashed`. `take` blocks
    until its video is there.
    """

    def __init__(self, n_workers: int, *, decode: Decode = decode_task, timeout_seconds: float = 120.0) -> None:
        self.pool: WorkerPool[ClipTask, DecodedClip | DecodeFailure] = WorkerPool(
            partial(attempt, decode), n_workers, timeout_seconds=timeout_seconds
        )

    @property
    def n_outstanding(self) -> int:
        """Videos submitted and not yet taken."""
        return self.pool.n_outstanding

    def submit(self, key: int, task: ClipTask) -> None:
        """Queue a video; does not block."""
        self.pool.submit(key, task)

    def take(self, key: int) -> DecodedClip | DecodeFailure:
        """Wait for a submitted video and return it. Raises OSError when there is no room for frames."""
        result = self.pool.take(key)
        if isinstance(result, Lost):
            return DecodeFailure(result.reason, f"{result.task.path}: {result.message}")
        return result

    def close(self) -> None:
        """Stop the processes at once; what they were decoding is dropped."""
        self.pool.close()


def forked_decoders() -> AbstractContextManager[None]:
    """Let the processes of this block's pools be forks of this one, with torch, where that can be (see `forking`)."""
    import torch  # noqa: F401  # once, for all of them

    return forking(_import_decoding)


def _import_decoding() -> None:
    import torch

    for name in ("av", "fsar.pipeline.packs.reader", "fsar.pipeline.video.decode"):
        importlib.import_module(name)
    torch.set_num_threads(1)  # forks of forks have no threads, and need none
