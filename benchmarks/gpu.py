"""Everything that a GPU does here, in one run of a few minutes on any CUDA machine.

    python benchmarks/gpu.py [--json gpu.json] [--videos FOLDER] [--jobs N]
    python benchmarks/gpu.py --device cpu --tiny       # the logic alone, on a machine without a GPU

It prints, under the name of the GPU: what the device computes against what the CPU computes, heads and, by precision,
features; alignment in one kernel against the same in small steps; encoding against the bare forward pass, from ready
clips and with decoding, in float32, with TF32 and in half precision; kernels, copies and waits of a training step;
heads against the plain statements of their algorithms; a test of many episodes; a step of fine-tuning and its peak
memory.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import encode as encode_benchmark
import finetune as finetune_benchmark
import heads as heads_benchmark
import torch

from fsar.allocator import keep_big_buffers
from fsar.device import seeded
from fsar.heads import EpisodeBatch, Head, Targets, create_head, list_heads
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.step import Memory, train_step
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.head import head_type
from fsar.heads.layers.alignment import ProductAlignment, fused_alignment, log_alignment
from fsar.heads.recipes.presets import CACHED
from fsar.heads.training.optim import make_optimizer
from fsar.heads.training.step import train_step as head_step
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.encode.encode import EncodeOptions
from fsar.pipeline.encode.forward import Forward
from fsar.pipeline.encode.plan import recipe_of
from fsar.pipeline.encode.precision import has_tf32
from fsar.pipeline.pixels.prepare import CENTRE

Row = dict[str, Any]
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    dim: int = 2048
    n_test_episodes: int = 10_000
    n_plain_episodes: int = 30
    n_test_videos: int = 100
    """Of each class."""
    every_case: int = 1
    """1 measures every case, 4 every fourth."""
    rounds: int = 5
    encoded: tuple[str, ...] = ("ViT-B-16", "RN50", "small")
    precisions: tuple[str, ...] = ("fp32", "tf32", "amp-bf16")
    n_clips: int = 1500
    aligned: tuple[tuple[int, int], ...] = ((125, 8), (625, 8), (10_000, 8), (625, 16), (625, 32))
    """Matrices and frames: an episode of 1 and of 5 shots, 16 of these, and longer videos."""
    tuned: tuple[str, ...] = ("resnet18 224", "ViT-B-32 224")


TINY = Sizes(
    dim=32,
    n_test_episodes=20,
    n_plain_episodes=2,
    n_test_videos=6,
    every_case=4,
    rounds=1,
    encoded=("small",),
    precisions=("fp32", "tf32", "amp-bf16"),
    n_clips=24,
    aligned=((10, 8), (3, 5)),
    tuned=("test_resnet 64",),
)
encode_benchmark.MODELS["ViT-B-16"] = ("random:open_clip/ViT-B-16", 224, 64)


def episode(dim: int, *, n_shot: int = 1, n_query: int = 5, n_way: int = 5) -> tuple[EpisodeBatch, Targets]:
    """Return one episode of random frames and the labels of its queries."""
    generator = torch.Generator().manual_seed(0)

    def frames(n: int) -> torch.Tensor:
        return torch.randn(1, n, heads_benchmark.N_FRAMES, dim, generator=generator).relu()

    support_labels = torch.arange(n_way).repeat(n_shot)[None]
    query_labels = torch.arange(n_way).repeat(n_query)[None]
    batch = EpisodeBatch({"frames": frames(n_way * n_shot)}, support_labels, {"frames": frames(n_way * n_query)}, n_way)
    return batch, Targets(query_labels)


def plain_heads(dim: int) -> dict[str, Head]:
    """Return the heads that need frames and their width alone, without dropout."""
    found = {}
    for name in list_heads():
        kind = head_type(name)
        if [need.role for need in kind.inputs] != ["frames"] or kind.text == "required":
            continue
        takes_dim = "dim" in kind.__init__.__annotations__
        with seeded(0):
            head = create_head(name, **({"dim": dim} if takes_dim else {}))
        if head.training_unit == "episodes":
            found[name] = head.eval()
    return found


def parity(device: str, sizes: Sizes) -> list[Row]:
    """Return the largest difference of logits on the device and on the CPU, relative to the largest logit."""
    batch, _ = episode(sizes.dim)
    rows = []
    for name, head in plain_heads(sizes.dim).items():
        with torch.no_grad():
            expected = head(batch)
            found = head.to(device)(batch.to(device)).cpu()
        difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
        same = float((found.argmax(-1) == expected.argmax(-1)).float().mean())
        rows.append({"head": name, "relative difference": difference, "same answers": same})
    return rows


def encoding(device: str, sizes: Sizes, arguments: argparse.Namespace) -> list[Row]:
    """Return clips a second of the forward pass on ready clips and of the whole engine with decoding."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="fsar-bench-") as name:
        folder = Path(name)
        videos = sorted(arguments.videos.iterdir()) if arguments.videos else encode_benchmark.write_clips(folder)
        for precision in sizes.precisions:
            for model in sizes.encoded if has_precision(precision, device) else ():
                options = argparse.Namespace(
                    device=device, batch_size=None, jobs=arguments.jobs, precision=precision, clips=sizes.n_clips
                )
                row = encode_benchmark.measure(model, videos, options, folder)
                rows.append(
                    {
                        "backbone": model,
                        "precision": precision,
                        "clips/s, forward alone": 1 / row.forward,
                        "clips/s, whole": 1 / row.engine,
                        "clips/s, decoding alone, all jobs": arguments.jobs / row.decode,
                        "waiting for decoding": row.shares["decode"],
                        "peak MiB (host)": row.peak_bytes / 2**20,
                    }
                )
    return rows


