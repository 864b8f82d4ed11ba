"""One chunk while it fills: its batches, its arrays, its failures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fsar.pipeline.encode.clip_task import DecodedClip, DecodeFailure
from fsar.pipeline.encode.recipe import Recipe

if TYPE_CHECKING:
    from fsar.pipeline.encode.reuse import ReusedRows
    from fsar.pipeline.store import Chunk, ChunkData, TapSpec

Pair = tuple[int, int]
"""Row of the store and view."""


@dataclass
class ChunkWork:
    """A claimed chunk. `n_views` says for each of its rows how many views are computed; one view fills all."""

    chunk: Chunk
    recipe: Recipe
    taps: Mapping[str, TapSpec]
    n_views: Sequence[int]
    data: ChunkData = field(init=False)
    reused: set[int] = field(default_factory=set)
    """Rows that were taken from another store."""

    def __post_init__(self) -> None:
        self.data = self._empty(len(self.n_views))

    def batches(self, n_clips: int) -> list[list[Pair]]:
        """Return the (row, view) pairs of each forward pass, at most `n_clips`.

        Fixed by the chunk and the batch size alone: a rerun repeats them.
        """
        rows = zip(self.chunk.rows, self.n_views, strict=True)
        pairs = [(row, view) for row, n_views in rows for view in range(n_views)]
        edges = np.linspace(0, len(pairs), -(-len(pairs) // n_clips) + 1).round().astype(int)
        return [pairs[first:last] for first, last in itertools.pairwise(edges)]

    def take(self, found: ReusedRows) -> None:
        """Take rows as another store has them."""
        places = [self._place(row) for row in found.rows]
        for name, array in self.data.arrays().items():
            array[places] = found.arrays[name]
        self.reused |= set(found.rows)

    def note(self, row: int, clip: DecodedClip | DecodeFailure) -> None:
        """Write down what decoding a video gave."""
        from fsar.pipeline.store import STATUS_OK

        if isinstance(clip, DecodeFailure):
            self._fail(row, clip.reason, clip.message)
            return
        place, data = self._place(row), self.data
        data.status[place], data.n_frames[place] = STATUS_OK, clip.n_frames
        data.frame_index[place], data.frame_time[place] = clip.frame_index, clip.frame_time  # one view fills all
        data.source_sha256[place] = np.frombuffer(clip.sha256, np.uint8)

    def put(self, pairs: Sequence[Pair], features: Mapping[str, npt.NDArray[np.floating[Any]]]) -> int:
        """Take in the features of a batch, tap -> (n_pairs, T, *shape); return how many videos they made fail."""
        from fsar.pipeline.store import STATUS_OK

        n_rejected = 0
        for index, (row, view) in enumerate(pairs):
            if self.data.status[self._place(row)] != STATUS_OK or row in self.reused:
                continue
            odd = [tap for tap, values in features.items() if not np.isfinite(values[index]).all()]
            if odd:
                self._reject(row, odd[0])
                n_rejected += 1
                continue
            views = slice(None) if self.n_views[self._place(row)] == 1 else view
            for tap, values in features.items():
                self.data.features[tap][self._place(row), views] = values[index]
        return n_rejected

    def _reject(self, row: int, tap: str) -> None:
        """Fail a video whose features do not fit the stored type; the store turns its row into NaN."""
        numbers = f"{self.recipe.dtype} with precision {self.recipe.precision}"
        self._fail(row, "non-finite", f"tap {tap} is not finite in {numbers}; store float32 or use another precision")

    def _fail(self, row: int, reason: str, message: str) -> None:
        from fsar.pipeline.store import STATUS_FAILED

        self.data.status[self._place(row)] = STATUS_FAILED
        self.data.failures.append((row, reason, message))

    def _place(self, row: int) -> int:
        return row - self.chunk.rows.start

    def _empty(self, n_rows: int) -> ChunkData:
        from fsar.pipeline.store import ChunkData

        leading = (n_rows, self.recipe.n_views, self.recipe.n_slots)
        return ChunkData(
            features={tap: np.full((*leading, *spec.shape), np.nan, spec.dtype) for tap, spec in self.taps.items()},
            frame_index=np.full(leading, -1, np.int32),
            frame_time=np.full(leading, np.nan, np.float64),
            status=np.zeros(n_rows, np.uint8),
            n_frames=np.zeros(n_rows, np.int32),
            source_sha256=np.zeros((n_rows, 32), np.uint8),
            failures=[],
        )
