"""How close `encode` comes to the machine's limit: the rate of the whole engine over the ideal one.

On CPUs the ideal clip takes the processor time of its decoding and of its forward pass on a ready batch, spread over
all cores: no resizing, no waiting, no writing. On a GPU the ideal is the forward pass alone. Since every encoder must
resize, a second ratio counts that as work, too. The engine is measured over the middle half of its run, its buffers
as full at the beginning as at the end: processes that start and the last batches that drain do not count. Everything is
measured in one run on the same clips, so only the ratios carry over to another machine; on a busy machine trust the CPU
ratio alone.

    python benchmarks/encode.py [--videos FOLDER] [--clips N] [--device cpu|cuda] [--jobs N] [--models a,b]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fsar.allocator import keep_big_buffers

if TYPE_CHECKING:
    from fsar.pipeline.encode.encode import EncodePlan
    from fsar.pipeline.encode.engine import EngineOptions, EngineReport
    from fsar.pipeline.encode.forward import Forward
    from fsar.pipeline.encode.staging import Item

N_FRAMES = 8
MODELS = {
    "ViT-B-32": ("random:open_clip/ViT-B-32", 224, 64),
    "RN50": ("random:open_clip/RN50", 224, 40),
    "small": ("random:timm/test_resnet", 64, 1200),
}
"""Backbone, pixels, and clips. Decoding dominates in `small`."""


@dataclass
class Row:
    """One line of the table; seconds are per clip, of processor time but for `engine`."""

    name: str
    decode: float
    prepare: float
    forward: float
    """Of a ready batch; on a GPU time on the clock."""
    engine: float
    """Time on the clock in the middle of a run."""
    engine_cpu: float
    engine_faults: float
    """Pages that this process was given anew, per clip of the whole run."""
    shares: dict[str, float]
    peak_bytes: int

    def text(self, n_cores: int, on_gpu: bool) -> str:
        """Return the line."""
        work = self.decode + self.forward
        ideal = self.forward if on_gpu else work / n_cores
        fair = self.forward if on_gpu else (work + self.prepare) / n_cores
        times = " ".join(f"{1000 * value:8.1f}" for value in (self.decode, self.prepare, self.forward, self.engine))
        ratios = " ".join(
            f"{value:9.2f}"
            for value in (ideal / self.engine, fair / self.engine, (work + self.prepare) / self.engine_cpu)
        )
        waits = " ".join(f"{self.shares[name]:8.0%}" for name in ("decode", "compute", "write"))
        return f"{self.name:12}{times} {ratios} {self.engine_faults:8.0f} {waits} {self.peak_bytes / 2**20:9.0f}"


HEADER = (
    f"{'ms per clip':12}{'decode':>8} {'resize':>8} {'forward':>8} {'engine':>8} {'ratio':>9} {'w. resize':>9} "
    f"{'CPU ratio':>9} {'faults':>8} {'w.decode':>8} {'compute':>8} {'w.write':>8} {'peak MiB':>9}"
)


class Watch:
    """Time and processor time at every batch that lands."""

    def __init__(self) -> None:
        self.n_clips = 0
        self.stamps: list[tuple[int, float, float]] = []

    def __call__(self, n_clips: int) -> None:
        """Note that so many clips landed."""
        self.n_clips += n_clips
        self.stamps.append((self.n_clips, time.perf_counter(), cpu_seconds()))

    def middle(self) -> tuple[float, float]:
        """Return seconds and processor seconds per clip over the middle half of the run."""
        first, last = self.stamps[len(self.stamps) // 4], self.stamps[len(self.stamps) * 3 // 4]
        n_clips = last[0] - first[0]
        return (last[1] - first[1]) / n_clips, (last[2] - first[2]) / n_clips


def write_clips(folder: Path, n_clips: int = 12) -> list[Path]:
    """Write 4-second clips of SSv2's size with moving texture."""
    import av

    paths = []
    for index in range(n_clips):
        path = folder / f"{index}.mp4"
        rng = np.random.default_rng(index)
        texture = rng.integers(0, 256, (60, 120, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=12)
            stream.width, stream.height, stream.pix_fmt = 428, 240, "yuv420p"
            for number in range(48):
                picture = np.ascontiguousarray(texture[number : number + 240, 2 * number : 2 * number + 428])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths


def cpu_seconds() -> float:
    """Return the processor time of this process and of all that it started and that run (Linux)."""
    total = time.process_time()
    for pid in descendants(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def descendants(pid: int) -> Iterator[int]:
    """Yield the processes that one started, and theirs."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def measure(name: str, videos: list[Path], arguments: argparse.Namespace, folder: Path) -> Row:
    """Measure the parts alone, then the engine."""
    from fsar.pipeline.backbones.taps import TapExtractor
    from fsar.pipeline.catalog.catalog import CatalogRow
    from fsar.pipeline.encode.encode import EncodeOptions, plan
    from fsar.pipeline.encode.engine import EngineOptions
    from fsar.pipeline.encode.forward import Forward
    from fsar.pipeline.pixels.prepare import CENTRE, prepare

    backbone, size, n_rows = MODELS[name]
    engine = EngineOptions(device=arguments.device, batch_size=arguments.batch_size, jobs=arguments.jobs)
    options = EncodeOptions(backbone, n_slots=N_FRAMES, size=size, precision=arguments.precision, engine=engine)
    rows = [CatalogRow(f"v{n}", videos[n % len(videos)], "x", 1, "train") for n in range(arguments.clips or n_rows)]
    prepared = plan(rows, options)
    clips, decode = decoded(videos[:12], options.sampler)
    extractor = TapExtractor(prepared.backbone, options.taps)
    with closing(extractor), closing(Forward(extractor, prepared.recipe, arguments.device)) as forward:
        spec = prepared.recipe.image
        resize = processor_time(lambda: [prepare(clip, spec) for clip in clips]) / len(clips)
        n_frames = engine.frames_per_batch(forward.device.type, size)
        items = [(clips[n % len(clips)], CENTRE) for n in range(max(n_frames // N_FRAMES, 1))]
        alone = time_forward(forward, items) / len(items)
        watch = Watch()
        before = page_faults()
        report = run_engine(folder / "store.zarr", prepared, forward, engine, watch)
        faults = (page_faults() - before) / len(rows)
    return Row(name, decode, resize, alone, *watch.middle(), faults, report.shares(), report.peak_memory_bytes)


def page_faults() -> int:
    """Return how many pages the system has given this process, each zeroed first."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def decoded(videos: list[Path], sampler: str) -> tuple[list[np.ndarray], float]:
    """Return the frames of each video and the processor time of decoding one."""
    from fsar.pipeline.encode.clip_task import ClipTask, decode_task

    tasks = [ClipTask("x", str(path), sampler, N_FRAMES, 1, 0) for path in videos]
    clips = [decode_task(task).frames for task in tasks]
    return clips, processor_time(lambda: [decode_task(task) for task in tasks]) / len(tasks)


def processor_time(work: Callable[[], object]) -> float:
    """Return the processor seconds of `work`, median of several."""
    times = []
    for _ in range(4):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return float(np.median(times[1:]))


def time_forward(forward: Forward, items: list[Item]) -> float:
    """Return the seconds of the backbone on a ready batch: on CPUs processor time, with all cores at work."""
    import torch

    on_gpu = forward.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    n_batches = 1 if on_gpu else forward.depth - 1

    def once(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            forward._on_device(batch)

    with torch.inference_mode():
        batch = forward._batch(items)
    times = []
    for _ in range(3):
        start = clock()
        with ThreadPoolExecutor(n_batches) as threads:
            list(threads.map(once, [batch] * n_batches))
        if on_gpu:
            torch.cuda.synchronize()
        times.append((clock() - start) / n_batches)
    return float(np.mean(times[1:]))


def run_engine(out: Path, prepared: EncodePlan, forward: Forward, options: EngineOptions, watch: Watch) -> EngineReport:
    """Fill a store, remove it, and return what the engine says."""
    from fsar.pipeline.encode.engine import Engine
    from fsar.pipeline.store import create_store

    recipe = prepared.recipe
    with create_store(
        out,
        videos=prepared.videos,
        taps=prepared.taps,
        n_views=recipe.n_views,
        n_slots=recipe.n_slots,
        recipe=recipe.to_dict(),
    ) as writer:
        report = Engine(writer, prepared.videos, recipe, prepared.taps, forward, options, watch).run()
    shutil.rmtree(out)
    return report


def main() -> None:
    """Print the table."""
    from fsar.pipeline.encode.workers import forked_decoders

    keep_big_buffers()  # as the commands do, before torch is imported: the ideal must not pay for page faults either
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of videos; made up when not given")
    parser.add_argument("--clips", type=int, help="clips to encode; by default as many as each model needs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=None)
    n_cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=n_cores)
    parser.add_argument("--models", default=",".join(MODELS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsar-bench-") as name:
        folder = Path(name)
        videos = sorted(arguments.videos.iterdir()) if arguments.videos else write_clips(folder)
        print(f"{N_FRAMES} frames a clip, {n_cores} cores, {arguments.jobs} decode processes, {arguments.precision}")
        print(HEADER)
        with forked_decoders():  # as the command does
            for model in arguments.models.split(","):
                row = measure(model, videos, arguments, folder)
                print(row.text(n_cores, arguments.device != "cpu"), flush=True)
    print("ratio = ideal / engine (1 is the limit); w. resize counts resizing as work; CPU ratio = decode, resize and")
    print("forward alone / all processor time used; faults = pages that the system gave, a clip; w.decode, w.write =")
    print("shares of the run spent waiting for them")


if __name__ == "__main__":
    main()