def has_precision(precision: str, device: str) -> bool:
    """Return whether a device can encode with a precision."""
    return precision != "tf32" or has_tf32(torch.device(device))


def arithmetic(device: str, sizes: Sizes) -> list[Row]:
    """Return how far features on the device are from those of the CPU in float32, by precision."""
    rows = []
    clip = torch.randint(
        0, 256, (8, 240, 320, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).numpy()
    for model in sizes.encoded:
        expected = features_of(model, clip, "fp32", "cpu")
        for precision in sizes.precisions:
            if not has_precision(precision, device):
                continue
            found = features_of(model, clip, precision, device)
            rows.append(
                {
                    "backbone": model,
                    "precision": precision,
                    "relative difference": float((found - expected).abs().max() / expected.abs().max()),
                    "least cosine": float(torch.cosine_similarity(found, expected).min()),
                }
            )
    return rows


def features_of(model: str, clip: Any, precision: Any, device: str) -> torch.Tensor:
    """Return the pooled features (T, D) of one clip."""
    spec, size, _ = encode_benchmark.MODELS[model]
    options = EncodeOptions(spec, n_slots=len(clip), size=size, precision=precision, dtype="float32")
    backbone = load_backbone(spec, size=size)
    recipe, _ = recipe_of(backbone, options)
    with (
        closing(TapExtractor(backbone, recipe.taps)) as extractor,
        closing(Forward(extractor, recipe, device)) as forward,
    ):
        features = forward.start([(clip, CENTRE)]).result()["pooled"][0]
    return torch.from_numpy(features)


def alignment(device: str, sizes: Sizes) -> list[Row]:
    """Return cost and gradient of soft alignment both ways: small steps against one kernel each, where there is one."""
    rows = []
    for n_matrices, n_frames in sizes.aligned:
        distance = 2 * torch.rand(n_matrices, n_frames, n_frames, generator=torch.Generator().manual_seed(0))
        x = distance.to(device)
        forms: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "small steps": lambda d: ProductAlignment.apply(d, 0.1, True),
            "logarithms": lambda d: log_alignment(d, 0.1) + log_alignment(d.transpose(-1, -2), 0.1),
        }
        if (fused := fused_alignment(x)) is not None:
            forms["one kernel"] = lambda d, fused=fused: fused.apply(d, 0.1, True)  # type: ignore[misc]
        expected = forms["logarithms"](distance.double())
        for form, align in forms.items():

            def work(align: Any = align, x: torch.Tensor = x) -> torch.Tensor:
                leaf = x.detach().requires_grad_()
                align(leaf).sum().backward()
                return leaf

            error = float((align(x).cpu().double() - expected).abs().max())
            counts = calls(work, device)
            took = 1e3 * seconds(work, device, sizes.rounds)
            rows.append(
                {"matrices": n_matrices, "frames": n_frames, "form": form, **counts, "ms": took, "error": error}
            )
    return rows


def steps(device: str, sizes: Sizes) -> list[Row]:
    """Return kernels, copies and waits of one training step of each head, and its milliseconds."""
    batch, targets = episode(sizes.dim)
    rows = []
    for name, head in plain_heads(sizes.dim).items():
        if not any(parameter.requires_grad for parameter in head.parameters()):
            continue
        head.to(device).train()
        optimizer = make_optimizer(head, CACHED)
        on_device = batch.to(device), Targets(targets.query_labels.to(device))

        def step(head: Head = head, optimizer: Any = optimizer, on_device: Any = on_device) -> None:
            head_step(head, *on_device, optimizer)

        counts = calls(step, device)
        milliseconds = 1e3 * seconds(step, device, sizes.rounds)
        rows.append({"head": name, **counts, "ms": milliseconds})
    return rows


