"""Time random episodes from a store against `np.memmap` over one .npy with the same rows: the floor.

    python benchmarks/store.py [--gigabytes 1] [--repeats 30] [--shape pooled]

An episode is 50 distinct videos (5-way 5-shot and 25 queries). Every reader gets the same rows, they take turns, and
the median of each is divided by the median of np.memmap, so that a noisy machine disturbs all alike. Files are warm:
this measures the reader, not the disk.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fsar.pipeline.store import ChunkData, TapSpec, VideoRow, create_store, open_store

SHAPES = {"tokens": (197, 512), "map": (49, 2048), "pooled": (512,)}
N_SLOTS, EPISODE = 8, 50
TARGETS = {"tokens": 1.0, "map": 1.0, "pooled": 2.0}
SLOW = ("plain zarr", "plain h5py")
Reader = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def main() -> None:
    """Print one table per shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0, help="features per shape (pooled: a tenth)")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary folder")
    options = parser.parse_args()
    for name in options.shape or SHAPES:
        folder = Path(tempfile.mkdtemp(prefix="fsar-bench-", dir=options.folder))
        try:
            measure(name, folder, options.gigabytes, options.repeats)
        finally:
            shutil.rmtree(folder)


def measure(name: str, folder: Path, gigabytes: float, repeats: int) -> None:
    """Write the stores of one shape and print their ratios."""
    shape = SHAPES[name]
    row_bytes = N_SLOTS * int(np.prod(shape)) * 2
    n_videos = max(2 * EPISODE, int(gigabytes * (0.1 if name == "pooled" else 1.0) * 2**30 / row_bytes))
    print(f"\n{name} {[N_SLOTS, *shape]} float16, {row_bytes / 1024:.0f} KiB a row, {n_videos} videos")
    print_write_rates(folder, shape, n_videos, row_bytes)
    with readers(folder, shape, n_videos) as every:
        times = alternate(every, n_videos, repeats)
    floor = statistics.median(times["np.memmap"])
    for reader, seconds in times.items():
        median = statistics.median(seconds)
        target = f"  (to reach: {TARGETS[name]:.1f}x)" if reader.startswith("fsar") else ""
        print(f"  {reader:<12} {median * 1e3:9.3f} ms an episode  {median / floor:8.2f}x{target}")


def alternate(every: dict[str, Reader], n_videos: int, repeats: int) -> dict[str, list[float]]:
    """Return seconds per episode of each reader; slow readers take part in every tenth round."""
    draw = np.random.default_rng(0)
    times: dict[str, list[float]] = {reader: [] for reader in every}
    for reader in every.values():  # every page touched once by each
        for start in range(0, n_videos, EPISODE):
            if reader not in [every[slow] for slow in SLOW]:
                reader(np.arange(start, min(start + EPISODE, n_videos)))
    for turn in range(repeats):
        rows = draw.permutation(n_videos)[:EPISODE]
        names = list(every) if turn % 10 == 0 else [reader for reader in every if reader not in SLOW]
        for reader in draw.permutation(names):
            start = time.perf_counter()
            every[reader](rows)
            times[reader].append(time.perf_counter() - start)
    return times


def chunk(rows: range, shape: tuple[int, ...], source: np.ndarray[Any, Any]) -> ChunkData:
    """Return the rows of a chunk, taken from the array that the floor reads."""
    n = len(rows)
    return ChunkData(
        {"tap": source[rows.start : rows.stop, None]},
        np.zeros((n, 1, N_SLOTS), np.int32),
        np.zeros((n, 1, N_SLOTS)),
        np.ones(n, np.uint8),
        np.full(n, 40, np.int32),
        np.zeros((n, 32), np.uint8),
    )


def print_write_rates(folder: Path, shape: tuple[int, ...], n_videos: int, row_bytes: int) -> None:
    """Write floor, stores and safetensors; print rates against a plain write with fsync."""
    from safetensors.numpy import save_file

    draw = np.random.default_rng(1)
    block = draw.standard_normal((64, N_SLOTS, *shape), dtype=np.float32).astype(np.float16)
    source = np.concatenate([block] * -(-n_videos // len(block)))[:n_videos]
    start = time.perf_counter()
    with open(folder / "floor.npy", "wb") as file:
        np.save(file, source)
        file.flush()
        import os

        os.fsync(file.fileno())
    floor = time.perf_counter() - start
    save_file({"tap": source}, folder / "rows.safetensors")
    videos = [VideoRow(f"v{row}", "c", "train", "") for row in range(n_videos)]
    line = f"  written at   np.save+fsync {n_videos * row_bytes / floor / 1e9:.2f} GB/s"
    for suffix in (".zarr", ".h5"):
        start = time.perf_counter()
        taps = {"tap": TapSpec(shape)}
        path = folder / f"rows{suffix}"
        with create_store(path, videos=videos, taps=taps, n_views=1, n_slots=N_SLOTS, recipe={}) as writer:
            while (work := writer.claim()) is not None:
                writer.commit(work, chunk(work.rows, shape, source))
            writer.seal()
        rate = n_videos * row_bytes / (time.perf_counter() - start) / 1e9
        line += f", fsar {suffix} {rate:.2f} GB/s with crc, sha256 and fsync"
    print(line)


@contextmanager
def readers(folder: Path, shape: tuple[int, ...], n_videos: int) -> Iterator[dict[str, Reader]]:
    """Yield every way to read rows of the same numbers."""
    import h5py
    import zarr
    from safetensors import safe_open

    floor = np.load(folder / "floor.npy", mmap_mode="r")
    ours_zarr, ours_h5 = open_store(folder / "rows.zarr"), open_store(folder / "rows.h5")
    plain = zarr.open_group(str(folder / "rows.zarr"), mode="r")["features/tap"]
    with h5py.File(folder / "rows.h5", "r") as file, safe_open(folder / "rows.safetensors", "numpy") as tensors:
        dataset, tensor = file["features/tap"], tensors.get_slice("tap")
        yield {
            "np.memmap": lambda rows: np.asarray(floor[rows]),
            "fsar .zarr": lambda rows: ours_zarr.read("tap", rows),
            "fsar .h5": lambda rows: ours_h5.read("tap", rows),
            "safetensors": lambda rows: np.concatenate([tensor[int(row) : int(row) + 1] for row in rows]),
            "plain zarr": lambda rows: plain.oindex[rows],
            "plain h5py": lambda rows: dataset[np.sort(rows)],
        }


if __name__ == "__main__":
    main()
