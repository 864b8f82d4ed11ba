"""Decoded clips to features on one device: prepare, copy, run the backbone, copy back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fsar.device import resolve_device
from fsar.pipeline.backbones.half_weights import cast_weights
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.encode.lanes import Lanes
from fsar.pipeline.encode.precision import computing, half_of, require_precision
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.encode.staging import Item, Staging
from fsar.pipeline.pixels.prepare import prepare

if TYPE_CHECKING:
    import torch

Features = dict[str, npt.NDArray[np.floating[Any]]]
GPU_DEPTH = 3
"""Batches in flight on a GPU: one is computed, one is prepared, and one more, for a video that comes late."""


class Pending(Protocol):
    """Features that may still be on their way."""

    def result(self) -> Features:
        """Wait and return tap -> (n_items, T, *shape)."""
        ...


class Forward:
    """Run a backbone over batches of clips as a recipe says.

    The slots of a failed video are filled with black frames: a batch keeps its shape, so that the numbers of the other
    videos in it do not depend on whether their neighbour could be decoded.

    Raises:
        InputError: no such device, or one that cannot compute with the precision of the recipe.
    """

    def __init__(self, extractor: TapExtractor, recipe: Recipe, device: str) -> None:
        import torch

        self.device = resolve_device(device)
        require_precision(recipe.precision, self.device)
        self._extractor, self._recipe, self._image = extractor, recipe, recipe.image
        self._weights_dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        self._out_dtype = getattr(torch, recipe.dtype)
        module = extractor.backbone.module.to(self.device, self._weights_dtype)
        if recipe.clip is None:
            module.to(memory_format=torch.channels_last)
        if (half := half_of(recipe.precision)) is not None:
            cast_weights(extractor, half)
        self._lanes = Lanes() if self.device.type == "cpu" else None
        self.depth = self._lanes.n_lanes + 1 if self._lanes is not None else GPU_DEPTH
        self.n_threads = self._lanes.n_cores if self._lanes is not None else torch.get_num_threads()
        self._staging = Staging(self.device, self.depth) if self.device.type == "cuda" else None
        self._copies: Any = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def start(self, items: Sequence[Item]) -> Pending:
        """Begin a batch and return before it is done. `depth` batches may be on their way; more only wait."""
        if self._lanes is not None:
            return self._lanes.submit(self._features, items)
        return self._start_cuda(items)

    def close(self) -> None:
        """Drop batches that have not begun; wait for those that have."""
        if self._lanes is not None:
            self._lanes.close()

    def _features(self, items: Sequence[Item]) -> Features:
        import torch

        with torch.inference_mode():
            features = {tap: values.cpu().numpy() for tap, values in self._on_device(self._batch(items)).items()}
        return _per_item(features, self._recipe.n_slots)

    def _start_cuda(self, items: Sequence[Item]) -> Pending:
        import torch

        with torch.inference_mode():
            return self._queue_on_gpu(items)

    def _queue_on_gpu(self, items: Sequence[Item]) -> Pending:
        import torch

        with torch.cuda.stream(self._copies):  # the next batch is copied and resized while the last one is computed
            batch = self._batch(items)
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self._copies)
        batch.record_stream(compute)
        host = {}
        for tap, values in self._on_device(batch).items():
            host[tap] = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host[tap].copy_(values, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(compute)
        return _OnDevice(host, done, self._recipe.n_slots)

    def _batch(self, items: Sequence[Item]) -> torch.Tensor:
        import torch

        n_frames, size = self._recipe.n_frames_seen, self._image.size
        shape = (len(items) * n_frames, 3, size, size)
        batch = torch.empty(shape, device=self.device, memory_format=torch.channels_last)
        if self._staging is not None:
            self._staging.prepare(items, self._image, batch)
            return batch
        for (frames, view), place in zip(items, torch.split(batch, n_frames), strict=True):
            if frames is None:
                place.zero_()
            else:
                place.copy_(prepare(frames, self._image, view))
        return batch

    def _on_device(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if self._recipe.clip is not None:
            batch = batch.reshape(-1, self._recipe.clip["length"], *batch.shape[1:])  # (n_clips, length, 3, size, size)
        with computing(self._recipe.precision, self.device.type):
            features = self._extractor(batch.to(self._weights_dtype))
        return {tap: values.float().to(self._out_dtype) for tap, values in features.items()}


class _OnDevice:
    def __init__(self, host: dict[str, torch.Tensor], done: torch.cuda.Event, n_slots: int) -> None:
        self._host, self._done, self._n_slots = host, done, n_slots

    def result(self) -> Features:
        self._done.synchronize()
        return _per_item({tap: values.numpy() for tap, values in self._host.items()}, self._n_slots)


def _per_item(features: Features, n_slots: int) -> Features:
    return {tap: values.reshape(-1, n_slots, *values.shape[1:]) for tap, values in features.items()}
