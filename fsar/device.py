"""Compute devices by name, and torch's global generators, which dropout and weight initialisation draw from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fsar.errors import InputError

if TYPE_CHECKING:
    import torch

_SEEDING = threading.RLock()
"""The generators belong to the whole process: threads that seed them take turns."""


def resolve_device(name: str) -> torch.device:
    """Return the device; `auto` is a GPU where there is one. Raises InputError for what this machine lacks."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}: write cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported: write cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} asked for, but this machine has no CUDA device (or torch no CUDA support)")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {name!r} asked for, but this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def compute_capability(device: torch.device) -> tuple[int, int]:
    """Return the generation of an NVIDIA GPU, such as (8, 0); (0, 0) for any other device."""
    import torch

    is_nvidia = device.type == "cuda" and torch.version.cuda is not None  # AMD's are called cuda, too
    return torch.cuda.get_device_capability(device) if is_nvidia else (0, 0)


def pinned(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Return a tensor of the CPU where a GPU can fetch it by itself; as it is for other devices."""
    import torch

    return tensor.pin_memory() if torch.device(device).type == "cuda" else tensor


def sent(tensor: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device, or on its way there: nobody waits for what a GPU does before.

    A plain `to` copies in the order of the GPU's work and returns when it is done.
    """
    return pinned(tensor, device).to(device, non_blocking=True)


@contextmanager
def forked_generators(device: str | torch.device = "cpu") -> Iterator[None]:
    """Restore torch's generators, of the CPU and of `device`, after the block."""
    import torch

    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make weight initialisation inside the block depend on `seed` alone; torch's generator is restored after it."""
    with _SEEDING, forked_generators():
        seed_generators(seed)
        yield


def seed_generators(seed: int, device: str | torch.device = "cpu") -> None:
    """Set torch's generators of the CPU and of `device`, and no others."""
    import torch

    torch.default_generator.manual_seed(seed)
    device = torch.device(device)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
