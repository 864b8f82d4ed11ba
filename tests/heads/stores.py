"""Small stores whose classes are known, so that results can be reasoned about."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fsar.pipeline.store import (
    STATUS_FAILED,
    STATUS_OK,
    ChunkData,
    FeatureStore,
    TapSpec,
    TextTable,
    VideoRow,
    create_store,
    open_store,
    write_text,
)

RECIPE = {"library": "random", "backbone": "test", "pretrained": "random@0", "sampler": "uniform-center", "n_slots": 8}


def make_store(
    path: Path,
    features: dict[str, np.ndarray],
    videos: Sequence[VideoRow],
    *,
    failed: Sequence[int] = (),
    recipe: dict | None = None,
    text: TextTable | None = None,
    hashes: Sequence[int] | None = None,
) -> FeatureStore:
    """Write a sealed store of `features` tap -> (N, V, T, *shape); equal numbers in `hashes` are equal source files."""
    sources = np.zeros((len(videos), 32), np.uint8)
    if hashes is not None:
        sources[:, :4] = np.array(hashes, ">u4").view(np.uint8).reshape(-1, 4)
    first = next(iter(features.values()))
    taps = {tap: TapSpec(shape=array.shape[3:], dtype=str(array.dtype)) for tap, array in features.items()}
    writer = create_store(
        path, videos=videos, taps=taps, n_views=first.shape[1], n_slots=first.shape[2], recipe=recipe or RECIPE
    )
    with writer:
        while (chunk := writer.claim()) is not None:
            rows = list(chunk.rows)
            status = np.array([STATUS_FAILED if row in failed else STATUS_OK for row in rows], np.uint8)
            slots = (len(rows), *first.shape[1:3])
            writer.commit(
                chunk,
                ChunkData(
                    features={tap: array[rows] for tap, array in features.items()},
                    frame_index=np.zeros(slots, np.int32),
                    frame_time=np.zeros(slots, np.float64),
                    status=status,
                    n_frames=np.full(len(rows), 30, np.int32),
                    source_sha256=sources[rows],
                    failures=[(row, "truncated", "made so") for row in rows if row in failed],
                ),
            )
        writer.seal()
    if text is not None:
        write_text(path, text)
    return open_store(path)


def rows_of(classes: dict[str, Sequence[str]], n_videos: int) -> list[VideoRow]:
    """Return videos of part -> classes, `n_videos` of each class."""
    return [
        VideoRow(f"{name}-{i}", name, part, f"{name}/{i}.webm")
        for part, names in classes.items()
        for name in names
        for i in range(n_videos)
    ]


PARTS = {"train": [f"a{i}" for i in range(10)], "val": [f"v{i}" for i in range(6)], "test": [f"t{i}" for i in range(6)]}


def ordered_features(
    videos: Sequence[VideoRow], *, dim: int = 16, n_frames: int = 8, n_views: int = 1, noise: float = 0.5, seed: int = 0
) -> np.ndarray:
    """Return (N, V, T, D) features whose classes differ in the order of two poses; classes come in mirrored pairs.

    A pair of classes shares its two poses: the mean over frames cannot tell one from the other.
    """
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(video.class_name for video in videos))
    poses = generator.normal(size=(len(names) // 2 + 1, 2, dim))
    weight = np.linspace(0, 1, n_frames)[:, None]
    features = np.empty((len(videos), n_views, n_frames, dim), np.float32)
    for row, video in enumerate(videos):
        place = names.index(video.class_name)
        start, end = poses[place // 2] if place % 2 == 0 else poses[place // 2][::-1]
        clean = (1 - weight) * start + weight * end
        features[row] = clean + noise * generator.normal(size=(n_views, n_frames, dim))
    return features


def ordered_store(path: Path, *, n_videos: int = 12, failed: Sequence[int] = (), **options) -> FeatureStore:
    """Return a store with pooled features in which the order of frames decides."""
    videos = rows_of(PARTS, n_videos)
    return make_store(path, {"pooled": ordered_features(videos, **options)}, videos, failed=failed)
