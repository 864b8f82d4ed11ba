"""The image pipelines of published code by name: which frames, and their exact path to network input.

Source: the specification of each code base's data loading, in their released versions. Train pipelines are random but
depend on (seed, step, video) alone; test pipelines are an `ImageSpec`, the same that `encode` writes into a recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from fsar.errors import InputError, unknown_name
from fsar.pipeline.pixels.draws import Draws
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.pixels.spec import NORMALISATIONS, ImageSpec
from fsar.pipeline.pixels.steps import (
    ClipJitter,
    ColourJitter,
    Flip,
    Grey,
    Normalise,
    PerFrame,
    RandomCrop,
    RandomResizedCrop,
    ShortSide,
    Squash,
    Step,
    ToFloat,
)

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIZE = 8
Role = Literal["support", "query"]


@dataclass(frozen=True)
class PixelPipeline:
    """How one code base turns the frames of a video into network input, in training and at test."""

    name: str
    size: int
    """Height and width of the input, pixels."""
    support: tuple[Step, ...]
    """Steps of a support video in training, in order."""
    query: tuple[Step, ...]
    """Steps of a query video in training; code that trains on pairs has the same for both."""
    test: ImageSpec
    train_sampler: str
    """Which frames in training, a name of `fsar.pipeline.video.sample`."""
    test_sampler: str
    """Which frames at test; some code bases draw at random there, too."""

    def train(self, frames: Any, role: Role, *, seed: int, step: int, video_id: str) -> Tensor:
        """Return frames (T, H, W, 3) uint8, array or tensor, as augmented (T, 3, size, size) float32, same device.

        What is drawn depends on (seed, step, video_id) alone, so a step can be repeated by any process in any order.
        """
        import torch

        clip = frames if torch.is_tensor(frames) else torch.from_numpy(frames)
        clip = clip.permute(0, 3, 1, 2)
        draws = Draws(seed, step, video_id)
        for one in self.support if role == "support" else self.query:
            clip = one(clip, draws)
        return clip

    def evaluate(self, frames: Any) -> Tensor:
        """Return frames (T, H, W, 3) uint8 as test input (T, 3, size, size) float32 on the same device."""
        return prepare(frames, self.test)

    def indices(self, n_frames: int, n_slots: int, *, seed: int, step: int, video_id: str) -> Any:
        """Return the frames of a training visit, (n_slots,) int32, by `train_sampler`.

        Raises:
            VideoError: the published rule drops a video that short.
        """
        from fsar.pipeline.video.sample import sample_indices

        return sample_indices(self.train_sampler, n_frames, n_slots, Draws(seed, step, video_id).generator("frames"))


def list_pipelines() -> list[str]:
    """Return the names of all published pipelines, sorted."""
    return sorted(_BUILDERS)


def pixel_pipeline(name: str, size: int = 224) -> PixelPipeline:
    """Return a published pipeline; other sizes than 224 keep its proportions (84 pixels are cut from 96, as in TRX).

    Raises:
        InputError: no such name, or a size below 8.
    """
    if name not in _BUILDERS:
        raise unknown_name("pixel pipeline", name, _BUILDERS)
    if size < MIN_SIZE:
        raise InputError(f"network input must have at least {MIN_SIZE} pixels, got {size}")
    return _BUILDERS[name](name, size)


def tested_so(image: ImageSpec) -> list[str]:
    """Return the names of the published pipelines whose test pictures are these."""
    return [
        name for name in list_pipelines() if image.size >= MIN_SIZE and pixel_pipeline(name, image.size).test == image
    ]


def before_crop(size: int) -> int:
    """Return the pixels before a crop of `size`, in the proportion that all these code bases share: 256 to 224."""
    return round(size * 256 / 224)


def _perrett(name: str, size: int, *, flip: bool, train_sampler: str, test_sampler: str) -> PixelPipeline:
    """TRX and what was built on it: Pillow's resizing, flip, crop, no normalisation at all."""
    resized = before_crop(size)
    mirror: tuple[Step, ...] = (Flip(),) if flip else ()
    steps = (ShortSide(resized), *mirror, RandomCrop(size), ToFloat())
    test = ImageSpec("short-side", resized, size, "bilinear", antialias=True, arithmetic="uint8")
    return PixelPipeline(name, size, steps, steps, test, train_sampler, test_sampler)


def _clip_fsar(
    name: str, size: int, *, normalisation: str, augmented: Role | None, interval: bool = False, wide: bool = False
) -> PixelPipeline:
    """The CLIP-FSAR code base: float from the start, squashed, cropped; one of the two roles may be augmented."""
    resized, (mean, std) = before_crop(size), NORMALISATIONS[normalisation]
    width = round(size * 320 / 224) if wide else resized
    crop = (Squash(resized, width), RandomCrop(size, reaches_end=False))
    plain: tuple[Step, ...] = (ToFloat(), *crop, Normalise(mean, std))
    changed: tuple[Step, ...] = (ToFloat(), Flip(), *crop, ClipJitter(), Normalise(mean, std))
    support, query = (changed if augmented == role else plain for role in ("support", "query"))
    test = ImageSpec("squash", resized, size, mean=mean, std=std, resize_width=width if wide else 0)
    samplers = ("clipfsar-interval-random", "clipfsar-interval") if interval else ("clipfsar-segment",) * 2
    return PixelPipeline(name, size, support, query, test, *samplers)


def _hcl(name: str, size: int) -> PixelPipeline:
    """HCL, `type1`: every frame is cut and coloured by itself, on 8-bit levels."""
    mean, std = NORMALISATIONS["imagenet"]
    frame = PerFrame((RandomResizedCrop(size), Flip(), ColourJitter(), Grey()))
    steps = (frame, ToFloat(), Normalise(mean, std))
    test = ImageSpec("squash", size, size, "bilinear", antialias=True, mean=mean, std=std, arithmetic="uint8")
    return PixelPipeline(name, size, steps, steps, test, "hcl-random", "hcl-random")


_trx = partial(_perrett, flip=True, train_sampler="trx-random", test_sampler="trx")
_resnet = partial(_clip_fsar, normalisation="half", augmented="query")
_BUILDERS: dict[str, Callable[[str, int], PixelPipeline]] = {
    "trx": _trx,
    "strm": _trx,
    "lib": partial(_perrett, flip=True, train_sampler="uniform-ends", test_sampler="uniform-ends"),
    "clip-mei": _trx,
    "clip-mei-ssv2": partial(_perrett, flip=False, train_sampler="trx-random", test_sampler="trx"),
    "clip-fsar": partial(_clip_fsar, normalisation="clip", augmented=None),
    "clip-fsar-kinetics": partial(_clip_fsar, normalisation="clip", augmented="query", interval=True),
    "clip-fsar-half": partial(_clip_fsar, normalisation="half", augmented=None),
    "hyrsm": _resnet,
    "hyrsm-epic": partial(_resnet, wide=True),
    "hyrsm-kinetics": partial(_resnet, interval=True),
    "hyrsm++": _resnet,
    "hyrsm++-epic": partial(_resnet, wide=True),
    "hyrsm++-kinetics": partial(_resnet, interval=True),
    "molo": _resnet,
    "molo-kinetics": partial(_resnet, interval=True),
    "emp-net": partial(_clip_fsar, normalisation="clip", augmented="support"),
    "hcl": _hcl,
}
