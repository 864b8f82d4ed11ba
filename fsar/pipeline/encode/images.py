"""Decoded frames to network input: resize, crop, colour, normalise, on any device and in float throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fsar.errors import InputError, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

RESIZE_MODES = ("squash", "short-side")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class ImageSpec:
    """How a frame becomes network input. The defaults are the geometry of the CLIP-FSAR family."""

    mode: Literal["squash", "short-side"] = "squash"
    """`squash` makes the frame `resize` x `resize`; `short-side` makes its shorter side `resize`, its shape stays."""
    resize: int = 256
    """Pixels before the crop."""
    size: int = 224
    """Pixels after the crop: height and width of the input."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = False
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.mode not in RESIZE_MODES:
            raise unknown_name("resize mode", self.mode, RESIZE_MODES)
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS)
        if not 1 <= self.size <= self.resize:
            raise InputError(f"crop size must be between 1 and the resized {self.resize} pixels, got {self.size}")
        if min(self.std) <= 0:
            raise InputError(f"std must be positive, got {self.std}")


@dataclass(frozen=True)
class Jitter:
    """One draw of CLIP-FSAR's colour jitter, the same for every frame of a clip."""

    grey: bool
    factors: tuple[tuple[str, float], ...]
    """(operation, factor) in the order they are applied."""


@dataclass(frozen=True)
class View:
    """Where to crop and how to change the colours. Offsets are shares of the free play, in [0, 1]."""

    top: float = 0.5
    left: float = 0.5
    flip: bool = False
    jitter: Jitter | None = None


CENTRE = View()
"""The deterministic view: centre crop, no flip, colours as decoded."""


def draw_view(generator: np.random.Generator, *, flip: bool, jitter: bool) -> View:
    """Return a random view: crop anywhere, flip half of the time if allowed, CLIP-FSAR's colour jitter if asked.

    Jitter: grey with probability 0.3 first, then brightness, contrast and saturation within 0.5..1.5 and hue within
    +-0.25 turns, in random order.
    """
    top, left = (float(value) for value in generator.random(2))
    flipped = bool(generator.random() < 0.5)  # drawn even when not allowed: the crop stays the same with and without
    return View(top, left, flip and flipped, _draw_jitter(generator) if jitter else None)


def _draw_jitter(generator: np.random.Generator) -> Jitter:
    grey = bool(generator.random() < 0.3)
    brightness, contrast, saturation = (float(value) for value in generator.uniform(0.5, 1.5, 3))
    hue = float(generator.uniform(-0.25, 0.25))
    drawn = (("brightness", brightness), ("contrast", contrast), ("saturation", saturation), ("hue", hue))
    return Jitter(grey, tuple(drawn[index] for index in generator.permutation(4)))


def prepare(frames: Any, spec: ImageSpec, view: View = CENTRE) -> Tensor:
    """Return frames (T, H, W, 3) uint8, array or tensor, as (T, 3, size, size) float32 on the same device.

    The arithmetic is in float32 from the first step, so nothing is rounded to 8 bits between resizing and the network.
    """
    import torch

    if not torch.is_tensor(frames):
        frames = torch.from_numpy(frames)
    # Low-pass resizing is up to twice as fast on planes, plain resizing on interleaved colours.
    layout = torch.contiguous_format if spec.antialias else torch.channels_last
    pixels = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=layout).div_(255)  # (T, 3, H, W)
    if view.flip:
        pixels = pixels.flip(3)
    pixels = _crop(_resize(pixels, spec), spec.size, view)
    if view.jitter is not None:
        pixels = _colour(pixels, view.jitter)
    return _normalise(pixels, spec)


def _normalise(pixels: Tensor, spec: ImageSpec) -> Tensor:
    """Take mean and std off in place.

    On a CPU along rows of interleaved colours, because three values are too few for vector units; else by numbers and
    not by tensors, because a tensor would be copied to a GPU while everything waits.
    """
    if pixels.device.type == "cpu" and pixels.stride()[1::2] == (1, 3):
        mean, std = (pixels.new_tensor(values).repeat(pixels.shape[3]) for values in (spec.mean, spec.std))
        rows = pixels.permute(0, 2, 3, 1).flatten(2)  # (T, H, W * 3), the same memory
        rows.sub_(mean).div_(std)
        return pixels
    for channel, (mean_value, std_value) in enumerate(zip(spec.mean, spec.std, strict=True)):
        pixels[:, channel].sub_(mean_value).div_(std_value)
    return pixels


def _resize(pixels: Tensor, spec: ImageSpec) -> Tensor:
    import torch.nn.functional as F

    height, width = resized_shape(pixels.shape[2], pixels.shape[3], spec)
    if (height, width) == tuple(pixels.shape[2:]):
        return pixels
    resized = F.interpolate(
        pixels, (height, width), mode=spec.interpolation, align_corners=False, antialias=spec.antialias
    )
    return resized.clamp_(0, 1) if spec.interpolation == "bicubic" else resized  # bicubic overshoots at edges


def resized_shape(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Return height and width after resizing; the longer side is rounded down as torchvision does."""
    if spec.mode == "squash":
        return spec.resize, spec.resize
    if height <= width:
        return spec.resize, int(spec.resize * width / height)
    return int(spec.resize * height / width), spec.resize


def _crop(pixels: Tensor, size: int, view: View) -> Tensor:
    top = _offset(pixels.shape[2] - size, view.top)
    left = _offset(pixels.shape[3] - size, view.left)
    return pixels[:, :, top : top + size, left : left + size]


def _offset(play: int, share: float) -> int:
    # Centre as torchvision's centre crop; otherwise each of the play + 1 offsets is as likely.
    return round(play / 2) if share == 0.5 else min(int(share * (play + 1)), play)


def _colour(pixels: Tensor, jitter: Jitter) -> Tensor:
    from torchvision.transforms.v2 import functional

    if jitter.grey:
        pixels = functional.rgb_to_grayscale(pixels, num_output_channels=3)
    for operation, factor in jitter.factors:
        pixels = getattr(functional, f"adjust_{operation}")(pixels, factor)
    return pixels
