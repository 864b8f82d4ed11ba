"""What `--finetune` asks for, settled before anything trains: videos, backbone, images, class text, what trains."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from fsar.device import seeded
from fsar.errors import InputError
from fsar.heads.episodes.split_parts import store_parts
from fsar.heads.finetune.frame_trainer import FrameTrainer
from fsar.heads.finetune.images import training_images
from fsar.heads.finetune.live_store import LiveStore
from fsar.heads.finetune.processes import Processes
from fsar.heads.finetune.settings import FinetuneSettings
from fsar.heads.finetune.step import Memory
from fsar.heads.finetune.token_trainer import TokenTrainer
from fsar.heads.finetune.tokens import TokenStore
from fsar.heads.finetune.tower import batch_norms
from fsar.heads.finetune.tuning import Tuning
from fsar.heads.finetune.videos import VideoSet
from fsar.heads.head import Head, head_type
from fsar.heads.recipes.files import FIVE_SHOTS
from fsar.heads.recipes.presets import Preset
from fsar.heads.setup.options import typed_options
from fsar.heads.setup.taps import choose_taps
from fsar.heads.setup.task import Task
from fsar.heads.training.experiment import Experiment, FeatureTrainer, Trainer
from fsar.heads.training.settings import TrainSettings
from fsar.heads.training.train_head import chosen_preset, make_experiment
from fsar.pipeline.backbones import Backbone, check_trainable, load_backbone
from fsar.pipeline.backbones.adapters import ADAPTER_KINDS, Adaptation, with_adapters
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.encode.recorded_backbone import backbone_of
from fsar.pipeline.text.tables import class_texts, default_names
from fsar.pipeline.text.templates import load_templates
from fsar.splits import Split, load_split

if TYPE_CHECKING:
    from fsar.pipeline.store import FeatureStore, TextTable

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
N_FRAMES = 8
"""Frames a video shows, by default."""
OWN_RATE = 0.1
"""Share of the learning rate that the backbone gets by default where no published recipe says otherwise."""


class Published(NamedTuple):
    """What released code does with the backbone of a head."""

    tuning: Tuning
    images: str
    """Name of the pipeline of its frames."""
    options: Mapping[str, Any] = MappingProxyType({})
    """Of the head, where frames let it do more than features."""


def published_tuning(head: str, split: str, *, n_shot: int = 1) -> Published:
    """Return how the released code of a head trains the backbone on a split, in its form for `n_shot` (1 or more).

    Raises:
        InputError: no code was released for it.
    """
    tables = tomllib.loads((files("fsar.heads.finetune") / "tuning.toml").read_text(encoding="utf-8"))
    if head not in tables:
        raise InputError(f"no released code trains a backbone with head {head!r}: leave --preset published out")
    table = {key: value for key, value in tables[head].items() if not isinstance(value, dict)}
    for name in (split, f"{split}-{FIVE_SHOTS}")[: 2 if n_shot > 1 else 1]:
        table |= tables[head].get(name, {})
    for key in [key for key in table if key.startswith("images-")]:
        if split.startswith(key.removeprefix("images-")):
            table["images"] = table[key]
        del table[key]
    images, options = table.pop("images"), table.pop("options", {})
    return Published(Tuning(**table, compat="official"), images, options)


def prepare(settings: TrainSettings) -> tuple[Experiment, Trainer | None]:
    """Return the experiment that settings describe, and its trainer where a backbone trains.

    Raises:
        InputError: anything that cannot work, before any training.
    """
    if not isinstance(settings, FinetuneSettings) or settings.finetune is None:
        weights = settings.weights if isinstance(settings, FinetuneSettings) else None
        return make_experiment(settings), FeatureTrainer(weights)
    table = load_split(settings.split) if isinstance(settings.split, str) else settings.split
    preset = chosen_preset(settings, table.name if table else "")
    make = finetune_task if settings.n_blocks is None else token_task
    task, trainer = make(settings, preset, table)
    if settings.n_blocks is None:
        more = _tuning(preset, settings, table).options
        preset = replace(preset, options={**preset.options, **more})
    return make_experiment(settings, task=task, preset=preset), trainer


def finetune_task(settings: FinetuneSettings, preset: Preset, split: Split | None) -> tuple[Task, FrameTrainer]:
    """Return the task of a head on videos, and its trainer.

    A published recipe brings the images and the backbone's settings of its code along.
    """
    name, kind = settings.head, head_type(settings.head)
    assert settings.finetune is not None
    assert settings.videos is not None
    videos, n_frames = VideoSet.open(settings.videos, split), settings.frames or N_FRAMES
    backbone = load_backbone(settings.finetune, size=settings.size)
    tuning, images_name, _ = _tuning(preset, settings, split)
    _check(backbone, tuning, settings)
    backbone = _adapted(backbone, tuning, n_frames, settings.seed)
    images = training_images(settings.images or images_name, backbone)
    given = typed_options(name, settings.options)
    tables = _class_text(name, kind, videos, backbone, split, settings.text, given.get("text_level"))
    store = cast("FeatureStore", LiveStore(videos, backbone, images, n_frames=n_frames, text=tables))
    parts = store_parts(store, split, allow_duplicates=settings.allow_duplicates)
    if settings.val_share is not None:
        parts = parts.with_val_share(settings.val_share)
    chosen = _taps(name, kind, store, backbone, settings.taps, given.get("levels"))
    task = Task(store, parts, name, kind, chosen, next(iter(tables), None), n_frames, settings.chosen_device())
    trainer = FrameTrainer(
        backbone, tuning, _memory(settings), checkpointing=settings.checkpoint_blocks,
        processes=Processes.joined(task.device), videos=videos, images=images, jobs=settings.jobs,
        decoder=settings.decoder, text=tables,
    )  # fmt: skip
    return task, trainer


def token_task(settings: FinetuneSettings, preset: Preset, split: Split | None) -> tuple[Task, TokenTrainer]:
    """Return the task of a head on what the last blocks of a store's backbone make of its tokens, and its trainer."""
    n_blocks, store = settings.n_blocks, settings.opened()
    assert n_blocks is not None
    backbone = backbone_of(Recipe.from_dict(store.recipe), settings.weights)
    tokens = TokenStore(store, backbone, n_blocks)
    levels = typed_options(settings.head, settings.options).get("levels")
    task = settings.task(settings.head, cast("FeatureStore", tokens), val_share=settings.val_share, levels=levels)
    tuning = replace(_tuning(preset, settings, split).tuning, trainable=f"last:{n_blocks}")
    return task, TokenTrainer(
        backbone, tuning, _memory(settings), checkpointing=settings.checkpoint_blocks,
        processes=Processes.joined(task.device), n_blocks=n_blocks, store=tokens,
    )  # fmt: skip


