"""`fsar-predict` by the clock, against importing torch alone: the floor of any program that computes with it.

    python benchmarks/predict.py [--rounds N]

Five classes of five clips, an OTAM run on features of timm's test_resnet. Rounds alternate, the best of each counts:
wall time and processor time of whole programs.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKBONE = "random:timm/test_resnet"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    n_rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        predict(folder, folder / "query.webm")  # fills the cache and calibrates
        best: dict[str, tuple[float, float]] = {}
        for number in range(n_rounds):
            new = shutil.copy(folder / "query.webm", folder / f"new-{number}.webm")
            ways = {
                "floor: import torch": lambda: python(folder, "import torch"),
                "import torch, timm": lambda: python(folder, "import torch, timm"),
                "supports and query cached": lambda: predict(folder, folder / "query.webm"),
                "supports cached, a new query": lambda new=new: predict(folder, new),
            }
            for way, call in ways.items():
                best[way] = min(best.get(way, (1e9, 1e9)), timed(call))
    floor = best["floor: import torch"][1]
    print(f"{'':30} {'wall s':>8} {'cpu s':>8} {'to floor':>9}")
    for way, (wall, cpu) in best.items():
        print(f"{way:30} {wall:8.2f} {cpu:8.2f} {cpu / floor:8.2f}x")


def timed(call) -> tuple[float, float]:
    """Return wall and processor seconds of a program."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def python(folder: Path, *arguments: str) -> None:
    """Run a statement, or a module with arguments."""
    line = ["-c", *arguments] if len(arguments) == 1 else ["-m", *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program is compiled
    subprocess.run([sys.executable, *line], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def predict(folder: Path, query: Path) -> None:
    """Classify one clip."""
    python(folder, "fsar.cli.predict", "--support", "support", "--query", str(query), "--run", "run", "--quiet")


def prepare(folder: Path) -> None:
    """Make videos, features, a run, and a folder of supports."""
    python(folder, "fsar.cli.prep", "synth", "videos", "--clips", "6", "--train-classes", "6", "--val-classes", "6",
           "--test-classes", "6", "--jobs", "2", "--quiet")  # fmt: skip
    python(folder, "fsar.cli.prep", "index", "--dataset", "ssv2", "--videos", "videos/videos", "--annotations",
           "videos/annotations", "--split", "videos/split.csv", "--out", "catalog.csv")  # fmt: skip
    python(folder, "fsar.cli.prep", "encode", "catalog.csv", "--backbone", BACKBONE, "--size", "64", "--out",
           "s.zarr")  # fmt: skip
    python(folder, "fsar.cli.train_head", "otam", "--store", "s.zarr", "--out", "run", "--test-episodes", "100",
           "--quiet")  # fmt: skip
    from fsar.pipeline.catalog.catalog import read_catalog

    of_class: dict[str, list[Path]] = {}
    for row in read_catalog(folder / "catalog.csv").rows:
        if row.part == "test":
            of_class.setdefault(row.class_name, []).append(row.path)
    for class_name, paths in list(of_class.items())[:5]:
        (folder / "support" / class_name).mkdir(parents=True)
        for path in paths[:5]:
            shutil.copy(path, folder / "support" / class_name)
    shutil.copy(next(iter(of_class.values()))[5], folder / "query.webm")


if __name__ == "__main__":
    main()
