"""A step of fine-tuning against the backbone's and head's own forward and backward, two passes, packed frames.

    python benchmarks/finetune.py            # ratios; a few minutes on two cores
    python benchmarks/finetune.py --memory   # peak memory of a 400-frame episode through ViT-B/16: most of an hour,
                                             # or with --chunks 3, which show the peak, some minutes

Every figure is a ratio within this run, beside its floor; both sides are first shown to compute the same gradients.
"""

import argparse
import contextlib
import copy
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from packs import write_clips
from plain_heads import plain_trx

from fsar.allocator import keep_big_buffers
from fsar.device import seeded
from fsar.heads import EpisodeBatch, Targets, create_head
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.model import PIXELS, EndToEnd, on_features
from fsar.heads.finetune.step import Memory, backward, train_step
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.trainable import set_trainable
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.finetune.upper import UpperTower, tokens_below
from fsar.heads.finetune.videos import VideoSet
from fsar.heads.finetune.visits import Visit
from fsar.heads.methods.trx import TRX
from fsar.heads.recipes.presets import CACHED
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog

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


def seconds(n: int, *works: Callable[[], object]) -> list[float]:
    """Return the least processor time of each work, after a call that does not count.

    They take turns, so that whatever else the machine does meets all of them alike; it can only add to their time.
    """
    times: list[list[float]] = [[] for _ in works]
    for turn in range(n + 1):
        for work, own in zip(works, times, strict=True):
            start = time.process_time()
            work()
            if turn:
                own.append(time.process_time() - start)
    return [min(own) for own in times]


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
            batch = on_features(task[0], model.tower.embed)
            model.head.loss(batch, model.head.outputs(batch), task[1])["total"].backward()

        def step(memory: Memory, model: EndToEnd = model, task: tuple[EpisodeBatch, Targets] = task) -> None:
            train_step(model, [task], optimizer, PRESET, tuning, step=0, memory=memory)  # noqa: B023

        model.tower.batch_norm = "eval"
        model.train()
        bare, whole, two = seconds(n, own, lambda: step(Memory()), lambda: step(Memory(micro_batch=8)))
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
            (F.cross_entropy(logits, targets.query_labels[0], reduction="sum") / len(tasks)).backward()
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
    theirs, own = seconds(n, official, ours)
    print("| a step of TRX, resnet18 at 112, 4 tasks | CPU ms | against the released algorithm |\n|---|---|---|")
    print(f"| released algorithm, restated | {1e3 * theirs:.0f} | 1.00 |")
    print(f"| ours | {1e3 * own:.0f} | {own / theirs:.2f} |\n")


def upper_table(n: int) -> None:
    """Print what the last block costs to train from frames, the lower ones frozen, and from their stored tokens."""
    backbone = load_backbone("random:open_clip/ViT-B-32", size=224)
    frames = torch.rand(24, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    whole = Tower(backbone, {"frames": "pooled"})
    set_trainable(whole, "last:1")
    with torch.no_grad():
        (tokens,) = TapExtractor(backbone, [tokens_below(backbone, 1)])(frames).values()
    upper, found = UpperTower(backbone, 1, {"frames": "pooled"}), []

    def work(tower: Tower, inputs: torch.Tensor) -> None:
        tower.zero_grad(set_to_none=True)
        tower(inputs)["frames"].square().sum().backward()

    for tower, inputs in ((whole, frames), (upper, tokens)):
        work(tower, inputs)
        found.append({p.data_ptr(): p.grad.clone() for p in tower.parameters() if p.grad is not None})
    for place, grad in found[0].items():
        torch.testing.assert_close(found[1][place], grad, rtol=1e-3, atol=1e-4 * float(grad.abs().max()))
    slow, fast = seconds(n, lambda: work(whole, frames), lambda: work(upper, tokens))
    print("| last:1 of ViT-B-32, 24 frames | CPU ms | ratio |\n|---|---|---|")
    print(f"| from frames, the lower blocks frozen | {1e3 * slow:.0f} | 1.0 |")
    print(f"| from stored tokens | {1e3 * fast:.0f} | {slow / fast:.1f} |\n")


def reading_table(catalog: Path, pack: Path, n: int) -> None:
    """Print how many clips of 8 frames a second come from video files and from packed frames."""
    sets = {"video files": VideoSet.open(catalog), "packed frames": VideoSet.open(pack)}
    visits = [Visit(row, "uniform-random", 8, 0, 1) for row in range(len(sets["video files"].videos))]
    with sets["video files"].reader(jobs=0) as files, sets["packed frames"].reader(jobs=1) as frames:
        works = [lambda reader=reader: sum(1 for _ in reader.read(visits)) for reader in (files, frames)]
        rates = [len(visits) / taken for taken in seconds(n, *works)]
    for name, rate in zip(sets, rates, strict=True):
        print(f"| {name} | {rate:.0f} clips per CPU second | {rate / rates[0]:.1f} |")


class Enough(Exception):
    """So many chunks went backward as were asked for."""


def memory_table(n_chunks: int | None) -> None:
    """Print the peak memory of one 5-way 5-shot episode with 25 queries of 8 frames through ViT-B/16 at 224 pixels.

    All chunks of the second pass are alike, so that the first few show the peak.
    """
    model = model_of("random:open_clip/ViT-B-16", 224)
    task = episode(224, n_way=5, n_shot=5, n_query=5, n_frames=8)
    done = 0

    def note(gradient: torch.Tensor) -> None:
        nonlocal done
        done += 1

    def stop(*_: object) -> None:
        if done == n_chunks:
            raise Enough

    def watch(module: object, inputs: object, features: dict[str, torch.Tensor]) -> None:
        for tensor in features.values():
            if tensor.requires_grad:
                tensor.register_hook(note)

    model.tower.register_forward_pre_hook(stop)
    model.tower.register_forward_hook(watch)
    with contextlib.suppress(Enough):
        backward(model, [task], PRESET, Tuning(), memory=Memory(micro_batch=16))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"400 frames through ViT-B/16, --micro-batch 16, {done} of 26 chunks backward: peak {peak:.1f} GB (limit: 16)"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure the large episode only")
    parser.add_argument("--chunks", type=int, help="with --memory: stop after so many chunks of the second pass")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    keep_big_buffers()  # as the commands do
    if arguments.memory:
        return memory_table(arguments.chunks)
    step_table(arguments.models, arguments.repeats)
    print()
    official_table(arguments.repeats)
    upper_table(arguments.repeats)
    print("| 8 random frames of webm clips of SSv2's size, one core | rate | ratio |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        reading_table(*ssv2_sized(Path(folder)), arguments.repeats)
    return None


def ssv2_sized(folder: Path, n_clips: int = 12) -> tuple[Path, Path]:
    """Return a catalog of made clips of SSv2's size (427 x 240, 48 frames, VP9 in webm) and their pack."""
    from fsar.cli.prep import prep

    videos, pack = folder / "videos", folder / "all.frames"
    videos.mkdir()
    rows = [CatalogRow(path.stem, path, "class", path.stat().st_size, "train") for path in write_clips(videos, n_clips)]
    write_catalog(Catalog(tuple(rows), "made"), folder / "catalog.csv")
    arguments = [
        "extract",
        str(folder / "catalog.csv"),
        "--layout",
        "packed",
        "--frames",
        "16",
        "--out",
        str(pack),
        "--quiet",
    ]
    prep.main(arguments, standalone_mode=False)
    return folder / "catalog.csv", pack


if __name__ == "__main__":
    main()
