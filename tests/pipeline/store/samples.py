"""Small stores whose numbers follow from the video ids alone, so that every way to write them must agree."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fsar.pipeline.store import Chunk, ChunkData, StoreWriter, TapSpec, VideoRow, create_store

TAPS = {"pooled": TapSpec((6,)), "map": TapSpec((3, 2, 2), "float32")}
RECIPE = {"backbone": "random:tiny", "sampler": "uniform-center", "weights_sha256": "00ff", "mean": [0.5, 0.25]}
N_VIEWS, N_SLOTS, CHUNK_ROWS = 2, 4, 3
FAILED = ("v004",)


def videos(n: int = 10, *, prefix: str = "v") -> list[VideoRow]:
    """Rows of three classes; the first half is train."""
    parts = ["train" if row < n // 2 else "test" for row in range(n)]
    return [VideoRow(f"{prefix}{row:03d}", f"class {row % 3}", parts[row], f"/clips/{row}.webm") for row in range(n)]


def features(video_id: str, tap: str) -> np.ndarray[Any, Any]:
    """The numbers of one video: (V, T, *shape)."""
    spec = TAPS[tap]
    seed = list(hashlib.sha256(f"{video_id}/{tap}".encode()).digest())
    return np.random.default_rng(seed).standard_normal((N_VIEWS, N_SLOTS, *spec.shape)).astype(spec.dtype)


def chunk_data(chunk: Chunk, rows: Sequence[VideoRow], failed: Collection[str] = FAILED) -> ChunkData:
    """What an encoder would hand over for a chunk."""
    here = [rows[row] for row in chunk.rows]
    status = [2 if video.video_id in failed else 1 for video in here]
    slots = np.arange(N_SLOTS)[None, None] + np.array(chunk.rows)[:, None, None]
    return ChunkData(
        {tap: np.stack([features(video.video_id, tap) for video in here]) for tap in TAPS},
        np.broadcast_to(slots, (len(here), N_VIEWS, N_SLOTS)).astype(np.int32),
        np.broadcast_to(slots / 12, (len(here), N_VIEWS, N_SLOTS)).astype(np.float64),
        np.array(status, np.uint8),
        np.array([30 + row for row in chunk.rows], np.int32),
        np.array([list(hashlib.sha256(video.video_id.encode()).digest()) for video in here], np.uint8),
        [(row, "empty", "no bytes") for row in chunk.rows if rows[row].video_id in failed],
    )


def open_sample(path: Path, rows: Sequence[VideoRow] | None = None) -> StoreWriter:
    """Create or resume the sample store."""
    chosen = rows or videos()
    return create_store(
        path, videos=chosen, taps=TAPS, n_views=N_VIEWS, n_slots=N_SLOTS, recipe=RECIPE, chunk_rows=CHUNK_ROWS
    )


def fill(writer: StoreWriter, *, n_chunks: int | None = None) -> None:
    """Commit up to `n_chunks` chunks, all by default."""
    while n_chunks != 0 and (chunk := writer.claim()) is not None:
        writer.commit(chunk, chunk_data(chunk, writer.videos))
        n_chunks = None if n_chunks is None else n_chunks - 1


def write_sample(path: Path, rows: Sequence[VideoRow] | None = None) -> Path:
    """Write and seal the sample store."""
    with open_sample(path, rows) as writer:
        fill(writer)
        writer.seal()
    return path


def expected(tap: str, rows: Sequence[VideoRow] | None = None) -> np.ndarray[Any, Any]:
    """The whole tap (N, V, T, *shape) as it must read, failed videos NaN."""
    chosen = rows or videos()
    whole = np.stack([features(video.video_id, tap) for video in chosen])
    whole[[video.video_id in FAILED for video in chosen]] = np.nan
    return whole


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
