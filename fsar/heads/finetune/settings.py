"""What `fsar-train-head` and `fsar.train_head` take where a backbone may train with the head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fsar.errors import InputError
from fsar.heads.setup.settings import StoreLike
from fsar.heads.training.settings import TrainSettings
from fsar.settings import Bounds, Count, Natural

ONLY_HERE = ("videos", "images", "size", "trainable", "backbone_lr", "batch_norm", "compat", "micro_batch",
             "checkpoint_blocks", "precision", "jobs", "decoder")  # fmt: skip
"""Fields that mean something where a backbone trains."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings(TrainSettings):
    """A head to train on the features of a store, or with its backbone on frames."""

    store: StoreLike | None = None  # type: ignore[assignment]  # frozen: there is no writing the wider type
    """Feature store: open, or the path of NAME.zarr or NAME.h5; without one a backbone trains on --videos."""
    finetune: str | None = None
    """Train this backbone (LIB:NAME/WEIGHTS) with the head, from frames."""
    videos: Path | None = None
    """Where the frames are: a catalog.csv, or packed frames NAME.frames."""
    images: str | None = None
    """How frames become input: squash, short-side (+flip), or a published pipeline. [default: of the preset]"""
    size: Annotated[int, Bounds(8)] | None = None
    """Pixels of the input. [default: what the backbone was made for]"""
    trainable: str | None = None
    """What trains of the backbone: all, none, norm, last:N, lora:R. [default: of the preset, else all]"""
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
        if self.store is not None:
            where = self.store if isinstance(self.store, str | Path) else self.store.path
            raise InputError(
                f"{where} holds features, and --finetune {self.finetune} needs frames: leave --store out and give "
                "--videos CATALOG.csv or --videos NAME.frames"
            )
        if self.videos is None:
            raise InputError("--finetune needs frames: give --videos CATALOG.csv or --videos NAME.frames")
        self.refuse_changed(("features", "amp"), "frames are read from --videos, and --precision bf16 is for speed")
