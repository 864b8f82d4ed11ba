"""Conversion against its floor: the ffmpeg program over the same files with the same settings, as many at a time.

    python benchmarks/convert.py [--videos N] [--jobs J] [--preset P]

Ours also decodes and checks every result; ffmpeg does not. Rounds alternate, the best of each side counts.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.rewrite.convert import convert
from fsar.pipeline.synth.synth import SynthSettings, synthesize
from fsar.pipeline.video.transcode import X264_PARAMS, ConvertSettings

TARGET = 0.95


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=72)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", nargs="+", default=["ultrafast", "veryfast", "medium"])
    options = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        raise SystemExit("this benchmark needs the ffmpeg program")
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder), options.videos)
        warm_up(sources[: options.jobs], Path(folder), options.jobs)
        print(f"{len(sources)} clips of 427x240, {options.jobs} processes; floor = the ffmpeg program")
        print(f"{'preset':<12}{'ffmpeg':>12}{'fsar, verified':>18}{'ratio':>8}   target {TARGET}")
        for preset in options.presets:
            report(preset, sources, Path(folder), options.jobs, options.rounds)


def make_sources(folder: Path, n_videos: int) -> list[Path]:
    """Return the clips to convert."""
    synthesize(folder / "set", SynthSettings(clips=-(-n_videos // 36)), n_jobs=2, quiet=True)
    return sorted((folder / "set" / "videos").iterdir())[:n_videos]


def warm_up(sources: list[Path], folder: Path, n_jobs: int) -> None:
    """Start the worker processes: a run over a data set pays for them once."""
    run_ours(sources, folder / "warm", ConvertSettings(), n_jobs)


def report(preset: str, sources: list[Path], folder: Path, n_jobs: int, n_rounds: int) -> None:
    """Print one row."""
    settings = ConvertSettings(preset=preset)
    seconds: dict[str, list[float]] = {"ffmpeg": [], "fsar": []}
    for index in range(n_rounds):
        seconds["ffmpeg"].append(run_ffmpeg(sources, folder / f"ffmpeg-{preset}-{index}", settings, n_jobs))
        seconds["fsar"].append(run_ours(sources, folder / f"fsar-{preset}-{index}", settings, n_jobs))
    floor, ours = (len(sources) / min(seconds[side]) for side in ("ffmpeg", "fsar"))
    print(f"{preset:<12}{floor:>10.1f}/s{ours:>16.1f}/s{ours / floor:>8.2f}")


def run_ours(sources: list[Path], out: Path, settings: ConvertSettings, n_jobs: int) -> float:
    """Return the seconds that our conversion takes, results checked."""
    catalog = Catalog(tuple(CatalogRow(path.stem, path, "class", 1) for path in sources), "benchmark")
    start = time.perf_counter()
    result = convert(catalog, out, settings, n_jobs=n_jobs, quiet=True)
    seconds = time.perf_counter() - start
    assert result.done == len(sources), result.failures
    return seconds


def run_ffmpeg(sources: list[Path], out: Path, settings: ConvertSettings, n_jobs: int) -> float:
    """Return the seconds that the ffmpeg program takes, one process per file."""
    out.mkdir()

    def one(source: Path) -> None:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-i", str(source), "-threads", "1"]
        command += ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-fps_mode", "passthrough", "-pix_fmt", "yuv420p"]
        command += ["-c:v", "libx264", "-preset", settings.preset, "-crf", str(settings.crf)]
        command += ["-x264-params", X264_PARAMS, "-movflags", "+faststart", str(out / f"{source.stem}.mp4")]
        subprocess.run(command, check=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(one, sources))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
