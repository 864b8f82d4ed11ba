"""What a backbone is once loaded, and what the builders of every library share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.pipeline.pixels.spec import ImageSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

STEP_TAPS = ("steps.pooled", "steps.map", "steps.map4max", "steps.tokens")
"""What a network for clips gives for each of its time steps: each becomes a slot."""
FIRST_TOKENS = "tokens.in.raw"
"""The tokens below the first transformer block."""


@dataclass(frozen=True)
class VideoInput:
    """What a network for clips takes."""

    length: int
    """Frames of a clip: what it was trained with, or was asked for."""
    fixed_length: bool = False
    """Whether it takes no other length."""
    multiple: int = 1
    """Frames that it sees as one: lengths are multiples of it."""


@dataclass(frozen=True)
class TapPoints:
    """Where a tower can be tapped."""

    map_module: nn.Module | None = None
    """Gives the last feature map (B, C, h, w), or what `grid` turns into one."""
    grid: Callable[[Tensor], Tensor] | None = None
    """What `map_module` gives to the feature map: (B, C, h, w), or of clips (B, C, t, h, w) with t time steps."""
    steps_module: nn.Module | None = None
    """For clips: gives one vector for each time step (B, t, D); None: the mean of the map over positions."""
    blocks: tuple[nn.Module, ...] = ()
    """Transformer blocks in order, each gives the residual stream (B, L, W)."""
    batch_first: bool = True
    """False where blocks give (L, B, W)."""
    finish: Callable[[Tensor], Tensor] | None = None
    """Final normalisation and, for CLIP, projection of every token; None where it is not defined."""


@dataclass(frozen=True)
class TextTower:
    """The text tower of a model of transformers."""

    model: Any
    """The whole model; `get_text_features` is asked."""
    tokenizer: Path | None
    """Folder with the files of its tokenizer; None where there is none."""


@dataclass(frozen=True)
class Backbone:
    """A loaded tower: normalised frames (B, 3, size, size) float32 to pooled features (B, dim).

    With `video`, clips (B, T, 3, size, size).
    """

    library: str
    name: str
    pretrained: str
    """Tag of the weights, `file`, or `random@SEED`."""
    module: nn.Module
    """The tower, called with its input alone, in evaluation mode on the CPU in float32, without a classifier."""
    dim: int
    size: int
    """Height and width of its input, pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    points: TapPoints
    weights_sha256: str
    """Hash of the tower's parameters and buffers as loaded."""
    text_sha256: str = ""
    """Hash of the rest of a CLIP model (its text tower); empty where there is none."""
    quick_gelu: bool = False
    clip: nn.Module | None = field(default=None, repr=False)
    """The whole CLIP model of open_clip where its text tower has weights too."""
    text: TextTower | None = field(default=None, repr=False)
    """The text tower of a model of transformers."""
    image: ImageSpec | None = None
    """How its library prepares pictures for these weights, at `size` pixels; None where ours cannot do the same."""

    video: VideoInput | None = None
    """What it takes if it sees clips; None for single frames."""

    def with_clips_of(self, length: int | None) -> Backbone:
        """Return the backbone for clips of so many frames; None leaves it.

        Raises InputError for a backbone that sees single frames or takes another length alone.
        """
        if length is None:
            return self
        if self.video is None:
            raise InputError(
                f"{self.library}:{self.name} sees single frames: leave --clips, --clip-length and --clip-stride out"
            )
        if self.video.fixed_length and length != self.video.length:
            raise InputError(
                f"{self.library}:{self.name} takes clips of {self.video.length} frames, got --clip-length {length}"
            )
        multiple = self.video.multiple
        if length % multiple:
            raise InputError(
                f"{self.library}:{self.name} sees {multiple} frames as one: --clip-length must be a multiple of that, "
                f"got {length}"
            )
        return replace(self, video=replace(self.video, length=length))

    def example(self) -> Tensor:
        """Return one black input: a frame (1, 3, size, size), or a clip (1, T, 3, size, size)."""
        import torch

        parameter = next(self.module.parameters())
        shape = (3, self.size, self.size) if self.video is None else (self.video.length, 3, self.size, self.size)
        return torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype)

    def taps(self) -> list[str]:
        """Return the names of everything that can be stored from one forward pass."""
        names = ["pooled"]
        if self.points.map_module is not None:
            names += ["map", *STEP_TAPS] if self.video is not None else ["avgpool", "map", "map4max"]
        elif self.points.steps_module is not None:
            names.append("steps.pooled")
        if self.points.blocks:
            names.append(FIRST_TOKENS)
        for index in range(len(self.points.blocks)):
            names += [f"tokens.{index}"] * (self.points.finish is not None) + [f"tokens.{index}.raw"]
        return names


def check_trainable(backbone: Backbone, command: str) -> None:
    """Raise InputError for a network that `command` does not train: one that sees clips, or a model of transformers."""
    name = f"{backbone.library}:{backbone.name}"
    instead = "encode with it and train a head on the store"
    if backbone.video is not None:
        raise InputError(f"{name} sees clips: {command} trains networks that see single frames; {instead}")
    if backbone.library == "hf":
        raise InputError(
            f"{name} is of transformers: {command} trains networks of open_clip, timm and torchvision; {instead}"
        )


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Silence the libraries' log lines: what matters of them is raised or recorded."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' log lines, warnings and progress bars: what matters of them is raised or recorded."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with quiet_logging(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if shown:
            bars.enable_progress_bar()
