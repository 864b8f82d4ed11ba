"""A step of fine-tuning against the backbone's and head's own forward and backward, two passes, packed frames.

    python benchmarks/finetune.py            # ratios; a few minutes on two cores
    python benchmarks/finetune.py --memory   # peak memory of a 400-frame episode through ViT-B/16: most of an hour

Every figure is a ratio within this run, beside its floor; both sides are first shown to compute the same gradients.
"""

import argparse
import copy
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from plain_heads import plain_trx

from fsar.device import seeded
from fsar.heads import EpisodeBatch, Targets, create_head
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.model import PIXELS, EndToEnd, on_features
from fsar.heads.finetune.step import Memory, backward, train_step
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.finetune.videos import VideoSet
from fsar.heads.finetune.visits import Visit
from fsar.heads.methods.trx import TRX
from fsar.heads.recipes.presets import CACHED
from fsar.pipeline.backbones import load_backbone

PRESET = replace(CACHED, episodes_per_step=1, n_episodes=1000, optimizer="sgd", lr=1e-6, clip_norm=None)
MODELS = {
    "test_resnet 64": ("random:timm/test_resnet", 64),
    "resnet18 224": ("random:torchvision/resnet18", 224),
    "ViT-B-32 224": ("random:open_clip/ViT-B-32", 224),
}


def episode(
    size: int, *, n_way: int, n_query: int, n_frames: int, n_shot: int = 1, seed: int = 0
) -> tuple[EpisodeBatch, Targets]:
    """Return an episode of noise."""
    generator = torch.Generator().manual_seed(seed)

    def frames(n: int) -> torch.Tensor:
        return torch.rand(1, n, n_frames, 3, size, size, generator=generator)

    support_labels = torch.arange(n_way).repeat_interleave(n_shot)[None]
    query_labels = torch.arange(n_way).repeat_interleave(n_query)[None]
    batch = EpisodeBatch({PIXELS: frames(n_way * n_shot)}, support_labels, {PIXELS: frames(n_way * n_query)}, n_way)
    return batch, Targets(query_labels)


def model_of(spec: str, size: int) -> EndToEnd:
    """Return a TRX on a random backbone that trains."""
    backbone = load_backbone(spec, size=size)
    backbone.module.requires_grad_(True)
    with seeded(0):
        head = create_head("trx", dim=backbone.dim, temp_set=(2,), out_dim=128, dropout=0.0)
    return EndToEnd(Tower(backbone, {"frames": "pooled"}), head)


def seconds(work: Callable[[], object], n: int) -> float:
    """Return the median processor time of a call, after one that does not count; others' work does not disturb it."""
    work()
    times = []
    for _ in range(n):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def step_table(names: list[str], n: int) -> None:
    """Print what share of a step is the backbone's and the head's own work, and what two passes cost."""
    print("| backbone | own forward + backward, CPU ms | step, CPU ms | own / step | two passes / one |")
    print("|---|---|---|---|---|")
    for name in names:
        spec, size = MODELS[name]
        model, tuning = model_of(spec, size), Tuning(batch_norm="eval")
        task = episode(size, n_way=3, n_query=1, n_frames=4)
        optimizer = finetune_optimizer(model, PRESET, tuning)
        check_equal(model, task, tuning)

        def own(model: EndToEnd = model, task: tuple[EpisodeBatch, Targets] = task) -> None:
            model.zero_grad(set_to_none=True)
            batch = on_features(task[0], model.tower)
            model.head.loss(batch, model.head.outputs(batch), task[1])["total"].backward()

        def step(memory: Memory, model: EndToEnd = model, task: tuple[EpisodeBatch, Targets] = task) -> None:
            train_step(model, [task], optimizer, PRESET, tuning, step=0, memory=memory)  # noqa: B023

        model.tower.batch_norm = "eval"
        model.train()
        bare, whole = seconds(own, n), seconds(lambda: step(Memory()), n)
        two = seconds(lambda: step(Memory(micro_batch=8)), n)
        print(f"| {name} | {1e3 * bare:.0f} | {1e3 * whole:.0f} | {bare / whole:.2f} | {two / whole:.2f} |")


