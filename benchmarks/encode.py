"""How close `encode` comes to the machine's limit: the rate of the whole engine over the ideal one.

The ideal clip takes its decoding (processor time, spread over all cores) plus its forward pass on a ready batch, and
nothing else: no resizing, no waiting, no writing, no process that starts. Everything is measured in one run on the same
clips, so only the ratios carry over to another machine. On a GPU the ideal is the forward pass alone.

    python benchmarks/encode.py [--videos FOLDER] [--clips N] [--device cpu|cuda] [--jobs N] [--models a,b]
"""

import argparse
import os
import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

N_FRAMES = 8
MODELS = {
    "ViT-B-32": ("random:open_clip/ViT-B-32", 224, 200),
    "RN50": ("random:open_clip/RN50", 224, 100),
    "small": ("random:timm/test_resnet", 64, 1500),
}
"""Backbone, pixels, and clips: enough that starting the decode processes (about a second) does not count. Decoding
dominates in `small`."""


@dataclass
class Row:
    """One line of the table; times are per clip."""

    name: str
    decode_seconds: float
    forward_seconds: float
    prepare_seconds: float
    engine_seconds: float
    cpu_ratio: float
    shares: dict[str, float]
    peak_bytes: int

    def text(self, n_cores: int, on_gpu: bool) -> str:
        """Return the line."""
        ideal = self.forward_seconds if on_gpu else self.decode_seconds / n_cores + self.forward_seconds
        times = " ".join(
            f"{1000 * value:8.1f}"
            for value in (self.decode_seconds, self.forward_seconds, self.prepare_seconds, self.engine_seconds)
        )
        waits = " ".join(f"{self.shares[name]:7.0%}" for name in ("decode", "compute", "write"))
        return (
            f"{self.name:22}{times} {ideal / self.engine_seconds:7.2f} {self.cpu_ratio:9.2f} {waits} "
            f"{self.peak_bytes / 2**20:8.0f}"
        )


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
    """Return the processor time of this process and its finished children."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(name: str, videos: list[Path], arguments: argparse.Namespace, folder: Path) -> Row:
    """Measure the parts alone, then the engine."""
    import torch

    from fsar.pipeline.catalog import CatalogRow
    from fsar.pipeline.encode import EncodeOptions, encode, plan
    from fsar.pipeline.engine import EngineOptions
    from fsar.pipeline.engine_forward import Forward
    from fsar.pipeline.images import CENTRE, prepare
    from fsar.pipeline.taps import TapExtractor
    from fsar.pipeline.workers import ClipTask, decode_task

    backbone, size, n_rows = MODELS[name]
    n_rows = arguments.clips or n_rows
    engine = EngineOptions(device=arguments.device, batch_size=arguments.batch_size, jobs=arguments.jobs)
    options = EncodeOptions(backbone, n_slots=N_FRAMES, size=size, precision=arguments.precision, engine=engine)
    rows = [CatalogRow(f"v{n}", videos[n % len(videos)], "x", 1, "train") for n in range(n_rows)]
    prepared = plan(rows, options)
    sample = videos[:12]
    tasks = [ClipTask("x", str(path), options.sampler, N_FRAMES, 1, 0) for path in sample]
    decode_task(tasks[0])
    start = time.process_time()
    clips = [decode_task(task) for task in tasks]
    decode_seconds = (time.process_time() - start) / len(tasks)

    extractor = TapExtractor(prepared.backbone, options.taps)
    forward = Forward(extractor, prepared.recipe, arguments.device)
    n_clips = max(arguments.batch_size // N_FRAMES, 1)
    items = [(clips[n % len(clips)].frames, CENTRE) for n in range(n_clips)]
    start = time.perf_counter()
    for frames, view in items:
        prepare(frames, prepared.recipe.image, view)
    prepare_seconds = (time.perf_counter() - start) / n_clips
    forward_seconds, forward_cpu = time_forward(forward, items, n_clips)
    extractor.close()

    out = folder / "store.zarr"
    start_cpu = cpu_seconds()
    report = encode(rows, out, options, quiet=True, prepared=prepared)
    engine_cpu = (cpu_seconds() - start_cpu) / len(rows)
    shutil.rmtree(out)
    if arguments.device != "cpu":
        torch.cuda.empty_cache()
    return Row(
        name,
        decode_seconds,
        forward_seconds,
        prepare_seconds,
        report.run.seconds / len(rows),
        (decode_seconds + forward_cpu) / engine_cpu,
        report.run.shares(),
        report.run.peak_memory_bytes,
    )


def time_forward(forward: object, items: list, n_clips: int) -> tuple[float, float]:
    """Return wall and processor seconds per clip of the backbone on a ready batch, median of several."""
    import torch

    with torch.inference_mode():
        batch = forward._batch(items)
        times = []
        for _ in range(6):
            start, start_cpu = time.perf_counter(), time.process_time()
            forward._on_device(batch)
            if batch.is_cuda:
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start, time.process_time() - start_cpu))
    wall, processor = np.median(np.array(times[1:]), axis=0) / n_clips
    return float(wall), float(processor)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, help="folder of videos; made up when not given")
    parser.add_argument("--clips", type=int, help="clips to encode; by default as many as each model needs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch-size", type=int, default=64)
    n_cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=n_cores)
    parser.add_argument("--models", default=",".join(MODELS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsar-bench-") as name:
        folder = Path(name)
        videos = sorted(arguments.videos.iterdir()) if arguments.videos else write_clips(folder)
        print(f"{N_FRAMES} frames a clip, {n_cores} cores, {arguments.jobs} decode processes, {arguments.precision}")
        print(
            f"{'ms per clip':22}{'decode':>8} {'forward':>8} {'prepare':>8} {'engine':>8} {'ratio':>7}",
            f"{'CPU ratio':>9}",
            end=" ",
        )
        print(f"{'w.dec':>7} {'compute':>7} {'w.write':>7} {'peak MiB':>8}")
        for model in arguments.models.split(","):
            row = measure(model, videos, arguments, folder)
            print(row.text(n_cores, arguments.device != "cpu"), flush=True)
    print(
        "ratio = ideal / engine (1 is the limit); CPU ratio = processor time of decode and forward / all that was used"
    )


if __name__ == "__main__":
    main()
