"""How an engine is set up, and what it says of a run."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass

from fsar.errors import InputError
from fsar.pipeline.encode.clip_task import Decode, decode_task

MAX_BATCH = 64
CPU_BATCH_PIXELS = 16 * 224**2
"""16 frames of 224 pixels a side, 64 from 112 down: on two cores no slower than 64 at 224, at half the memory."""
MAX_DEFAULT_JOBS = 16


def default_jobs() -> int:
    """Return how many decode processes there are unless somebody says otherwise: one per core, up to 16."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(n_cores, MAX_DEFAULT_JOBS)


@dataclass(frozen=True)
class EngineOptions:
    """How the work is done; nothing here decides what the numbers mean."""

    device: str = "auto"
    batch_size: int | None = None
    """Frames per forward pass; None takes as many as the device works best with."""
    jobs: int = 1
    """Decode processes; 0 decodes in the calling process."""
    timeout_seconds: float = 120.0
    """Longest time one video may take to decode."""
    decode: Decode = decode_task
    """What runs in the decode processes; must be importable there by name."""

    def __post_init__(self) -> None:
        if (self.batch_size is not None and self.batch_size < 1) or self.jobs < 0 or self.timeout_seconds <= 0:
            raise InputError("batch size must be 1 or more, jobs 0 or more, the timeout more than 0 seconds")

    def frames_per_batch(self, device: str, size: int) -> int:
        """Return the frames of a forward pass on a kind of device ("cpu", "cuda") for frames of `size` pixels a side.

        A CPU is as fast or faster when the activations of a batch stay near its caches, at half the memory.
        """
        if self.batch_size is not None:
            return self.batch_size
        return MAX_BATCH if device != "cpu" else min(max(CPU_BATCH_PIXELS // size**2, 1), MAX_BATCH)


@dataclass
class EngineReport:
    """What one run did and where its time went."""

    n_ok: int = 0
    n_failed: int = 0
    n_reused: int = 0
    """Videos taken from other stores."""
    n_frames: int = 0
    """Frames through the backbone."""
    seconds: float = 0.0
    waiting_for_decode_seconds: float = 0.0
    waiting_for_write_seconds: float = 0.0
    decode_cpu_seconds: float = 0.0
    """Processor time of decoding, summed over processes."""
    peak_memory_bytes: int = 0
    """Of this process."""

    def shares(self) -> dict[str, float]:
        """Return the parts of the time spent waiting for decode, computing and waiting for writes; they sum to 1."""
        total = max(self.seconds, 1e-9)
        decode, write = self.waiting_for_decode_seconds / total, self.waiting_for_write_seconds / total
        return {"decode": decode, "compute": max(1.0 - decode - write, 0.0), "write": write}


def peak_memory_bytes() -> int:
    """Return the most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
