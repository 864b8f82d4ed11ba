"""The decoded clips that tuning trains on: small frames of every video, on disk, read through a memory map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fsar.errors import InputError
from fsar.files import write_atomic
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.video.decode import decode_clip
from fsar.pipeline.video.sample import sample_indices

CLIPS, INDEX = "clips.npy", "clips.json"


@dataclass(frozen=True)
class ClipSpec:
    """How videos become small clips."""

    n_frames: int
    size: int
    """Pixels of the square pictures."""
    resize: Literal["squash", "short-side"]
    antialias: bool
    decoder: str


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


def clip_table(rows: Sequence[CatalogRow], folder: Path, spec: ClipSpec, *, n_jobs: int, quiet: bool) -> ClipTable:
    """Return the clips of `rows`, decoded once into `folder` and found there again by the next call.

    Raises InputError when not one video can be decoded.
    """
    key = _key(rows, spec)
    index = _read_index(folder, key)
    if index is None:
        index = _decode_all(rows, folder, spec, key, n_jobs=n_jobs, quiet=quiet)
    if not index["class_names"]:
        raise InputError(
            f"none of the {len(rows)} videos could be decoded; the first: {index['failures'][0]['message']}"
        )
    return ClipTable(np.load(folder / CLIPS, mmap_mode="r"), index["class_names"], key, index["failures"])


def _key(rows: Sequence[CatalogRow], spec: ClipSpec) -> str:
    facts = [[row.video_id, row.class_name, row.bytes] for row in rows]
    return hashlib.sha256(json.dumps([facts, asdict(spec)]).encode()).hexdigest()


def _read_index(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return index if index.get("key") == key else None


def _decode_all(
    rows: Sequence[CatalogRow], folder: Path, spec: ClipSpec, key: str, *, n_jobs: int, quiet: bool
) -> dict[str, Any]:
    from fsar.pipeline.jobs.run import run_jobs

    decode = partial(small_clip, spec=spec)
    outcomes = run_jobs("decode", list(rows), decode, n_jobs=n_jobs, key=lambda row: row.video_id, quiet=quiet)
    good = [(row, outcome.value) for row, outcome in zip(rows, outcomes, strict=True) if outcome.failure is None]
    failures = [asdict(outcome.failure) for outcome in outcomes if outcome.failure is not None]
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(good), spec.n_frames, spec.size, spec.size, 3)
    table = np.lib.format.open_memmap(folder / CLIPS, mode="w+", dtype=np.uint8, shape=shape)
    for position, (_, clip) in enumerate(good):
        table[position] = clip
    table.flush()
    index = {"key": key, "class_names": [row.class_name for row, _ in good], "failures": failures}
    write_atomic(folder / INDEX, json.dumps(index))
    return index


def small_clip(row: CatalogRow, *, spec: ClipSpec) -> np.ndarray:
    """Return the middle frame of each of T segments, resized and cropped to a square, (T, S, S, 3) uint8."""
    from fsar.pipeline.pixels.prepare import prepare
    from fsar.pipeline.pixels.spec import ImageSpec

    clip = decode_clip(row.path, lambda n: sample_indices("uniform-center", n, spec.n_frames), decoder=spec.decoder)
    image = ImageSpec(mode=spec.resize, resize=spec.size, size=spec.size, antialias=spec.antialias)
    pixels = prepare(clip.frames, image)  # (T, 3, S, S) in 0..1
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