def calls(work: Callable[[], object], device: str) -> Row:
    """Return what a call asks of the driver; on a CPU the operations of torch, for there is no driver."""
    from torch.profiler import ProfilerActivity, profile

    work()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device != "cpu" else [])]
    with profile(activities=activities) as profiler:
        work()
    counts: Counter[str] = Counter()
    for event in profiler.events():
        counts[event.name] += 1
    if device == "cpu":
        return {"operations": sum(n for name, n in counts.items() if name.startswith("aten::"))}
    return {
        "kernels": sum(counts[name] for name in LAUNCHES),
        "copies": counts["cudaMemcpyAsync"],
        "waits": sum(counts[name] for name in WAITS),
    }


def seconds(work: Callable[[], object], device: str, n: int) -> float:
    """Return the median time of a call, after one that does not count."""
    times = []
    for _ in range(n + 1):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def algorithms(device: str, sizes: Sizes) -> list[Row]:
    """Return each head against the plain statement of its algorithm, in steps and in a test."""
    rows = []
    heads_benchmark.N_TEST_VIDEOS = sizes.n_test_videos
    for case in heads_benchmark.CASES[:: sizes.every_case]:
        small = heads_benchmark.Case(**(asdict(case) | {"dim": min(case.dim, sizes.dim)}))
        timed = heads_benchmark.time_case(small, device, sizes.rounds)
        rows.append(
            {"case": small.title, "plain ms": 1e3 * timed.plain, "ms": 1e3 * timed.ours, "x": timed.plain / timed.ours}
        )
    for name in ("otam", "trx", "hyrsm"):
        plain, ours = heads_benchmark.time_test(name, device, sizes.n_test_episodes, sizes.n_plain_episodes)
        rows.append({"case": f"{name} test, an episode", "plain ms": 1e3 * plain, "ms": 1e3 * ours, "x": plain / ours})
    return rows


def tuning(device: str, sizes: Sizes) -> list[Row]:
    """Return milliseconds and peak memory of a step that trains backbone and head."""
    rows = []
    for name in sizes.tuned:
        spec, size = finetune_benchmark.MODELS[name]
        model = finetune_benchmark.model_of(spec, size).to(device).train()
        batch, targets = finetune_benchmark.episode(size, n_way=3, n_query=1, n_frames=4)
        task, options = (batch.to(device), Targets(targets.query_labels.to(device))), Tuning(batch_norm="eval")
        optimizer = finetune_optimizer(model, finetune_benchmark.PRESET, options)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()

        def step(memory: Memory, model: Any = model, task: Any = task, optimizer: Any = optimizer) -> None:
            train_step(
                model, [task], optimizer, finetune_benchmark.PRESET, Tuning(batch_norm="eval"), step=0, memory=memory
            )

        for title, memory in (("one pass", Memory()), ("two passes", Memory(micro_batch=8))):
            took = seconds(lambda memory=memory: step(memory), device, sizes.rounds)  # type: ignore[misc]
            peak = torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else float("nan")
            rows.append({"backbone": name, "form": title, "ms": 1e3 * took, "peak MiB (device)": peak})
    return rows


def show(title: str, rows: list[Row]) -> None:
    """Print rows as a table in Markdown."""
    print(f"\n### {title}\n")
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print(
            "| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()) + " |", flush=True
        )


def main() -> None:
    """Print the tables and write them as JSON."""
    keep_big_buffers()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that show the logic and no speed")
    parser.add_argument("--videos", type=Path, help="folder of videos; made up when not given")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--only", default="", help="tables whose title has this in it, or one of several with | between"
    )
    parser.add_argument("--json", type=Path, help="also write everything here")
    arguments = parser.parse_args()
    device, sizes = arguments.device, TINY if arguments.tiny else Sizes()
    if device != "cpu" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; --device cpu --tiny shows the logic")
    name = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    print(f"## {name}, torch {torch.__version__}, {arguments.jobs} decode processes")
    tables = {
        "The device against the CPU": lambda: parity(device, sizes),
        "Arithmetic of features": lambda: arithmetic(device, sizes),
        "Alignment": lambda: alignment(device, sizes),
        "Encoding": lambda: encoding(device, sizes, arguments),
        "A training step": lambda: steps(device, sizes),
        "Heads against their plain statements": lambda: algorithms(device, sizes),
        "A step of fine-tuning": lambda: tuning(device, sizes),
    }
    failed: list[str] = []
    measured: Row = {"device": name, "torch": torch.__version__}
    for title, measure in tables.items():
        if not any(part in title for part in arguments.only.split("|")):
            continue
        try:
            measured[title] = measure()
        except Exception as error:  # the other tables are worth the machine's time
            failed.append(title)
            measured[title] = f"failed: {error}"
            traceback.print_exc()
        else:
            show(title, measured[title])
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=2))
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
