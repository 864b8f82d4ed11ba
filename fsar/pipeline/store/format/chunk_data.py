"""The numbers of one chunk on their way to disk: checked, padded to full size, failed rows as NaN."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.format.layout import STATUS_FAILED, STATUS_OK, ArraySpec, Chunk, Layout

Array = np.ndarray[Any, Any]


@dataclass
class ChunkData:
    """What an encoder hands over for the R rows of a chunk."""

    features: Mapping[str, Array]
    """Tap -> (R, V, T, *shape), in the tap's dtype."""
    frame_index: Array
    """(R, V, T) int32, -1 where there is none."""
    frame_time: Array
    """(R, V, T) float64 seconds."""
    status: Array
    """(R,) uint8: STATUS_OK or STATUS_FAILED."""
    n_frames: Array
    """(R,) int32 frames in the video."""
    source_sha256: Array
    """(R, 32) uint8 hash of the video file."""
    failures: list[tuple[int, str, str]] = field(default_factory=list)
    """(row of the store, reason, message) of every failed row."""

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by their names in the store."""
        named = {f"features/{tap}": array for tap, array in self.features.items()}
        return named | {
            "frame_index": self.frame_index,
            "frame_time": self.frame_time,
            "status": self.status,
            "n_frames": self.n_frames,
            "source_sha256": self.source_sha256,
        }


def checked_arrays(layout: Layout, chunk: Chunk, data: ChunkData) -> dict[str, Array]:
    """Return the chunk's arrays by name, (R, *tail) little-endian, failed rows NaN.

    Raises:
        InputError: an array is missing or left over, has another shape, or would lose precision; a status is neither
            OK nor failed; failures and failed rows do not agree.
    """
    specs, given = layout.arrays(), data.arrays()
    if given.keys() != specs.keys():
        odd = sorted(given.keys() ^ specs.keys())
        raise InputError(f"a chunk must have the arrays of its store, missing or left over: {', '.join(odd)}")
    arrays = {name: _checked(specs[name], given[name], len(chunk.rows)) for name in specs}
    failed = np.flatnonzero(arrays["status"] == STATUS_FAILED)
    if not np.isin(arrays["status"], (STATUS_OK, STATUS_FAILED)).all():
        raise InputError(f"status must be {STATUS_OK} (ok) or {STATUS_FAILED} (failed) in every committed row")
    if {row for row, *_ in data.failures} != {chunk.rows[int(row)] for row in failed}:
        raise InputError("failures must name exactly the rows with status failed, by their row in the store")
    if failed.size:
        for name in layout.taps:
            arrays[f"features/{name}"] = _with_nan(arrays[f"features/{name}"], failed)
    return arrays


def _checked(spec: ArraySpec, array: Array, n_rows: int) -> Array:
    array = np.asarray(array)
    if array.shape != (n_rows, *spec.tail):
        raise InputError(f"{spec.name} must have shape {(n_rows, *spec.tail)}, got {array.shape}")
    if not np.can_cast(array.dtype, spec.numpy_dtype, "safe" if spec.name.startswith("features/") else "same_kind"):
        raise InputError(f"{spec.name} must be {spec.dtype}, got {array.dtype}: convert it, knowing what is lost")
    return np.ascontiguousarray(array, dtype=spec.numpy_dtype).reshape(array.shape)


def _with_nan(array: Array, rows: Array) -> Array:
    array = array.copy()
    array[rows] = np.nan
    return array


def padded(spec: ArraySpec, array: Array, before: Array | None, chunk_rows: int) -> Array:
    """Return the full chunk: rows stored `before`, these rows, and fill values up to `chunk_rows`."""
    n_before = 0 if before is None else len(before)
    if n_before == 0 and len(array) == chunk_rows:
        return array
    full = np.full((chunk_rows, *spec.tail), spec.fill, spec.numpy_dtype)
    if before is not None:
        full[:n_before] = before
    full[n_before : n_before + len(array)] = array
    return full
