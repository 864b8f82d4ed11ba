"""Decoding 8 uniformly spaced frames of short clips, against the floor: decoding every frame and converting none.

    python benchmarks/decode.py [--videos N]

Rounds alternate, the best of each counts; one thread. The floor is what the codec itself costs.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.inspect.facts import read_facts
from fsar.pipeline.synth.synth import SynthSettings, synthesize
from fsar.pipeline.video.decode import get_decoder
from fsar.pipeline.video.sample import sample_indices


def main() -> None:
    """Print a table per container."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=36)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways: dict[str, Callable[[Path], object]] = {
        "floor: decode, convert none": decode_only,
        "fsar-prep check: packets and the first frame": check,
        "fsar pyav, 8 frames": decode_with("pyav", 8),
        "fsar pyav, every frame": decode_with("pyav", None),
        "fsar decord, 8 frames": decode_with("decord", 8),
        "fsar torchcodec, 8 frames": decode_with("torchcodec", 8),
    }
    with tempfile.TemporaryDirectory() as folder:
        for container in ("webm", "mp4", "avi"):
            settings = SynthSettings(clips=-(-options.videos // 36), container=container)
            synthesize(Path(folder) / container, settings, n_jobs=2, quiet=True)
            paths = sorted((Path(folder) / container / "videos").iterdir())[: options.videos]
            report(container, paths, ways, options.rounds)


def report(container: str, paths: list[Path], ways: dict[str, Callable[[Path], object]], n_rounds: int) -> None:
    """Print one table."""
    seconds: dict[str, list[float]] = {}
    for _ in range(n_rounds):
        for name, way in ways.items():
            try:
                seconds.setdefault(name, []).append(timed(way, paths))
            except InputError as error:
                print(f"{name}: {error}")
    floor = min(seconds["floor: decode, convert none"])
    print(f"\n{container}: {len(paths)} clips of 427x240, 2-4 s")
    for name, values in seconds.items():
        if values:
            print(f"  {name:<46}{1000 * min(values) / len(paths):>8.2f} ms/clip{min(values) / floor:>8.2f} x floor")


def timed(way: Callable[[Path], object], paths: list[Path]) -> float:
    """Return the seconds for all clips."""
    start = time.perf_counter()
    for path in paths:
        way(path)
    return time.perf_counter() - start


def decode_only(path: Path) -> int:
    """Decode every frame and keep none."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in container.decode(stream))


def check(path: Path) -> object:
    """Read what `fsar-prep check` reads of a video."""
    return read_facts(CatalogRow(path.stem, path, "class", path.stat().st_size))


def decode_with(name: str, n_slots: int | None) -> Callable[[Path], object]:
    """Return a way to decode `n_slots` frames, or all of them."""

    def choose(n_frames: int) -> np.ndarray:
        return np.arange(n_frames) if n_slots is None else sample_indices("uniform-center", n_frames, n_slots)

    return lambda path: get_decoder(name).decode(path, choose)


if __name__ == "__main__":
    main()
