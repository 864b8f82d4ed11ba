"""Train a backbone on the base classes, for `encode`: the fine-tuning loop with a classifier in place of a head."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fsar.device import resolve_device, seeded
from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.heads.episodes.sampler import EpisodePool, Ints
from fsar.heads.evaluation.evaluate import Evaluation
from fsar.heads.finetune.classifier import BaseClassifier, class_words
from fsar.heads.finetune.episodes import FrameEpisodes, StepEpisodes
from fsar.heads.finetune.features import CHUNK_VIDEOS
from fsar.heads.finetune.frames import FailedVideos, FrameSource
from fsar.heads.finetune.groups import finetune_optimizer
from fsar.heads.finetune.images import training_images
from fsar.heads.finetune.learner import BACKBONE, FinetuneLearner, save_backbone
from fsar.heads.finetune.memory import precision_note
from fsar.heads.finetune.model import EndToEnd
from fsar.heads.finetune.step import ALONE, Memory
from fsar.heads.finetune.tower import Tower
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.finetune.videos import VideoSet
from fsar.heads.recipes.presets import Preset
from fsar.heads.recipes.schedules import Cosine
from fsar.heads.run_folder import CONFIG, differences, read_json, write_json
from fsar.heads.training.loop import TrainOptions, train_learner
from fsar.pipeline.backbones import Backbone, check_trainable, load_backbone
from fsar.pipeline.encode.clip_task import DecodeFailure
from fsar.pipeline.packs import FramePack
from fsar.pipeline.packs.build import pack_frames
from fsar.pipeline.packs.layout import PackSettings
from fsar.pipeline.pixels.published import before_crop
from fsar.pipeline.text.tables import NAME_FORMS, default_names
from fsar.pipeline.text.templates import load_templates
from fsar.progress import say

PACK, OLD_STATE = "videos.frames", "clips.json"


@dataclass(frozen=True)
class BaseOptions:
    """What decides the tuned weights (on one kind of machine they are the same to the bit)."""

    backbone: str
    """Where to start: `random:timm/test_resnet`, `torchvision:resnet18/IMAGENET1K_V1`, ..."""
    weights: Path | None = None
    """File of weights to start from instead of the backbone's own."""
    n_frames: int = 8
    size: int = 64
    """Pixels of the network input; frames are resized to a seventh more and cropped at random, as one piece."""
    resize: Literal["squash", "short-side"] = "short-side"
    """`short-side` keeps the shape of things and loses the margins of a wide picture; `squash` keeps the margins."""
    epochs: int = 8
    batch_size: int = 16
    """Videos a step, two of each of so many classes."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    held_out: float = 0.1
    """Share of each class's videos kept out of training, to report how well the backbone learned."""
    text: str | None = None
    """Templates: train the text tower of a CLIP model along, by the text of the base classes."""
    seed: int = 0
    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the backbone's forward passes (autocast)."""
    decoder: str = "pyav"


@dataclass(frozen=True)
class BaseReport:
    """What tuning did."""

    path: Path
    n_classes: int
    n_videos: int
    n_held_out: int
    held_out_accuracy: float
    """Share of held-out videos whose class is found; chance is 1 / n_classes. NaN when none were held out."""
    weights_sha256: str
    failures: list[dict[str, str]]


class BaseLearner(FinetuneLearner):
    """Leaves the backbone alone behind, no head."""

    def save(self, folder: Path) -> None:
        """Write the backbone."""
        save_backbone(folder / BACKBONE, self.module.tower.whole)


def tune(videos: VideoSet, out: Path, options: BaseOptions, *, jobs: int = 1, quiet: bool = False) -> BaseReport:
    """Train the backbone to name the classes of `videos` and write its weights to `out` (safetensors).

    Interrupted, it goes on when called again with the same arguments. Videos that fail are left out and reported.

    Raises:
        InputError: fewer than two classes or too few videos, unknown backbone, no such device, the state of an earlier
            version.
    """
    options = replace(options, device=str(resolve_device(options.device)))
    if len({video.class_name for video in videos.videos}) < 2:
        raise InputError("tuning needs at least 2 classes, the chosen part of the catalog has 1")
    if not out.parent.is_dir():
        raise InputError(f"no folder {out.parent} for {out.name}")
    backbone = load_backbone(options.backbone, weights=options.weights, size=options.size)
    check_trainable(backbone, "tune")
    folder = _folder(out, videos, options)
    packed, failures = _packed(videos, folder, options, jobs=jobs, quiet=quiet)
    training, held_out = _hold_out(packed, failures, options)
    model = _model(backbone, training, options).to(options.device)
    accuracy = _train(model, packed, training, held_out, folder, options, jobs=jobs, quiet=quiet)
    (folder / BACKBONE).replace(out)
    shutil.rmtree(folder)
    n_held_out = int(held_out.counts.sum())
    n_videos = int(training.counts.sum()) + n_held_out
    return BaseReport(out, training.n_classes, n_videos, n_held_out, accuracy, sha256_file(out), failures)


def _folder(out: Path, videos: VideoSet, options: BaseOptions) -> Path:
    """Return the work folder, emptied if it is that of another run."""
    folder = out.with_name(out.name + ".tuning")
    if (folder / OLD_STATE).exists():
        raise InputError(
            f"{folder} holds the state of a tuning by an earlier version, which this one cannot go on with: remove it"
        )
    listed = [[video.video_id, video.class_name, video.path] for video in videos.videos]
    config = {**asdict(options), "weights": str(options.weights), "device": "", "videos": listed}
    if (folder / CONFIG).is_file() and differences(read_json(folder / CONFIG), config):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    write_json(folder / CONFIG, config)
    return folder


