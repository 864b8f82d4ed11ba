"""Batches of raw frames on their way to a device: one pinned buffer, one copy, one resize for all clips alike."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.pixels.prepare import View, prepare

if TYPE_CHECKING:
    import torch

    from fsar.pipeline.pixels.spec import ImageSpec

Frames = npt.NDArray[np.uint8]
Item = tuple[Frames | None, View]
"""Frames (T, H, W, 3) of one view of a video, or None for a video that failed, and how to crop and colour them."""


def alike(items: Sequence[Item]) -> list[list[int]]:
    """Return the places of clips that one resize and one crop serve: of one size and view, colours as decoded."""
    groups: dict[Any, list[int]] = {}
    for place, (frames, view) in enumerate(items):
        if frames is not None:
            key = (frames.shape, view) if view.jitter is None else place
            groups.setdefault(key, []).append(place)
    return list(groups.values())


class Staging:
    """A ring of pinned buffers through which raw frames reach a device while it computes.

    Each batch is copied once by the processor, into a buffer, and once to the device, where the clips lie side by side.
    A buffer is written again only when its copy has arrived.
    """

    def __init__(self, device: torch.device, n_buffers: int) -> None:
        self._device = device
        self._ring: deque[_Buffer] = deque(_Buffer() for _ in range(n_buffers))

    def prepare(self, items: Sequence[Item], spec: ImageSpec, batch: torch.Tensor) -> None:
        """Fill a batch (N * T, 3, size, size) on the device with prepared clips; those of failed videos are black."""
        places = batch.view(len(items), -1, *batch.shape[1:])
        groups = alike(items)
        for place, (frames, _) in enumerate(items):
            if frames is None:
                places[place].zero_()
        frames_of = self._to_device([[items[place][0] for place in group] for group in groups])
        for group, raw in zip(groups, frames_of, strict=True):
            view = items[group[0]][1]
            prepared = prepare(raw, spec, view).view(len(group), *places.shape[1:])
            if group[-1] - group[0] + 1 == len(group):  # side by side, as clips of one dataset mostly are
                places[group[0] : group[-1] + 1].copy_(prepared)
                continue
            for place, clip in zip(group, prepared, strict=True):
                places[place].copy_(clip)

    def _to_device(self, groups: Sequence[Sequence[Frames | None]]) -> list[torch.Tensor]:
        """Return the frames of each group, (n * T, H, W, 3), as parts of one tensor on the device."""
        clips = [[clip for clip in group if clip is not None] for group in groups]
        buffer = self._ring[0]
        self._ring.rotate(-1)
        host = buffer.empty(sum(clip.nbytes for group in clips for clip in group), pinned=self._device.type == "cuda")
        ends = np.cumsum([0, *(sum(clip.nbytes for clip in group) for group in clips)])
        for group, start in zip(clips, ends, strict=False):
            for number, clip in enumerate(group):  # all of one size
                host.numpy()[start + number * clip.nbytes :][: clip.nbytes] = clip.reshape(-1)
        raw = buffer.send(host, self._device)
        parts = zip(clips, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        return [raw[start:end].view(-1, *group[0].shape[1:]) for group, start, end in parts]


@dataclass
class _Buffer:
    memory: torch.Tensor | None = None
    arrived: torch.cuda.Event | None = None
    """When what was sent last lies on the device."""

    def empty(self, n_bytes: int, *, pinned: bool) -> torch.Tensor:
        """Return memory that nothing on its way to the device lies in; it grows and never shrinks."""
        import torch

        if self.arrived is not None:
            self.arrived.synchronize()
        if self.memory is None or len(self.memory) < n_bytes:
            self.memory = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=pinned)
        return self.memory[:n_bytes]

    def send(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return a copy on the device, on its way in the current stream."""
        import torch

        sent = torch.empty(host.shape, dtype=host.dtype, device=device)
        sent.copy_(host, non_blocking=True)
        if device.type == "cuda":
            self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.arrived.record(torch.cuda.current_stream(device))
        return sent