def check_equal(model: EndToEnd, task: tuple[EpisodeBatch, Targets], tuning: Tuning) -> None:
    """Raise AssertionError unless two passes give the gradients of one."""
    found = []
    for memory in (Memory(), Memory(micro_batch=8)):
        model.zero_grad(set_to_none=True)
        backward(model, [task], PRESET, tuning, memory=memory)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))


def official_table(n: int) -> None:
    """Print a whole step of TRX, 4 tasks and the optimiser, by the released algorithm restated and by ours."""
    model, tuning = model_of("random:torchvision/resnet18", 112), Tuning(compat="official")
    preset = replace(PRESET, episodes_per_step=4)
    tasks = [episode(112, n_way=5, n_query=1, n_frames=4, seed=seed) for seed in range(4)]
    optimizer = finetune_optimizer(model, preset, tuning)
    head, tower = cast("TRX", model.head), model.tower.module

    def official() -> None:
        """Supports and queries through the ResNet, a loop over classes and queries, one loss after the other."""
        optimizer.zero_grad(set_to_none=True)
        for batch, targets in tasks:
            support, query = (tower(x[PIXELS].flatten(0, 2)).view(*x[PIXELS].shape[1:3], -1)
                              for x in (batch.support, batch.query))  # fmt: skip
            logits = plain_trx(head, support, batch.support_labels[0], query, batch.n_way)
            (F.cross_entropy(logits, targets.query_labels[0]) / len(tasks)).backward()
        optimizer.step()

    def ours() -> None:
        train_step(model, tasks, optimizer, preset, tuning, step=0)

    model.train()
    state, found = copy.deepcopy(model.state_dict()), []
    for work in (official, ours):
        model.load_state_dict(state)
        work()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))
    theirs, own = seconds(official, n), seconds(ours, n)
    print("| a step of TRX, resnet18 at 112, 4 tasks | CPU ms | against the released algorithm |\n|---|---|---|")
    print(f"| released algorithm, restated | {1e3 * theirs:.0f} | 1.00 |")
    print(f"| ours | {1e3 * own:.0f} | {own / theirs:.2f} |\n")


def reading_table(catalog: Path, pack: Path) -> None:
    """Print how many clips of 8 frames a second come from video files and from packed frames."""
    rates = {}
    for name, path in (("video files", catalog), ("packed frames", pack)):
        videos = VideoSet.open(path)
        visits = [Visit(row, "uniform-random", 8, 0, 1) for row in range(len(videos.videos))]
        with videos.reader(jobs=1 if name == "packed frames" else 0) as reader:
            start = time.process_time()
            n_read = sum(1 for _ in reader.read(visits))
            rates[name] = n_read / (time.process_time() - start)
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} clips per CPU second | {rate / rates['video files']:.1f} |")


def memory_table() -> None:
    """Print the peak memory of one 5-way 5-shot episode with 25 queries of 8 frames through ViT-B/16 at 224 pixels."""
    model = model_of("random:open_clip/ViT-B-16", 224)
    task = episode(224, n_way=5, n_shot=5, n_query=5, n_frames=8)
    backward(model, [task], PRESET, Tuning(), memory=Memory(micro_batch=16))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"400 frames through ViT-B/16, --micro-batch 16: peak {peak:.1f} GB (limit: 16 GB)")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure the large episode only")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.memory:
        return memory_table()
    step_table(arguments.models, arguments.repeats)
    print()
    official_table(arguments.repeats)
    print("| 8 random frames of short webm clips, one core | rate | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        reading_table(*synthetic(Path(folder)))
    return None


def synthetic(folder: Path) -> tuple[Path, Path]:
    """Return a catalog of synthetic videos and their pack."""
    from fsar.cli.prep import prep

    def run(*arguments: str) -> None:
        prep.main([*arguments], standalone_mode=False)

    videos, catalog, pack = folder / "videos", folder / "catalog.csv", folder / "all.frames"
    run("synth", str(videos), "--clips", "2")
    run("index", "--dataset", "ssv2", "--videos", str(videos / "videos"), "--annotations", str(videos / "annotations"),
        "--out", str(catalog))  # fmt: skip
    run("extract", str(catalog), "--layout", "packed", "--frames", "16", "--out", str(pack), "--quiet")
    return catalog, pack


if __name__ == "__main__":
    main()
