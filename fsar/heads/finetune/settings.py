"""What `fsar-train-head` and `fsar.train_head` take where a backbone may train with the head."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fsar.errors import InputError
from fsar.heads.setup.settings import StoreLike
from fsar.heads.training.settings import TrainSettings
from fsar.settings import Bounds, Count, Natural

LAST_BLOCKS = "last:"
"""Begins a value of `finetune` that names no backbone: the last blocks, on stored tokens."""
FRAMES = ("videos", "images", "size", "trainable", "batch_norm", "jobs", "decoder")
"""Fields that mean something where a backbone trains on frames."""
ONLY_HERE = (*FRAMES, "backbone_lr", "compat", "micro_batch", "checkpoint_blocks", "precision")
"""Fields that mean something where a backbone trains."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainSettings):
    """A head to train on the features of a store, or with its backbone on frames."""

    store: StoreLike | None = None  # type: ignore[assignment]  # frozen: there is no writing the wider type
    """Feature store: open, or the path of NAME.zarr or NAME.h5; without one a backbone trains on --videos."""
    finetune: str | None = None
    """Train this backbone (LIB:NAME/WEIGHTS) with the head, from frames; last:N trains the last N blocks of the store's
    backbone from its tokens."""
    weights: Path | None = None
    """Checkpoint of the store's backbone, where a file was encoded with: for last:N and heads that start from it."""
    videos: Path | None = None
    """Where the frames are: a catalog.csv, or packed frames NAME.frames."""
    images: str | None = None
    """How frames become input: squash, short-side, centre-square (+flip), or a published pipeline. [default: of the
    preset]"""
    size: Annotated[int, Bounds(8)] | None = None
    """Pixels of the input. [default: what the backbone was made for]"""
    trainable: str | None = None
    """What trains of the backbone: all, none, norm, last:N, lora:R, st-adapter, d2st-adapter. [default: of the preset,
    else all]"""
    backbone_lr: Annotated[float, Bounds(0)] | None = None
    """Learning rate of the backbone. [default: of the preset, else a tenth of the head's]"""
    batch_norm: Literal["train", "eval"] | None = None
    """Statistics of batch norm: of each call, or those of the weights. [default: of the preset, else train]"""
    compat: Literal["fixed", "official"] | None = None
    """official keeps the quirks of released training code. [default: official with a published preset]"""
    micro_batch: Count | None = None
    """Embed so many frames at once, in two passes: same gradients, little memory."""
    checkpoint_blocks: bool = False
    """Keep only the inputs of the backbone's blocks and compute the rest again."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the backbone's forward passes (autocast)."""
    jobs: Natural = 1
    """Processes that decode videos, or threads that read packed frames."""
    decoder: str = "pyav"
    """pyav, torchcodec or decord."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune is None:
            self.refuse_changed(ONLY_HERE, "it is for --finetune BACKBONE")
            if self.store is None:
                raise InputError("say what to train on: --store STORE, or --finetune BACKBONE --videos CATALOG")
            return
        if self.finetune.startswith(LAST_BLOCKS):
            self._check_tokens()
            return
        if self.store is not None:
            where = self.store if isinstance(self.store, str | Path) else self.store.path
            raise InputError(
                f"{where} holds features, and --finetune {self.finetune} needs frames: leave --store out and give "
                "--videos CATALOG.csv or --videos NAME.frames"
            )
        if self.videos is None:
            raise InputError("--finetune needs frames: give --videos CATALOG.csv or --videos NAME.frames")
        self.refuse_changed(("weights",), "--finetune names the weights")
        self.refuse_changed(("features", "amp"), "frames are read from --videos, and --precision bf16 is for speed")

    @property
    def n_blocks(self) -> int | None:
        """N of last:N, for which the store's tokens are read; None where frames are, or nothing but the head trains."""
        if self.finetune is None or not self.finetune.startswith(LAST_BLOCKS):
            return None
        return int(self.finetune.removeprefix(LAST_BLOCKS))

    def _check_tokens(self) -> None:
        """Check what trains on the tokens of a store."""
        assert self.finetune is not None
        if not re.fullmatch(f"{LAST_BLOCKS}[1-9][0-9]*", self.finetune):
            raise InputError(f"--finetune last:N takes a number of blocks, got {self.finetune!r}")
        if self.store is None:
            raise InputError(f"--finetune {self.finetune} trains from stored tokens: give --store STORE")
        self.refuse_changed(FRAMES, f"--finetune {self.finetune} trains on the tokens of --store")
        self.refuse_changed(("amp",), "--precision bf16 is for speed")
