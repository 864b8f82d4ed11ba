"""The colour jitter of the CLIP-FSAR family: one draw for a whole clip, on values in 0..1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

OPERATIONS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Jitter:
    """One draw of colour changes."""

    grey: bool
    factors: tuple[tuple[str, float], ...]
    """(operation, factor) in the order they are applied, after `grey`."""


def operation(name: str) -> Callable[[Tensor, float], Tensor]:
    """Return torchvision's function for one of `OPERATIONS`."""
    from torchvision.transforms.v2 import functional

    functions: Mapping[str, Callable[[Tensor, float], Tensor]] = {
        "brightness": functional.adjust_brightness,
        "contrast": functional.adjust_contrast,
        "saturation": functional.adjust_saturation,
        "hue": functional.adjust_hue,
    }
    return functions[name]


def grey(pixels: Tensor) -> Tensor:
    """Return pixels (..., 3, H, W) without colour, still three channels."""
    from torchvision.transforms.v2 import functional

    three: Tensor = functional.rgb_to_grayscale(pixels, num_output_channels=3)
    return three.contiguous()  # channels must not share memory: what follows works in place


def apply_jitter(pixels: Tensor, jitter: Jitter) -> Tensor:
    """Return pixels (..., 3, H, W), in 0..1 or uint8, with their colours changed."""
    if jitter.grey:
        pixels = grey(pixels)
    for name, factor in jitter.factors:
        pixels = operation(name)(pixels, factor)
    return pixels
