"""What every family of transformers has in common: a model becomes a tower that can be tapped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

from fsar.errors import InputError
from fsar.pipeline.backbones.base import TapPoints, VideoInput

if TYPE_CHECKING:
    from torch import Tensor, nn

FINAL_NORMS = ("post_layernorm", "layernorm", "norm")
"""What transformers calls the normalisation behind the last block."""


@dataclass(frozen=True)
class Seen:
    """What a model makes of its input."""

    pooled: Tensor
    """(B, D)."""
    tokens: Tensor
    """(B, L, W): the library's last hidden state."""
    steps: Tensor | None = None
    """(B, t, D): one vector for each time step, where the model has such."""


class Family(ABC):
    """One kind of model: how it pools, and where its tokens lie."""

    model: ClassVar[str]
    """Class of transformers that holds the weights."""
    classifier: ClassVar[str] = ""
    """The same with a classifier, where what the classifier sees takes weights of its own."""
    processor: ClassVar[str]
    """Class of transformers that prepares pictures where no file says how."""
    options: ClassVar[dict[str, Any]] = {}
    """How `model` is made."""
    size_field: ClassVar[str] = "image_size"
    """Where a configuration has the pixels of its input."""
    length_field: ClassVar[str] = ""
    """Where it has the frames of a clip; empty for single frames."""
    any_size: ClassVar[bool] = False
    """Whether weights take other sizes than they were trained with."""
    text: ClassVar[tuple[str, ...]] = ()
    """Names that begin those of the text tower's parameters; none where there is no such tower."""
    padded: ClassVar[bool] = False
    """Whether its pictures are padded, which ours are not."""

    def __init__(self, model: Any, size: int) -> None:
        """Take a model of `self.model` or `self.classifier` for input of `size` pixels."""
        self.parts: dict[str, nn.Module] = self.vision_parts(model)
        self.config = self.vision_config(model.config)
        self.size = size

    @staticmethod
    def vision_config(config: Any) -> Any:
        """Return the part of a configuration that is about pictures."""
        return getattr(config, "vision_config", config)

    @abstractmethod
    def vision_parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the modules that see pictures, by names of their own; `body` has the blocks."""

    @abstractmethod
    def look(self, pixels: Tensor) -> Seen:
        """Return what the model makes of frames (B, 3, s, s), or of clips (B, T, 3, s, s)."""

    @abstractmethod
    def grid(self, tokens: Tensor) -> Tensor:
        """Return the library's last hidden state as a map (B, C, h, w), or (B, C, t, h, w) of clips."""

    @property
    def dim(self) -> int:
        """Width of the pooled features."""
        return int(self.config.hidden_size)

    @property
    def video(self) -> VideoInput | None:
        """What it takes if it sees clips."""
        return None

    @property
    def patch(self) -> int:
        """Side of a patch in pixels: sizes are multiples of it."""
        return int(self.config.patch_size)

    @property
    def side(self) -> int:
        """Patches along a side of the input."""
        return self.size // self.patch

    def blocks(self) -> tuple[nn.Module, ...]:
        """Return the transformer blocks in order."""
        from torch import nn

        depth = getattr(self.config, "num_hidden_layers", None)
        lists = (each for each in self.parts["body"].modules() if isinstance(each, nn.ModuleList))
        return tuple(next((each for each in lists if len(each) == depth), ()))

    def finish(self) -> Any:
        """Return what makes tokens of a block like those of the last one: the model's own normalisation, or None."""
        body = self.parts["body"]
        return next((getattr(body, name) for name in FINAL_NORMS if getattr(body, name, None) is not None), None)

    def checked(self) -> Family:
        """Return itself. Raises InputError for a size that would leave a border of pixels unseen."""
        if self.size % self.patch:
            raise InputError(
                f"{self.model} cuts frames into patches of {self.patch} pixels: {self.size} is no multiple"
            )
        return self


def tower_of(family: Family) -> tuple[nn.Module, TapPoints]:
    """Return a module that gives pooled features, and where to tap it. It holds what sees pictures and no more."""
    from torch import nn

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in family.parts.items():
                setattr(self, name, part)
            self.last_tokens, self.steps = nn.Identity(), nn.Identity()

        def forward(self, pixels: Tensor) -> Tensor:
            seen = family.look(pixels)
            self.last_tokens(seen.tokens)
            if seen.steps is not None:
                self.steps(seen.steps)
            return seen.pooled

    tower = Tower()
    has_steps = getattr(family, "has_steps", False)
    return tower, TapPoints(
        map_module=tower.last_tokens,
        grid=family.grid,
        steps_module=tower.steps if has_steps else None,
        blocks=family.blocks(),
        finish=family.finish(),
    )


def square(tokens: Tensor, n_before: int) -> Tensor:
    """Return tokens (B, n_before + h * w, C) as a square map (B, C, h, w), without the first ones."""
    patches = tokens[:, n_before:]
    side = isqrt(patches.shape[1])
    return patches.transpose(1, 2).reshape(len(patches), -1, side, side)
