"""How a frame becomes network input when nothing is random: resize, centre crop, mean and std."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fsar.errors import InputError, unknown_name

RESIZE_MODES = ("squash", "short-side")
INTERPOLATIONS = ("bilinear", "bicubic")
ARITHMETICS = ("float32", "uint8")
CENTRES = ("even", "floor")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "half": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Name -> mean and std of values in 0..1."""


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
    arithmetic: Literal["float32", "uint8"] = "float32"
    """Of resizing. `uint8` rounds to whole levels after each pass, as Pillow does; it needs `antialias`."""
    resize_width: int = 0
    """Width before the crop of frames that are squashed to a height of `resize`; 0: a square."""
    centre: Literal["even", "floor"] = "even"
    """Where a centre crop begins if an odd number of pixels is left over: half of it rounded to the even number, as
    torchvision does, or down, as transformers does."""

    def __post_init__(self) -> None:
        if self.mode not in RESIZE_MODES:
            raise unknown_name("resize mode", self.mode, RESIZE_MODES)
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS)
        if self.arithmetic not in ARITHMETICS:
            raise unknown_name("arithmetic of resizing", self.arithmetic, ARITHMETICS)
        if self.centre not in CENTRES:
            raise unknown_name("centre of a crop", self.centre, CENTRES)
        if self.arithmetic == "uint8" and not self.antialias:
            raise InputError("resizing in uint8 is Pillow's, which always low-passes: ask for antialias, too")
        if not 1 <= self.size <= self.resize:
            raise InputError(f"crop size must be between 1 and the resized {self.resize} pixels, got {self.size}")
        if self.resize_width and (self.mode != "squash" or self.resize_width < self.size):
            raise InputError(f"resized width {self.resize_width} goes with squash and a crop that is no wider")
        if min(self.std) <= 0:
            raise InputError(f"std must be positive, got {self.std}")


def resized_shape(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Return height and width after resizing; the longer side is rounded down as torchvision does."""
    if spec.mode == "squash":
        return spec.resize, spec.resize_width or spec.resize
    return short_side_shape(height, width, spec.resize)


def short_side_shape(height: int, width: int, pixels: int) -> tuple[int, int]:
    """Return the shape whose shorter side is `pixels`; the longer one is rounded down."""
    if height <= width:
        return pixels, int(pixels * width / height)
    return int(pixels * height / width), pixels


def describe_image(spec: ImageSpec) -> str:
    """Return in words how frames are prepared: "shorter side to 256 pixels (bilinear, antialiased), ..."."""
    target = (
        f"squashed to {spec.resize} x {spec.resize_width or spec.resize}"
        if spec.mode == "squash"
        else f"shorter side to {spec.resize}"
    )
    how = [spec.interpolation, "antialiased" if spec.antialias else "not antialiased"]
    if spec.arithmetic == "uint8":
        how.append("rounded to 8 bits as Pillow does")
    crop = (
        ""
        if spec.mode == "squash" and {spec.resize, spec.resize_width or spec.resize} == {spec.size}
        else f", centre crop of {spec.size}"
    )
    return f"{target} pixels ({', '.join(how)}){crop}, {_describe_normalisation(spec)}"


def _describe_normalisation(spec: ImageSpec) -> str:
    spoken = {"clip": "CLIP's mean and std", "imagenet": "ImageNet's mean and std", "none": "values in 0..1"}
    for name, (mean, std) in NORMALISATIONS.items():
        if (spec.mean, spec.std) == (mean, std) and name in spoken:
            return spoken[name]
    mean_text, std_text = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    return f"mean {mean_text}, std {std_text}"
