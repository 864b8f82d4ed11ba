"""What a backbone is once loaded, and what the builders of every library share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsar.pipeline.pixels.spec import ImageSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TapPoints:
    """Where a tower can be tapped."""

    map_module: nn.Module | None = None
    """Gives the last feature map (B, C, h, w)."""
    blocks: tuple[nn.Module, ...] = ()
    """Transformer blocks in order, each gives the residual stream (B, L, W)."""
    batch_first: bool = True
    """False where blocks give (L, B, W)."""
    finish: Callable[[Tensor], Tensor] | None = None
    """Final normalisation and, for CLIP, projection of every token; None where it is not defined."""


@dataclass(frozen=True)
class Backbone:
    """A loaded image tower: normalised frames (B, 3, size, size) float32 to pooled features (B, dim)."""

    library: str
    name: str
    pretrained: str
    """Tag of the weights, `file`, or `random@SEED`."""
    module: nn.Module
    """The tower in evaluation mode on the CPU in float32, without a classifier."""
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
    """The whole CLIP model where its text tower has weights too."""
    image: ImageSpec | None = None
    """How its library prepares pictures for these weights, at `size` pixels; None where ours cannot do the same."""

    def taps(self) -> list[str]:
        """Return the names of everything that can be stored from one forward pass."""
        names = ["pooled"]
        if self.points.map_module is not None:
            names += ["avgpool", "map", "map4max"]
        for index in range(len(self.points.blocks)):
            names += [f"tokens.{index}"] * (self.points.finish is not None) + [f"tokens.{index}.raw"]
        return names


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Silence the libraries' log lines: what matters of them is raised or recorded."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)
