"""The steps that published image pipelines consist of. A clip is (T, 3, H, W), uint8 until `ToFloat`, then 0..1.

Each step takes the clip and the random numbers of its visit; what is not said to be per frame is drawn once for all
frames of the clip. Steps run on whichever device the clip is on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fsar.pipeline.pixels.colour import OPERATIONS, Jitter, apply_jitter, grey, operation
from fsar.pipeline.pixels.draws import Draws
from fsar.pipeline.pixels.prepare import normalise, to_float
from fsar.pipeline.pixels.resize import resize_8_bit, resize_float
from fsar.pipeline.pixels.spec import short_side_shape

if TYPE_CHECKING:
    from torch import Tensor


class Step(Protocol):
    """One step of a pipeline."""

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:
        """Return the clip after this step."""
        ...


@dataclass(frozen=True)
class ToFloat:
    """From levels to numbers in 0..1."""

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return to_float(clip)


@dataclass(frozen=True)
class ShortSide:
    """Scale the shorter side to `pixels` as Pillow's bilinear filter does: antialiased, in 8 bits."""

    pixels: int

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return resize_8_bit(clip, short_side_shape(clip.shape[2], clip.shape[3], self.pixels), "bilinear")


@dataclass(frozen=True)
class Squash:
    """Scale float pixels to one shape by plain bilinear interpolation, not antialiased; the aspect is lost."""

    height: int
    width: int

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return resize_float(clip, (self.height, self.width), "bilinear", antialias=False)


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with a probability."""

    probability: float = 0.5

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return clip.flip(3) if draws.chance("flip", self.probability) else clip


@dataclass(frozen=True)
class CentreCrop:
    """Cut the middle out, a square of at most `size`."""

    size: int

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        top, left = (max(side - self.size, 0) // 2 for side in clip.shape[2:])
        return clip[:, :, top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class RandomCrop:
    """Cut a square out at random."""

    size: int
    reaches_end: bool = True
    """Whether the last offset can be drawn; the CLIP-FSAR code base truncates U(0, play) and never reaches it."""

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        shares = zip(draws.uniforms("crop", 2), clip.shape[2:], strict=True)
        top, left = (self._offset(share, side) for share, side in shares)
        return clip[:, :, top : top + self.size, left : left + self.size]

    def _offset(self, share: float, side: int) -> int:
        play = side - self.size
        return int(share * (play + self.reaches_end))


@dataclass(frozen=True)
class Normalise:
    """Take off the mean and divide by the standard deviation."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return normalise(clip, self.mean, self.std)


@dataclass(frozen=True)
class ClipJitter:
    """Colour jitter of the CLIP-FSAR code base: grey first, then all four changes in random order, always."""

    grey: float = 0.3
    """Probability."""
    strength: float = 0.5
    """Factors of brightness, contrast and saturation lie in 1 +- this."""
    hue: float = 0.25
    """Turns of the colour circle, at most, either way."""

    def draw(self, draws: Draws) -> Jitter:
        """Return one draw."""
        low, high = 1 - self.strength, 1 + self.strength
        factors = {name: draws.uniform(name, low, high) for name in OPERATIONS[:3]}
        factors["hue"] = draws.uniform("hue", -self.hue, self.hue)
        order = [OPERATIONS[index] for index in draws.order("colour order", 4)]
        return Jitter(draws.chance("grey", self.grey), tuple((name, factors[name]) for name in order))

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return apply_jitter(clip, self.draw(draws))


@dataclass(frozen=True)
class PerFrame:
    """Draw and do the steps for every frame alone."""

    steps: tuple[Step, ...]

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        import torch

        frames = []
        for index, frame in enumerate(torch.split(clip, 1)):
            for step in self.steps:
                frame = step(frame, draws.of_frame(index))
            frames.append(frame)
        return torch.cat(frames)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut out a rectangle of random area and shape and scale it to a square, as torchvision does on Pillow images."""

    size: int
    scale: tuple[float, float] = (0.2, 1.0)
    """Share of the picture's area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height; its logarithm is uniform."""

    def box(self, height: int, width: int, draws: Draws) -> tuple[int, int, int, int]:
        """Return top, left, height and width: the first of ten draws that fits, else the largest that is allowed."""
        low, high = (math.log(value) for value in self.ratio)
        for attempt in range(10):
            area, shape, top, left = draws.uniforms(f"box {attempt}", 4)
            target = height * width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            aspect = math.exp(low + shape * (high - low))
            w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        return self._central_box(height, width)

    def _central_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        aspect = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = (width, round(width / aspect)) if aspect > width / height else (round(height * aspect), height)
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        top, left, height, width = self.box(clip.shape[2], clip.shape[3], draws)
        cut = clip[:, :, top : top + height, left : left + width]
        return resize_8_bit(cut, (self.size, self.size), "bilinear")


@dataclass(frozen=True)
class ColourJitter:
    """torchvision's ColorJitter with a probability: all four changes, in random order, on 8-bit levels."""

    strength: float = 0.4
    """Factors of brightness, contrast and saturation lie in 1 +- this."""
    hue: float = 0.1
    probability: float = 0.8

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        if not draws.chance("jitter", self.probability):
            return clip
        for index in draws.order("colour order", 4):
            name, low, high = OPERATIONS[index], 1 - self.strength, 1 + self.strength
            factor = draws.uniform(name, -self.hue, self.hue) if name == "hue" else draws.uniform(name, low, high)
            clip = operation(name)(clip, factor)
        return clip


@dataclass(frozen=True)
class Grey:
    """Take the colours away with a probability."""

    probability: float = 0.2

    def __call__(self, clip: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return grey(clip) if draws.chance("grey", self.probability) else clip
