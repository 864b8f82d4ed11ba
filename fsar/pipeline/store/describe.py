"""What a store holds, and how two stores differ, as plain data for people and machines."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fsar.pipeline.store.copy import opened
from fsar.pipeline.store.format.files import read_runs
from fsar.pipeline.store.format.identity import differing_fields
from fsar.pipeline.store.format.layout import STATUS_FAILED, STATUS_OK
from fsar.pipeline.store.journal.manifest import PARTS
from fsar.pipeline.store.reader import FeatureStore

BLOCK_ROWS = 64


def describe_store(path: str | Path | FeatureStore) -> dict[str, Any]:
    """Return recipe, taps, counts, sizes, failures by reason and completeness per split part, as JSON data."""
    store = opened(path, allow_unsealed=True)
    store.fetch_metadata()
    status = store.status
    taps = {
        name: {
            "shape": [store.n_videos, store.n_views, store.n_slots, *tap.shape],
            "dtype": tap.dtype,
            "bytes": store.n_videos * store.layout.arrays()[f"features/{name}"].row_bytes,
        }
        for name, tap in store.taps.items()
    }
    return {
        "path": store.address,
        "identity": store.identity,
        "format": store.format,
        "sealed": store.sealed,
        "recipe_id": store.recipe_id,
        "recipe": store.recipe,
        "taps": taps,
        "videos": store.n_videos,
        "classes": len({video.class_name for video in store.videos}),
        "views": store.n_views,
        "slots": store.n_slots,
        "chunk_rows": store.layout.chunk_rows,
        "chunks": store.layout.n_chunks(store.n_videos),
        "bytes_on_disk": store.files.bytes_on_disk(),
        "parts": _parts(store, status),
        "duplicates": store.duplicate_ids(),
        "failures": dict(sorted(Counter(reason for _, reason, _ in store.failures()).items())),
        "text_tables": {name: list(store.text(name).vectors.shape) for name in store.text_tables()},
        "runs": read_runs(store.files),
    }


def _parts(store: FeatureStore, status: np.ndarray[Any, Any]) -> dict[str, dict[str, int]]:
    parts: dict[str, dict[str, int]] = {}
    for video, state in zip(store.videos, status.tolist(), strict=True):
        counts = parts.setdefault(video.part, {"videos": 0, "ok": 0, "failed": 0, "pending": 0})
        counts["videos"] += 1
        counts["ok" if state == STATUS_OK else "failed" if state == STATUS_FAILED else "pending"] += 1
    order = {part: position for position, part in enumerate(PARTS)}
    return dict(sorted(parts.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def compare_stores(a: str | Path | FeatureStore, b: str | Path | FeatureStore) -> dict[str, Any]:
    """Return how two stores differ: recipe fields, videos, statuses, and the largest difference of each common tap.

    `equal` is true when recipe, videos, their classes and split parts, taps and all numbers of common videos are the
    same; NaN equals NaN.
    """
    first, second = opened(a, allow_unsealed=True), opened(b, allow_unsealed=True)
    ids_a, ids_b = ({video.video_id: row for row, video in enumerate(store.videos)} for store in (first, second))
    common = [video_id for video_id in ids_a if video_id in ids_b]
    rows = np.array([[ids_a[video_id], ids_b[video_id]] for video_id in common], np.int64).reshape(-1, 2)
    for store, own in ((first, rows[:, 0]), (second, rows[:, 1])):
        common_taps = [f"features/{name}" for name in first.taps if name in second.taps]
        store.fetch([*common_taps, "frame_time", "frame_index"], own)
    same_status = first.status[rows[:, 0]] == second.status[rows[:, 1]]
    ok = same_status & (first.status[rows[:, 0]] == STATUS_OK)
    same_shape = first.n_views == second.n_views and first.n_slots == second.n_slots
    taps = {
        name: _difference(first, second, name, rows[ok])
        for name in first.taps
        if same_shape and name in second.taps and first.taps[name].shape == second.taps[name].shape
    }
    lists: dict[str, Any] = {
        "recipe": differing_fields(first.recipe, second.recipe),
        "layout": differing_fields(_shape(first), _shape(second)),
        "only_in_a": [video_id for video_id in ids_a if video_id not in ids_b],
        "only_in_b": [video_id for video_id in ids_b if video_id not in ids_a],
        "other_class_or_part": _other_class_or_part(first, second, rows),
        "other_status": [common[i] for i in np.flatnonzero(~same_status)],
        "other_source": _other_source(first, second, rows[same_status]),
        "other_frames": _other_frames(first, second, rows[ok]) if same_shape else [],
    }
    equal = not any(lists.values()) and all(tap["max_abs_difference"] == 0 for tap in taps.values())
    return lists | {"compared_videos": int(ok.sum()), "taps": taps, "equal": equal}


def _other_class_or_part(a: FeatureStore, b: FeatureStore, rows: np.ndarray[Any, Any]) -> list[str]:
    pairs = ((a.videos[x], b.videos[y]) for x, y in rows.tolist())
    return [x.video_id for x, y in pairs if (x.class_name, x.part) != (y.class_name, y.part)]


def _other_source(a: FeatureStore, b: FeatureStore, rows: np.ndarray[Any, Any]) -> list[str]:
    """Return the videos whose files had other bytes or another number of frames."""
    x, y = rows[:, 0], rows[:, 1]
    other = (a.source_sha256[x] != b.source_sha256[y]).any(axis=1) | (a.n_frames[x] != b.n_frames[y])
    return [a.videos[row].video_id for row in x[other].tolist()]


def _other_frames(a: FeatureStore, b: FeatureStore, rows: np.ndarray[Any, Any]) -> list[str]:
    """Return the videos of which other frames, or frames at other times, were encoded."""
    other: list[str] = []
    for start in range(0, len(rows), BLOCK_ROWS):
        x, y = rows[start : start + BLOCK_ROWS].T
        time, other_time = a.frame_time(x), b.frame_time(y)
        same = (time == other_time) | (np.isnan(time) & np.isnan(other_time))
        same &= a.frame_index(x) == b.frame_index(y)
        other += [a.videos[row].video_id for row in x[~same.all(axis=(1, 2))].tolist()]
    return other


def _shape(store: FeatureStore) -> dict[str, Any]:
    return {"taps": store.layout.to_dict()["taps"], "n_views": store.n_views, "n_slots": store.n_slots}


def _difference(a: FeatureStore, b: FeatureStore, tap: str, rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the largest absolute difference and the video that has it; NaN on one side only counts as infinite."""
    largest, where = 0.0, ""
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        x, y = (store.read(tap, block[:, side], views=None).astype(np.float64) for side, store in enumerate((a, b)))
        with np.errstate(invalid="ignore"):
            difference = np.abs(x - y)
        difference[(np.isnan(x) & np.isnan(y)) | (x == y)] = 0.0
        difference[np.isnan(difference)] = np.inf
        per_video = difference.reshape(len(block), -1).max(axis=1)
        if per_video.max() > largest:
            largest, where = float(per_video.max()), a.videos[int(block[per_video.argmax(), 0])].video_id
    return {"max_abs_difference": largest, "video": where}
