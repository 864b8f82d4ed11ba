"""The two ways in which image code resizes: in floating point, and in 8 bits as Pillow does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def resize_float(pixels: Tensor, shape: tuple[int, int], interpolation: str, *, antialias: bool) -> Tensor:
    """Return float pixels (T, 3, H, W) in 0..1 resized by `interpolate`, align_corners off."""
    import torch.nn.functional as F

    if shape == tuple(pixels.shape[2:]):
        return pixels
    resized = F.interpolate(pixels, shape, mode=interpolation, align_corners=False, antialias=antialias)
    return resized.clamp_(0, 1) if interpolation == "bicubic" else resized  # bicubic overshoots at edges


def resize_8_bit(pixels: Tensor, shape: tuple[int, int], interpolation: str) -> Tensor:
    """Return uint8 pixels (T, 3, H, W) resized as Pillow does: low-passed, rows first, rounded after each pass.

    On a CPU torch has this very arithmetic (0.5 % of the values differ from Pillow's, by 1 or 2 levels) and it is
    several times faster than resizing floats; elsewhere the two passes are made in float32 and rounded.
    """
    import torch.nn.functional as F

    if shape == tuple(pixels.shape[2:]):
        return pixels
    if pixels.device.type == "cpu":
        return F.interpolate(pixels, shape, mode=interpolation, align_corners=False, antialias=True)
    for target in ((pixels.shape[2], shape[1]), shape):
        passed = F.interpolate(pixels.float(), target, mode=interpolation, align_corners=False, antialias=True)
        pixels = passed.round_().clamp_(0, 255).byte()
    return pixels