def _packed(
    videos: VideoSet, folder: Path, options: BaseOptions, *, jobs: int, quiet: bool
) -> tuple[VideoSet, list[dict[str, str]]]:
    """Return the videos as packed frames, decoded once, and those that failed."""
    if videos.pack is not None:
        return videos, []
    # Squashing keeps the margins, so nothing is known of the size that a side may have.
    side = before_crop(options.size) if options.resize == "short-side" else None
    settings = PackSettings(options.n_frames, short_side=side)
    report = pack_frames(videos.videos, folder / PACK, settings, n_jobs=jobs, quiet=quiet)
    failures = [
        {"video_id": video_id, "path": path, "reason": reason, "message": message}
        for video_id, path, reason, message in report.failures
    ]
    return VideoSet(videos.path, videos.videos, FramePack.open(report.path)), failures


def _hold_out(
    videos: VideoSet, failures: list[dict[str, str]], options: BaseOptions
) -> tuple[EpisodePool, EpisodePool]:
    """Return training and held-out videos: of each class the last `held_out` of its videos, rounded down."""
    failed = {failure["video_id"] for failure in failures}
    rows: dict[str, list[int]] = {}
    for row, video in enumerate(videos.videos):
        if video.video_id not in failed:
            rows.setdefault(video.class_name, []).append(row)
    kept = {name: len(own) - int(len(own) * options.held_out) for name, own in rows.items()}
    names = sorted(rows)
    training = EpisodePool({name: rows[name][: kept[name]] for name in names})
    small = [name for name, count in zip(names, training.counts, strict=True) if count < 2]
    if small:
        raise InputError(f"class {small[0]!r} has fewer than 2 videos to train on: give more, or leave the class out")
    return training, EpisodePool({name: rows[name][kept[name] :] for name in names})


def _model(backbone: Backbone, pool: EpisodePool, options: BaseOptions) -> EndToEnd:
    """Return the backbone and the classifier, all of which trains."""
    backbone.module.requires_grad_(True)
    words = None
    if options.text is not None:
        if backbone.clip is None:
            raise InputError(f"--text needs a text tower, and {backbone.name} has none: start from an open_clip model")
        templates = load_templates(options.text)
        form = NAME_FORMS[default_names(templates)]
        prompts = [templates.templates[0].replace("{}", form(name)) for name in pool.class_names]
        words = class_words(backbone.clip.requires_grad_(True), backbone.name, prompts)
    with seeded(options.seed):
        head = BaseClassifier(dim=backbone.dim, n_frames=options.n_frames, n_classes=pool.n_classes, words=words)
    # Convolutions run several times faster on channels-last memory.
    backbone.module.to(memory_format=torch.channels_last)
    return EndToEnd(Tower(backbone, {"frames": "pooled"}), head)


def _train(
    model: EndToEnd,
    videos: VideoSet,
    training: EpisodePool,
    held_out: EpisodePool,
    folder: Path,
    options: BaseOptions,
    *,
    jobs: int,
    quiet: bool,
) -> float:
    """Train to the end; return the accuracy on the held-out videos (NaN without any)."""
    n_classes = min(options.batch_size // 2, training.n_classes)
    n_steps = options.epochs * max(int(training.counts.sum()) // (2 * n_classes), 1)
    preset = Preset(
        "tune", lr=options.learning_rate, weight_decay=options.weight_decay, schedule=Cosine(0.2, 0.0),
        n_episodes=n_steps, classes_per_batch=n_classes,
    )  # fmt: skip
    tuning, memory = Tuning(), Memory(autocast=torch.bfloat16 if options.precision == "bf16" else None)
    if not quiet and (note := precision_note(memory.autocast, options.device)):
        say(f"note: {note}")
    learner = BaseLearner(
        model, finetune_optimizer(model, preset, tuning), preset, tuning, memory, options.seed, options.device
    )
    steps = TrainOptions(preset, seed=options.seed, validate_every=n_steps, patience=0)
    images = training_images("squash" if options.resize == "squash" else "centre-square", model.tower.backbone)
    with videos.reader(jobs=jobs, decoder=options.decoder) as reader:
        source = FrameSource(
            videos, reader, images, n_frames=options.n_frames, seed=options.seed, device=options.device
        )
        make = FrameEpisodes(
            source, training, FailedVideos(folder / "failed.json"), seed=options.seed, shape=None,
            classes_per_batch=n_classes,
        )  # fmt: skip
        batches = StepEpisodes(make, tuning, n_steps=n_steps, episodes_per_step=1, processes=ALONE)

        def validate(model: EndToEnd) -> Evaluation:
            return named(model, source, held_out)

        report = train_learner(
            learner, batches, validate if len(held_out.rows) else None, folder, steps, device=options.device,
            quiet=quiet,
        )  # fmt: skip
    return float("nan") if report.best_accuracy is None else report.best_accuracy


@torch.inference_mode()
def named(model: EndToEnd, source: FrameSource, pool: EpisodePool) -> Evaluation:
    """Return how many videos of a pool get the name of their class."""
    model.eval()
    labels = np.repeat(np.arange(pool.n_classes), pool.counts)
    confusion: Ints = np.zeros((pool.n_classes, pool.n_classes), np.int64)
    for start in range(0, len(pool.rows), CHUNK_VIDEOS):
        some = slice(start, start + CHUNK_VIDEOS)
        for label, frames in zip(labels[some], source.test(pool.rows[some]), strict=True):
            if not isinstance(frames, DecodeFailure):
                head: Any = model.head
                found = head.logits(model.tower(frames)["frames"][None].float()).argmax()
                confusion[label, int(found)] += 1
    n_right = int(confusion.trace())
    right = np.repeat([1.0, 0.0], [n_right, int(confusion.sum()) - n_right])
    return Evaluation(right, confusion, pool.class_names)
