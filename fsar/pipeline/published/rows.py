"""A store from files that hold features already: one reader for each row, one failure for each file that is none."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fsar.errors import InputError, one_line
from fsar.pipeline.store import STATUS_FAILED, STATUS_OK, ChunkData, TapSpec, VideoRow, create_store, open_store
from fsar.progress import progress

TAP = "pooled"
BACKBONE = {"library": "temporal_matching", "backbone": "r2plus1d_34", "pretrained": "published", "weights_sha256": ""}
CLIP_FRAMES = 16
Dtype = Literal["float16", "float32"]


@dataclass(frozen=True, slots=True)
class ReadRow:
    """What a file says of one row."""

    features: npt.NDArray[np.float32]
    """(V, T, D)."""
    frame_index: npt.NDArray[np.int32]
    """(V, T) first frame of each clip, -1 where it is not known."""
    n_frames: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import wrote."""

    path: Path
    n_videos: int
    n_failed: int


def import_rows(
    out: Path,
    videos: Sequence[VideoRow],
    read: Callable[[int], ReadRow],
    *,
    shape: tuple[int, int, int],
    recipe: Mapping[str, Any],
    dtype: Dtype,
    quiet: bool,
) -> ImportReport:
    """Write what `read` gives for each row as a store; one that was begun is finished. `shape` is (V, T, D)."""
    n_views, n_slots, dim = shape
    taps = {TAP: TapSpec((dim,), dtype)}
    recipe = {**BACKBONE, "taps": [TAP], "n_views": n_views, "n_slots": n_slots, "dtype": dtype, **recipe}
    writer = create_store(out, videos=videos, taps=taps, n_views=n_views, n_slots=n_slots, recipe=recipe)
    n_before = int((open_store(out, allow_unsealed=True).status != 0).sum())
    with writer, progress("import", len(videos), n_done=n_before, unit="videos", quiet=quiet) as advance:
        while (chunk := writer.claim()) is not None:
            writer.commit(chunk, _chunk_data(chunk.rows, read, shape, np.dtype(dtype)))
            advance(len(chunk.rows))
        if not open_store(out, allow_unsealed=True).sealed:
            writer.seal()
    store = open_store(out)
    return ImportReport(out, store.n_videos, int((store.status == STATUS_FAILED).sum()))


def _chunk_data(
    rows: Sequence[int], read: Callable[[int], ReadRow], shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> ChunkData:
    n_rows, slots = len(rows), shape[:2]
    features = np.full((n_rows, *shape), np.nan, dtype)
    index = np.full((n_rows, *slots), -1, np.int32)
    status, n_frames = np.full(n_rows, STATUS_OK, np.uint8), np.zeros(n_rows, np.int32)
    sources, failures = np.zeros((n_rows, 32), np.uint8), []
    for place, row in enumerate(rows):
        try:
            found = read(row)
            if found.features.shape != shape:
                raise InputError(f"holds {found.features.shape[-1]} numbers for each clip, the others {shape[-1]}")
        except (InputError, OSError) as error:
            status[place] = STATUS_FAILED
            failures.append((row, "unreadable", one_line(error)))
            continue
        features[place], index[place], n_frames[place] = found.features, found.frame_index, found.n_frames
        sources[place] = np.frombuffer(found.sha256, np.uint8)
    return ChunkData(
        features={TAP: features},
        frame_index=index,
        frame_time=np.full((n_rows, *slots), np.nan),
        status=status,
        n_frames=n_frames,
        source_sha256=sources,
        failures=failures,
    )


def read_tensor(path: Path) -> tuple[npt.NDArray[np.float32], bytes]:
    """Return the float numbers in a `torch.save` file, and the file's sha256. Nothing in the file is executed.

    Raises:
        InputError: no file, or one that holds something else than a tensor of finite floating-point numbers.
    """
    import torch

    from fsar.torch_files import read_torch_file

    if not path.is_file():
        raise InputError(f"there is no file {path}")
    tensor = read_torch_file(path)
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        raise InputError(f"{path} must hold a tensor of floating-point numbers, it has {type(tensor).__name__}")
    if not bool(torch.isfinite(tensor).all()):
        raise InputError(f"{path} holds numbers that are not finite")
    return tensor.float().numpy(), hashlib.sha256(path.read_bytes()).digest()