def _memory(settings: FinetuneSettings) -> Memory:
    return Memory(settings.micro_batch, AUTOCAST[settings.precision])


def _tuning(preset: Preset, options: FinetuneSettings, split: Split | None) -> Published:
    """Return the settings of the backbone and the images: the recipe's, and what the user says instead."""
    if preset.heads:
        where = preset.split or (split.name if split else "")
        found = published_tuning(options.head, where, n_shot=preset.n_shot)
    else:
        found = Published(Tuning(backbone_rate=OWN_RATE), "squash")
    changes: dict[str, Any] = {
        "trainable": options.trainable,
        "batch_norm": options.batch_norm,
        "compat": options.compat,
        "backbone_rate": None if options.backbone_lr is None else options.backbone_lr / preset.lr,
    }
    return found._replace(
        tuning=replace(found.tuning, **{key: value for key, value in changes.items() if value is not None})
    )


def _adapted(backbone: Backbone, tuning: Tuning, n_frames: int, seed: int) -> Backbone:
    """Return the backbone with the adapters that shall train, if it is they."""
    for kind in ADAPTER_KINDS:
        if kind == tuning.trainable:
            with seeded(seed):
                return with_adapters(backbone, Adaptation(kind, n_frames, projected=tuning.adapters_projected))
    return backbone


def _check(backbone: Backbone, tuning: Tuning, options: FinetuneSettings) -> None:
    """Refuse what would fail in the first step."""
    check_trainable(backbone, "--finetune")
    if options.micro_batch and tuning.batch_norm != "eval" and batch_norms(backbone.module):
        raise InputError(
            f"--micro-batch cuts a call of the backbone into chunks, and {backbone.name} normalises each call by its "
            "own frames: pass --batch-norm eval, or --checkpoint-blocks, which keeps the calls whole"
        )


def _class_text(
    name: str,
    kind: type[Head],
    videos: VideoSet,
    backbone: Backbone,
    split: Split | None,
    text: str | None,
    level: int | None,
) -> "dict[str, TextTable]":
    """Return the text table for a head that needs one, or is given one: of the backbone's own text tower, frozen.

    With a `level`, of its tokens there, for a head that adapts the blocks above.
    """
    from fsar.pipeline.text.clip import ClipTextEncoder
    from fsar.pipeline.text.tokens import make_text_table

    if text is not None and kind.text == "none":
        raise InputError(f"head {name!r} takes no text; leave --text out")
    if text is None and kind.text != "required":
        return {}
    if backbone.clip is None:
        raise InputError(
            f"head {name!r} needs class text from the text tower of the backbone, and {backbone.library}:"
            f"{backbone.name} ({backbone.pretrained}) has none: start from an open_clip model with both towers"
        )
    templates = load_templates(text or ("emp-net" if name == "emp-net" else "clip-fsar"))
    rows = class_texts(cast("FeatureStore", videos), split=split, names=default_names(templates))
    table = make_text_table(templates.name, ClipTextEncoder("", backbone=backbone), rows, templates, level)
    return {table.name: table}


def _taps(
    name: str,
    kind: type[Head],
    store: "FeatureStore",
    backbone: Backbone,
    taps: Mapping[str, str] | None,
    levels: Sequence[int] | None,
) -> dict[str, str]:
    try:
        return choose_taps(name, kind, store, taps, levels)
    except InputError as error:
        missing = [item for item in kind.inputs if item.role not in (taps or {})]
        if taps and not missing:
            raise
        wanted = ", ".join(f"{' or '.join(item.taps)} {item.shape}" for item in missing)
        raise InputError(
            f"head {name!r} reads {wanted}, which {backbone.library}:{backbone.name} does not have (it has "
            f"{', '.join(tap for tap in store.taps if not tap.endswith('.raw'))}): choose another backbone"
        ) from error
