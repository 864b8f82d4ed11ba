"""What grows with a store: commands and calls on stores of 100, 100,000 and 1,000,000 videos.

    python benchmarks/growth.py [--videos 100,100000,1000000] [--chunk-rows 100] [--folder DIR] [--keep]

Features are 4 numbers a video, so that what is seen is the price of videos and chunks and not of bytes. Each command is
a program of its own; its processor time and peak memory are counted, import of Python's packages included. The last
column is the growth beyond the smallest store from the last but one to the last, over that of the videos: 1 is linear.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.store import ChunkData, TapSpec, VideoRow, create_store

N_CLASSES = 400
PART_OF_CLASS = ("train",) * 256 + ("val",) * 64 + ("test",) * 80
CHILD_SECONDS = 3600


@dataclass(frozen=True)
class Case:
    """Files of one number of videos."""

    n_videos: int
    catalog: Path
    sealed: Path
    open: Path
    """A store whose last chunk is pending: the most that there is to watch."""


@dataclass(frozen=True)
class Cost:
    """Of a program."""

    seconds: float
    """Of processor time."""
    megabytes: float
    """Peak memory."""


OPEN = "import sys, fsar.pipeline.store as s; store = s.open_store(sys.argv[1])"
DRAW = f"""{OPEN}
import numpy as np
from fsar.heads.episodes.sampler import EpisodePool, EpisodeSampler, EpisodeShape
from collections import defaultdict
rows = defaultdict(list)
for row, video in enumerate(store.videos):
    if video.part == "test":
        rows[video.class_name].append(row)
sampler = EpisodeSampler(EpisodePool(rows), EpisodeShape(5, 1, 1), seed=0)
for start in range(0, 10_000, 500):
    sampler.draw(start, 500)"""
READ = f"""{OPEN}
import numpy as np
draw = np.random.default_rng(0)
for _ in range(1000):
    store.read("pooled", draw.permutation(len(store.videos))[:50] if len(store.videos) < 1000
               else np.unique(draw.integers(0, len(store.videos), 60))[:50])"""
CATALOG = """import sys
from fsar.pipeline.catalog.catalog import read_catalog, select_rows
select_rows(read_catalog(sys.argv[1]))"""


def lines(case: Case) -> dict[str, list[str]]:
    """Return what is measured: a title, and the arguments of Python."""
    encode = ["--backbone", "random:timm/test_resnet", "--size", "32", "--frames", "1", "--device", "cpu", "--dry-run"]
    store = ["-m", "fsar.cli.store"]
    return {
        "read a catalog": ["-c", CATALOG, str(case.catalog)],
        "plan: `encode --dry-run`": ["-m", "fsar.cli.prep", "encode", str(case.catalog), "--out", "x.zarr", *encode],
        "open": ["-c", OPEN, str(case.sealed)],
        "`fsar-store info`": [*store, "info", str(case.sealed)],
        "`fsar-store watch --once`": [*store, "watch", str(case.open), "--once"],
        "`fsar-store verify`": [*store, "verify", str(case.sealed)],
        "read 1,000 times 50 random videos": ["-c", READ, str(case.sealed)],
        "draw 10,000 episodes": ["-c", DRAW, str(case.sealed)],
        "`fsar-eval-head tsn`, 10,000 episodes": [
            "-m", "fsar.cli.eval_head", "tsn", "--store", str(case.sealed), "--no-order", "--quiet"
        ],
    }  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--videos", type=lambda text: [int(part) for part in text.split(",")], default=[100, 100_000, 1_000_000]
    )
    parser.add_argument("--chunk-rows", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where to write; stores that a run with --keep left are taken")
    parser.add_argument("--keep", action="store_true", help="leave the stores there")
    parser.add_argument("--only", default="", help="lines whose title has this in it")
    options = parser.parse_args()
    with work_folder(options.folder, keep=options.keep) as folder:
        cases = [make(folder, n_videos, options.chunk_rows) for n_videos in options.videos]
        print(f"| | {' | '.join(f'{case.n_videos:,} videos' for case in cases)} | growth |")
        print("|---" * (len(cases) + 2) + "|")
        for title in lines(cases[0]):
            if options.only in title:
                print(row(title, cases), flush=True)


@contextmanager
def work_folder(given: Path | None, *, keep: bool) -> Iterator[Path]:
    """Yield a folder, which goes at the end unless it is to be kept."""
    folder = given or Path(tempfile.mkdtemp(prefix="fsar-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


def row(title: str, cases: Sequence[Case]) -> str:
    """Return a line of the table."""
    costs = [cost([sys.executable, *lines(case)[title]]) for case in cases]
    cells = [f"{each.seconds:.1f} s, {each.megabytes:.0f} MB" for each in costs]
    return f"| {title} | {' | '.join(cells)} | {growth(cases, costs)} |"


def growth(cases: Sequence[Case], costs: Sequence[Cost]) -> str:
    """Return how the last cost but one grew to the last, above the first, over how the videos did."""
    if len(cases) < 3:
        return ""
    n_before, n_after = (case.n_videos - cases[0].n_videos for case in cases[-2:])
    before, after = (each.seconds - costs[0].seconds for each in costs[-2:])
    return f"{(after / before) / (n_after / n_before):.2f}" if before > 0.05 else "-"


COUNTED = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3)
sys.exit(code)"""


