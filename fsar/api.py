"""What `import fsar` offers beside heads and stores: the commands as functions, with the same names and checks.

    catalog = fsar.index("ssv2", videos="videos", annotations="labels", split="ssv2-cmn")
    store = fsar.encode(catalog, "ssv2.zarr", backbone="open_clip:ViT-B-16/openai", taps=["pooled"], frames=8)
    run = fsar.train_head("trx", store, split="ssv2-cmn", way=5, shot=1, seeds=[0, 1, 2])
    result = fsar.evaluate(run, store, shots=[1, 5], episodes=10_000)

Progress and notes go to stderr (`quiet=True` for none). Errors are `fsar.InputError`, with the sentence that the
command would print. Whatever was interrupted goes on when it is called again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fsar.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from fsar.heads.batch import EpisodeBatch, PairBatch, Targets
    from fsar.heads.evaluation.evaluate_heads import EvaluationReport
    from fsar.heads.head import Head
    from fsar.heads.setup.settings import ReadSettings
    from fsar.heads.training.step import StepMonitor
    from fsar.heads.training.train_head import TrainedHead
    from fsar.pipeline.catalog.catalog import Catalog
    from fsar.pipeline.store import FeatureStore
    from fsar.splits import Split

AnySettings = TypeVar("AnySettings", bound="ReadSettings")
PathLike = str | Path
PerClass = int | Sequence[int]
"""A number of videos for every class of an episode, or one number per class."""


def index(
    dataset: Literal["ssv2", "hmdb51", "ucf101", "kinetics", "folder", "csv"],
    *,
    videos: PathLike | None = None,
    annotations: PathLike | None = None,
    split: str | Split | Sequence[str | Split] | None = None,
    only_split: bool = False,
    out: PathLike | None = None,
    quiet: bool = False,
) -> Catalog:
    """Return the catalog of a dataset on disk, and say on stderr what it lacks.

    Args:
        dataset: Layout of the dataset.
        videos: Folder of the videos.
        annotations: Folder of the json files of SSv2, or the file of a CSV dataset.
        split: Its parts become those of the catalog; with several splits the parts stay open, and videos that any of
            them lacks are reported.
        only_split: Leave out videos that no chosen split uses.
        out: Also write the catalog here, as CSV.
        quiet: Report nothing.

    Raises:
        InputError: no such dataset at these places, or a split that does not belong to it.
    """
    from fsar.pipeline.catalog.catalog import write_catalog
    from fsar.pipeline.catalog.index import index_dataset
    from fsar.splits import load_split

    splits = [] if split is None else [split] if not isinstance(split, list | tuple) else list(split)
    catalog, report = index_dataset(
        dataset,
        videos=None if videos is None else Path(videos),
        annotations=None if annotations is None else Path(annotations),
        splits=[load_split(each) if isinstance(each, str) else each for each in splits],  # type: ignore[misc]
        only_splits=only_split,
    )
    if out is not None:
        write_catalog(catalog, out)
    _tell(report.to_text(), quiet)
    return catalog


def encode(
    catalog: Catalog | PathLike,
    out: PathLike,
    *,
    backbone: str,
    taps: Sequence[str] = ("pooled",),
    frames: int = 8,
    split: str | Split | None = None,
    device: str = "auto",
    jobs: int | None = None,
    batch_size: int | None = None,
    quiet: bool = False,
    **options: Any,
) -> FeatureStore:
    """Encode the videos of a catalog into a feature store and return it, open for reading.

    Args:
        catalog: Of `index`, or its CSV file.
        out: Store to fill: NAME.zarr or NAME.h5. A store that was begun is finished.
        backbone: open_clip:NAME/TAG, torchvision:NAME/WEIGHTS, timm:NAME/TAG, or LIBRARY:NAME/FILE.
        taps: What to store of each frame: pooled, map, tokens.K, ...
        frames: Frames to store of a video.
        split: Only its videos, in its order.
        device: auto, cpu, cuda, cuda:N.
        jobs: Decode processes; None for one per core, 0 to decode in this process.
        batch_size: Frames in a forward pass; None for what the device works best with.
        quiet: No progress, and no list of videos that failed.
        options: Other fields of `fsar.pipeline.encode.encode.EncodeOptions`: sampler, size, n_views, dtype, ...

    Raises:
        InputError: a backbone or option that does not exist, or a store of another recipe at `out`.
    """
    from dataclasses import fields

    from fsar.pipeline.catalog.catalog import read_catalog, select_rows
    from fsar.pipeline.encode.encode import EncodeOptions
    from fsar.pipeline.encode.encode import encode as encode_rows
    from fsar.pipeline.encode.report import EngineOptions, default_jobs
    from fsar.pipeline.store import open_store
    from fsar.splits import load_split

    known = [item.name for item in fields(EncodeOptions)]
    for name in options:
        if name not in known:
            raise unknown_name("option of encode", name, known)
    listed = read_catalog(catalog) if isinstance(catalog, str | Path) else catalog
    rows = select_rows(listed, load_split(split) if isinstance(split, str) else split)
    engine = EngineOptions(device=device, batch_size=batch_size, jobs=default_jobs() if jobs is None else jobs)
    chosen = EncodeOptions(backbone, taps=tuple(taps), **{"n_slots": frames, "engine": engine, **options})
    report = encode_rows(rows, Path(out), chosen, quiet=quiet)
    for video_id, _, reason, message in report.failures:
        _tell(f"failed: {video_id} ({reason}): {message}", quiet)
    return open_store(Path(out))


def train_head(
    head: str,
    store: FeatureStore | PathLike | None = None,
    *,
    split: str | Split | None = None,
    text: str | None = None,
    taps: Mapping[str, str] | None = None,
    frames: int | None = None,
    device: str | None = None,
    features: Literal["auto", "memory", "disk"] = "auto",
    drop_small_classes: bool = False,
    allow_duplicates: bool = False,
    quiet: bool = False,
    way: int = 5,
    shot: PerClass = 1,
    query: PerClass | None = None,
    unlabelled: int = 0,
    options: Mapping[str, Any] | None = None,
    preset: str = "cached",
    steps: int | None = None,
    episodes: int | None = None,
    episodes_per_step: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    val_episodes: int = 200,
    validate_every: int | None = None,
    patience: int = 10,
    val_share: float | None = None,
    select_on: Literal["val", "test"] = "val",
    amp: bool = False,
    test: bool = True,
    test_episodes: int = 10_000,
    test_query: PerClass = 1,
    test_seed: int = 0,
    episodes_file: PathLike | None = None,
    out: PathLike | None = None,
    finetune: str | None = None,
    weights: PathLike | None = None,
    videos: PathLike | None = None,
    images: str | None = None,
    size: int | None = None,
    trainable: str | None = None,
    backbone_lr: float | None = None,
    batch_norm: Literal["train", "eval"] | None = None,
    compat: Literal["fixed", "official"] | None = None,
    micro_batch: int | None = None,
    checkpoint_blocks: bool = False,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    jobs: int = 1,
    decoder: str = "pyav",
) -> TrainedHead:
    """Train a head on a feature store, select on its validation part, test on its test part.

    With `finetune` the backbone trains as well, on frames of `videos`, or its last blocks on tokens of the store.

    The arguments are the options of `fsar-train-head` and have their defaults.

    Args:
        head: Name of the head; `fsar.list_heads()` lists them.
        store: Feature store: open, or its path or address.
        split: Split by name, alias or CSV path; without it the parts recorded in the store.
        text: Text table of the store, for heads that take text; with a backbone that trains, a set of templates.
        taps: Tap for an input of the head, where another than the usual one is wanted.
        frames: Frames a video shows, of those stored. [default: all; 8 where a backbone trains]
        device: cpu, cuda, cuda:1. [default: cuda where there is one]
        features: Where features are read from: resident in memory, or mapped from disk.
        drop_small_classes: Leave classes out that are too small for an episode.
        allow_duplicates: Draw videos that are the same file under two ids, too.
        quiet: No progress on stderr.
        way: Classes per episode.
        shot: Supports per class; 1,5,2,1,1 for unequal ones.
        query: Queries per class in training. [default: of the preset]
        unlabelled: Unlabelled videos per class, for semi-supervision.
        options: Option of the head.
        preset: Training recipe; `published` for the head's own.
        steps: Optimiser steps. [default: of the preset]
        episodes: Training episodes, instead of steps.
        episodes_per_step: Episodes of one step. [default: of the preset]
        lr: Learning rate. [default: of the preset]
        seed: Of weights, episodes, dropout.
        seeds: Several seeds in one call, as 0,1,2: a run each, then mean and spread.
        val_episodes: Episodes of a validation; 0 for none.
        validate_every: Steps between validations. [default: a twentieth of the training, at least 10]
        patience: Validations without a better one before training stops; 0: never stop early.
        val_share: Hold this share of the training classes out for validation, where the split has no val part.
        select_on: Part whose episodes choose the weights; `test`, as some published code does it, is marked in every
            result.
        amp: Compute in bfloat16 where it is safe.
        test: Test the trained head.
        test_episodes: Episodes of the final test.
        test_query: Queries per class in the test.
        test_seed: Of the test episodes; the same for all seeds.
        episodes_file: Saved list of test episodes.
        out: Run folder. [default: runs/<time>-<head>-<split>]
        finetune: Train this backbone (LIB:NAME/WEIGHTS) with the head, from frames; last:N trains the last N blocks of
            the store's backbone from its tokens.
        weights: Checkpoint of the store's backbone, where a file was encoded with: for last:N and heads that start
            from it.
        videos: Where the frames are: a catalog.csv, or packed frames NAME.frames.
        images: How frames become input: squash, short-side, centre-square (+flip), or a published pipeline. [default:
            of the preset]
        size: Pixels of the input. [default: what the backbone was made for]
        trainable: What trains of the backbone: all, none, norm, last:N, lora:R, st-adapter, d2st-adapter. [default: of
            the preset, else all]
        backbone_lr: Learning rate of the backbone. [default: of the preset, else a tenth of the head's]
        batch_norm: Statistics of batch norm: of each call, or those of the weights. [default: of the preset, else
            train]
        compat: official keeps the quirks of released training code. [default: official with a published preset]
        micro_batch: Embed so many frames at once, in two passes: same gradients, little memory.
        checkpoint_blocks: Keep only the inputs of the backbone's blocks and compute the rest again.
        precision: Of the backbone's forward passes (autocast).
        jobs: Processes that decode videos, or threads that read packed frames.
        decoder: pyav, torchcodec or decord.

    Returns:
        The run folders and results, one for each seed; `.head()` is the trained head.

    Raises:
        InputError: settings, store or episodes that do not fit the head, or a folder that holds another run.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    from fsar.heads.finetune.settings import FinetuneSettings
    from fsar.heads.finetune.setup import prepare
    from fsar.heads.training.train_head import train_head as train

    trained = train(_opened(FinetuneSettings(**_plain(given))), prepare=prepare)
    for note in trained.notes:
        _tell(f"note: {note}", quiet)
    return trained


def evaluate(
    run: TrainedHead | Head | PathLike,
    store: FeatureStore | PathLike,
    *,
    split: str | Split | None = None,
    text: str | None = None,
    taps: Mapping[str, str] | None = None,
    frames: int | None = None,
    device: str | None = None,
    features: Literal["auto", "memory", "disk"] = "auto",
    drop_small_classes: bool = False,
    allow_duplicates: bool = False,
    quiet: bool = False,
    way: int | None = None,
    shot: PerClass | None = None,
    shots: Sequence[int] | None = None,
    query: PerClass = 1,
    episodes: int = 10_000,
    seed: int = 0,
    part: str | None = None,
    order: bool = True,
    complexity: bool = False,
    episodes_file: PathLike | None = None,
    save_episodes: PathLike | None = None,
    compare: PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
    allow_recipe: bool = False,
    out: PathLike | None = None,
) -> EvaluationReport:
    """Test a head on many episodes of a store's part: mean accuracy and its 95 % interval.

    The arguments are the options of `fsar-eval-head` and have their defaults.

    Args:
        run: What `train_head` returned, a run folder, the name of a head to test untrained, or a head.
        store: Feature store: open, or its path or address.
        split: Split by name, alias or CSV path; without it the parts recorded in the store.
        text: Text table of the store, for heads that take text; with a backbone that trains, a set of templates.
        taps: Tap for an input of the head, where another than the usual one is wanted.
        frames: Frames a video shows, of those stored. [default: all; 8 where a backbone trains]
        device: cpu, cuda, cuda:1. [default: cuda where there is one]
        features: Where features are read from: resident in memory, or mapped from disk.
        drop_small_classes: Leave classes out that are too small for an episode.
        allow_duplicates: Draw videos that are the same file under two ids, too.
        quiet: No progress on stderr.
        way: Classes per episode. [default: of the run, else 5]
        shot: Supports per class; 1,5,2,1,1 for unequal ones. [default: of the run, else 1]
        shots: Several shots in one call, as 1,2,3,4,5.
        query: Queries per class.
        episodes: Test episodes.
        seed: Of the episode list.
        part: Part of the split. [default: of the run, else test]
        order: Also measure what shuffling the frames costs.
        complexity: Also measure what one episode costs: operations, milliseconds, bytes of a video.
        episodes_file: Saved list of episodes, instead of drawn ones.
        save_episodes: Save the list of episodes here (.npz).
        compare: Also test this run or head and give the paired difference to the first.
        options: Option of an untrained head.
        allow_seen: Test on classes that trained the head or chose its weights; marked in the result.
        allow_recipe: Test on features of another recipe than the training's; marked.
        out: Folder for results, confusions and per-episode accuracies. [default: eval/ in the run folder; nothing for
            an untrained head]

    Returns:
        `.accuracy` and `.ci95` in [0, 1] (by number of shots if `shots` were given; means over the seeds of a run),
        `.table()` for people, `.results` with everything that `result.json` holds.

    Raises:
        InputError: a head that is none, a store that does not fit it, classes that are not new to it.
    """
    given = {name: value for name, value in locals().items() if value is not None and name != "run"}
    from fsar.heads.evaluation.evaluate_heads import evaluate_heads
    from fsar.heads.evaluation.settings import EvaluateSettings

    heads: tuple[Any, ...] = getattr(run, "folders", (run,))
    heads = tuple(str(each) if isinstance(each, Path) else each for each in heads)
    report = evaluate_heads(_opened(EvaluateSettings(heads=heads, **_plain(given))))
    for note in report.notes:
        _tell(f"note: {note}", quiet)
    return report


def train_step(
    head: Head,
    batch: EpisodeBatch | PairBatch,
    targets: Targets | None,
    optimizer: Optimizer,
    *,
    clip_norm: float | None = None,
    gradient_scale: float = 1.0,
    amp: bool = False,
    monitor: StepMonitor | None = None,
) -> Tensor:
    """Do the step that `train_head` does, in a loop of one's own; see `fsar.heads.training.step.train_step`.

    Returns:
        The loss before the step, a scalar on the device of the head.
    """
    from fsar.heads.training.step import train_step as step

    return step(
        head,
        batch,
        targets,
        optimizer,
        clip_norm=clip_norm,
        gradient_scale=gradient_scale,
        amp=amp,
        monitor=monitor,
    )


_PATHS = ("out", "episodes_file", "save_episodes", "videos", "weights")


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as settings hold them: paths as `Path`, lists as tuples."""
    plain: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in given.items()}
    plain |= {name: Path(plain[name]) for name in _PATHS if name in plain}
    return plain | ({"compare": str(plain["compare"])} if "compare" in plain else {})


def _opened(settings: AnySettings) -> AnySettings:
    """Return settings with the store open, now that they have been checked."""
    from dataclasses import replace

    from fsar.pipeline.share import open_store

    store = settings.store
    return replace(settings, store=open_store(store)) if isinstance(store, str | Path) else settings


def _tell(text: str, quiet: bool) -> None:
    if not quiet:
        sys.stderr.write(text + "\n")


__all__ = ["InputError", "encode", "evaluate", "index", "train_head", "train_step"]
