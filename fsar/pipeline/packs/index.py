"""The index of one shard: where each frame lies, and what it is of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError
from fsar.files import read_plain

OK, FAILED = 1, 2
MAX_INDEX_BYTES = 1 << 30
MAX_SIDE = 16_384
MAX_PIXELS = 1 << 26
"""Of one frame; what a decoder would have to hold in memory."""
MAX_JPEG_BYTES = 1 << 28


@dataclass(frozen=True)
class ShardIndex:
    """Arrays over the R rows of a shard and its F frames, rows in order, frames in order of time."""

    status: npt.NDArray[np.uint8]
    """(R,) 1 ok, 2 failed; a failed row has no frames."""
    n_frames: npt.NDArray[np.int32]
    """(R,) frames of the video itself."""
    source_sha256: npt.NDArray[np.uint8]
    """(R, 32) of the video file."""
    shape: npt.NDArray[np.int32]
    """(R, 2) height and width of the stored frames, pixels."""
    first: npt.NDArray[np.int64]
    """(R + 1,) frames first[r] .. first[r + 1] - 1 belong to row r."""
    frame_index: npt.NDArray[np.int32]
    """(F,) position of the frame in its video, from 0."""
    frame_time: npt.NDArray[np.float64]
    """(F,) seconds; NaN where the source has no times."""
    offset: npt.NDArray[np.int64]
    """(F + 1,) byte of the data file at which a frame begins; the next one begins where it ends."""
    crc32c: npt.NDArray[np.uint32]
    """(F,) of the frame's bytes."""

    def to_bytes(self) -> bytes:
        """Return a safetensors file; equal content, equal bytes."""
        from safetensors.numpy import save

        return save({name: np.ascontiguousarray(array) for name, array in asdict(self).items()})


_DTYPES = {
    "status": "uint8",
    "n_frames": "int32",
    "source_sha256": "uint8",
    "shape": "int32",
    "first": "int64",
    "frame_index": "int32",
    "frame_time": "float64",
    "offset": "int64",
    "crc32c": "uint32",
}


def read_index(path: Path, n_rows: int, data_bytes: int) -> ShardIndex:
    """Return the index of a shard of `n_rows` videos whose data file has `data_bytes`.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is damaged, or does not fit the shard.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, npt.NDArray[Any]] = load(read_plain(path, MAX_INDEX_BYTES))
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    problem = _problem(arrays, n_rows, data_bytes)
    if problem:
        raise InputError(f"{path} is damaged: {problem}")
    return ShardIndex(**arrays)


def _problem(arrays: dict[str, npt.NDArray[Any]], n_rows: int, data_bytes: int) -> str | None:
    """Return what makes an index unusable, None if nothing does."""
    if {name: str(array.dtype) for name, array in arrays.items()} != _DTYPES:
        return "it does not hold the arrays of an index"
    n_frames = len(arrays["frame_index"]) if arrays["frame_index"].ndim == 1 else -1
    shapes = {
        **dict.fromkeys(("status", "n_frames"), (n_rows,)),
        "source_sha256": (n_rows, 32),
        "shape": (n_rows, 2),
        "first": (n_rows + 1,),
        "offset": (n_frames + 1,),
        **dict.fromkeys(("frame_index", "frame_time", "crc32c"), (n_frames,)),
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if wrong:
        return f"{', '.join(wrong)} of another shape"
    first, offset, ok = arrays["first"], arrays["offset"], arrays["status"] == OK
    if first[0] != 0 or first[-1] != n_frames or (np.diff(first) < 0).any():
        return "its rows do not cover its frames"
    if offset[0] != 0 or offset[-1] != data_bytes or (np.diff(offset) <= 0).any():
        return f"its frames do not cover the {data_bytes} bytes of their file"
    if n_frames and np.diff(offset).max() > MAX_JPEG_BYTES:
        return "a frame is larger than any JPEG should be"
    if not (np.isin(arrays["status"], (OK, FAILED)).all() and (ok == (np.diff(first) > 0)).all()):
        return "its status does not fit its frames"
    height, width = arrays["shape"].astype(np.int64)[ok].T
    if ((height < 1) | (width < 1) | (height > MAX_SIDE) | (width > MAX_SIDE) | (height * width > MAX_PIXELS)).any():
        return f"a frame's shape is not within 1..{MAX_SIDE} pixels"
    return _problem_of_frames(arrays, ok)


def _problem_of_frames(arrays: dict[str, npt.NDArray[Any]], ok: npt.NDArray[np.bool_]) -> str | None:
    frame, first = arrays["frame_index"], arrays["first"]
    rows = np.repeat(np.arange(len(ok)), np.diff(first))
    if (frame < 0).any() or (frame >= arrays["n_frames"][rows]).any():
        return "a frame lies outside its video"
    if ((np.diff(frame) <= 0) & (np.diff(rows) == 0)).any():
        return "the frames of a video are not in order"
    return None