def cost(command: Sequence[str]) -> Cost:
    """Return what a program takes.

    A small process counts: the memory of a child begins at that of its parent.
    """
    small = [sys.executable, "-S", "-c", COUNTED, *command]
    counted = subprocess.run(small, capture_output=True, timeout=CHILD_SECONDS, check=False)
    if counted.returncode:
        sys.exit(f"{command} failed: {counted.stderr.decode()}")
    seconds, megabytes = map(float, counted.stdout.split())
    return Cost(seconds, megabytes)


def make(folder: Path, n_videos: int, chunk_rows: int) -> Case:
    """Return the files of a case, written unless they are there."""
    case = Case(n_videos, folder / f"{n_videos}.csv", folder / f"{n_videos}.zarr", folder / f"{n_videos}-open.zarr")
    if not case.catalog.exists():
        _fill(case.open, n_videos, chunk_rows)
        shutil.copytree(case.open, case.sealed, dirs_exist_ok=True)
        _fill(case.sealed, n_videos, chunk_rows, to_the_end=True)
        rows = [CatalogRow(n, folder / f"{n}.mp4", name, 1, part) for n, name, part in _videos(n_videos)]
        write_catalog(Catalog(tuple(rows), "folder"), case.catalog)
    return case


def _videos(n_videos: int) -> Iterator[tuple[str, str, str]]:
    """Yield (id, class, part) of every video, in the order in which stores keep them."""
    n_each = -(-n_videos // N_CLASSES)
    for index in range(n_videos):
        k = index // n_each if n_each > 1 else index * N_CLASSES // n_videos // 16 * 16  # few videos: few classes
        yield f"v{index:07d}", f"class {k:03d}", PART_OF_CLASS[k]


def _fill(path: Path, n_videos: int, chunk_rows: int, *, to_the_end: bool = False) -> None:
    videos = [VideoRow(n, name, part, f"v/{n}.mp4") for n, name, part in _videos(n_videos)]
    taps, draw = {"pooled": TapSpec((4,), "float16")}, np.random.default_rng(0)
    recipe = {"backbone": "none"}
    with create_store(
        path, videos=videos, taps=taps, n_views=1, n_slots=1, recipe=recipe, chunk_rows=chunk_rows
    ) as writer:
        while (chunk := writer.claim()) is not None:
            n = len(chunk.rows)
            if chunk.rows.stop == n_videos and not to_the_end:
                break
            features = {"pooled": draw.standard_normal((n, 1, 1, 4)).astype(np.float16)}
            columns = np.zeros((n, 1, 1), np.int32), np.zeros((n, 1, 1)), np.ones(n, np.uint8), np.ones(n, np.int32)
            hashes = np.frombuffer(b"".join(os.urandom(32) for _ in range(n)), np.uint8).reshape(n, 32)
            writer.commit(chunk, ChunkData(features, *columns, hashes))
        if to_the_end:
            writer.seal()


if __name__ == "__main__":
    main()
