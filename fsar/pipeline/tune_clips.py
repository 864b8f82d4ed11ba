"""The decoded clips that tuning trains on: small frames of every video, on disk, read through a memory map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import write_atomic
from fsar.pipeline.catalog import CatalogRow
from fsar.pipeline.decode import VideoError, decode_clip
from fsar.pipeline.sample import sample_indices

CLIPS, INDEX = "clips.npy", "clips.json"


@dataclass(frozen=True)
class ClipTable:
    """Decoded clips in catalog order, without the videos that failed."""

    frames: np.ndarray
    """(N, T, S, S, 3) uint8, memory-mapped."""
    class_names: list[str]
    key: str
    """Hash of the videos and of how they were decoded."""
    failures: list[dict[str, str]]

    def __len__(self) -> int:
        return len(self.frames)


def clip_table(
    rows: Sequence[CatalogRow], folder: Path, n_frames: int, size: int, decoder: str, *, n_jobs: int, quiet: bool
) -> ClipTable:
    """Return all clips of `rows`, (N, n_frames, size, size, 3); decoded once into `folder` and found there again."""
    key = _key(rows, n_frames, size, decoder)
    index = _read_index(folder, key)
    if index is None:
        index = _decode_all(rows, folder, n_frames, size, decoder, key, n_jobs=n_jobs, quiet=quiet)
    if not index["class_names"]:
        raise InputError(
            f"none of the {len(rows)} videos could be decoded; the first: {index['failures'][0]['message']}"
        )
    return ClipTable(np.load(folder / CLIPS, mmap_mode="r"), index["class_names"], key, index["failures"])


def _key(rows: Sequence[CatalogRow], n_frames: int, size: int, decoder: str) -> str:
    facts = [[row.video_id, row.class_name, row.bytes] for row in rows]
    return hashlib.sha256(json.dumps([facts, n_frames, size, decoder]).encode()).hexdigest()


def _read_index(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return index if index.get("key") == key else None


def _decode_all(
    rows: Sequence[CatalogRow],
    folder: Path,
    n_frames: int,
    size: int,
    decoder: str,
    key: str,
    *,
    n_jobs: int,
    quiet: bool,
) -> dict[str, Any]:
    from fsar.pipeline.jobs import run_jobs

    decode = partial(small_clip, n_frames=n_frames, size=size, decoder=decoder)
    outcomes = run_jobs("decode", list(rows), decode, n_jobs=n_jobs, key=lambda row: row.video_id, quiet=quiet)
    good = [(row, outcome.value) for row, outcome in zip(rows, outcomes, strict=True) if outcome.failure is None]
    failures = [outcome.failure.to_dict() for outcome in outcomes if outcome.failure is not None]
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(good), n_frames, size, size, 3)
    table = np.lib.format.open_memmap(folder / CLIPS, mode="w+", dtype=np.uint8, shape=shape)
    for position, (_, clip) in enumerate(good):
        table[position] = clip
    table.flush()
    index = {"key": key, "class_names": [row.class_name for row, _ in good], "failures": failures}
    write_atomic(folder / INDEX, json.dumps(index))
    return index


def small_clip(row: CatalogRow, *, n_frames: int, size: int, decoder: str) -> np.ndarray:
    """Return `n_frames` frames of a video, centre of each segment, squashed to (n_frames, size, size, 3) uint8."""
    from fsar.pipeline.images import ImageSpec, prepare

    if row.bytes == 0 and not row.path.is_dir():
        raise VideoError("empty", f"{row.path} has no bytes")
    clip = decode_clip(row.path, lambda count: sample_indices("uniform-center", count, n_frames), decoder=decoder)
    pixels = prepare(clip.frames, ImageSpec(resize=size, size=size, antialias=True))  # (T, 3, S, S) in 0..1
    small: np.ndarray = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return small
