"""Decoded frames to network input by an `ImageSpec`: resize, crop, colour, normalise, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsar.pipeline.pixels.colour import Jitter, apply_jitter
from fsar.pipeline.pixels.resize import resize_8_bit, resize_float
from fsar.pipeline.pixels.spec import ImageSpec, resized_shape

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor


@dataclass(frozen=True)
class View:
    """Where to crop and how to change the colours. Offsets are shares of the free play, in [0, 1]."""

    top: float = 0.5
    left: float = 0.5
    flip: bool = False
    jitter: Jitter | None = None
    is_cut: bool = False
    """Whether the frames are cut out already, by `cut_out`; only colours are left to change."""


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
    """Return frames (T, H, W, 3) uint8, array or tensor, as (T, 3, size, size) float32 on the same device."""
    pixels = _planes(frames)
    if view.is_cut:
        pixels = to_float(pixels)
    elif spec.arithmetic == "uint8":
        pixels = to_float(_cut_8_bit(pixels, spec, view))
    else:
        pixels = _prepare_float(pixels, spec, view)
    if view.jitter is not None:
        pixels = apply_jitter(pixels, view.jitter)
    return normalise(pixels, spec.mean, spec.std)


def cut_out(frames: npt.NDArray[np.uint8], spec: ImageSpec, view: View = CENTRE) -> npt.NDArray[np.uint8]:
    """Return frames (T, H, W, 3) resized and cropped, (T, size, size, 3): what `prepare` takes with `is_cut`.

    For specs whose arithmetic is uint8, of which this is the larger part of the work.
    """
    cut: npt.NDArray[np.uint8] = _cut_8_bit(_planes(frames), spec, view).permute(0, 2, 3, 1).numpy()
    return cut


def _planes(frames: Any) -> Tensor:
    """Return frames (T, H, W, 3), array or tensor, as (T, 3, H, W), the same memory."""
    import torch

    pixels: Tensor = frames if torch.is_tensor(frames) else torch.from_numpy(frames)
    return pixels.permute(0, 3, 1, 2)


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 pixels (T, 3, H, W) as float32 in 0..1, colours interleaved."""
    import torch

    return pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)


def _cut_8_bit(pixels: Tensor, spec: ImageSpec, view: View) -> Tensor:
    shape = resized_shape(pixels.shape[2], pixels.shape[3], spec)
    if view.flip:
        pixels = pixels.flip(3)
    return _crop(resize_8_bit(pixels, shape, spec.interpolation), spec, view)


def _prepare_float(pixels: Tensor, spec: ImageSpec, view: View) -> Tensor:
    import torch

    # Low-pass resizing is up to twice as fast on planes, plain resizing on interleaved colours.
    layout = torch.contiguous_format if spec.antialias else torch.channels_last
    shape = resized_shape(pixels.shape[2], pixels.shape[3], spec)
    floats = pixels.to(torch.float32, memory_format=layout).div_(255)
    if view.flip:
        floats = floats.flip(3)
    return _crop(resize_float(floats, shape, spec.interpolation, antialias=spec.antialias), spec, view)


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Take mean and std off in place.

    On a CPU along rows of interleaved colours, because three values are too few for vector units; else by numbers and
    not by tensors, because a tensor would be copied to a GPU while everything waits.
    """
    if pixels.device.type == "cpu" and pixels.stride()[1::2] == (1, 3):
        means, stds = (pixels.new_tensor(values).repeat(pixels.shape[3]) for values in (mean, std))
        rows = pixels.permute(0, 2, 3, 1).flatten(2)  # (T, H, W * 3), the same memory
        rows.sub_(means).div_(stds)
        return pixels
    for channel, (mean_value, std_value) in enumerate(zip(mean, std, strict=True)):
        pixels[:, channel].sub_(mean_value).div_(std_value)
    return pixels


def _crop(pixels: Tensor, spec: ImageSpec, view: View) -> Tensor:
    size = spec.size
    top = _offset(pixels.shape[2] - size, view.top, spec)
    left = _offset(pixels.shape[3] - size, view.left, spec)
    return pixels[:, :, top : top + size, left : left + size]


def _offset(play: int, share: float, spec: ImageSpec) -> int:
    if share == 0.5:
        return play // 2 if spec.centre == "floor" else round(play / 2)
    return min(int(share * (play + 1)), play)  # each of the play + 1 offsets is as likely
