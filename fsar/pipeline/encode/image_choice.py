"""How `encode` prepares frames: as the backbone was trained, as published code does, or as a store was begun."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError, unknown_name
from fsar.pipeline.pixels.published import list_pipelines, pixel_pipeline
from fsar.pipeline.pixels.spec import NORMALISATIONS, ImageSpec, describe_image

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.encode.recipe import Recipe

AS_TRAINED = "backbone"


@dataclass(frozen=True)
class PixelOptions:
    """How frames become network input."""

    pixels: str = AS_TRAINED
    """`backbone`: as its library prepares pictures for its weights; else a published pipeline (its test pictures)."""
    resize_mode: str | None = None
    """This and the next ones replace one thing each of `pixels`; None leaves it."""
    resize: int | None = None
    """Pixels before the crop."""
    resize_width: int | None = None
    """Width before the crop, where squashed frames are wider than `resize`; 0 for squares."""
    interpolation: str | None = None
    antialias: bool | None = None
    arithmetic: str | None = None
    """Of resizing: `uint8` as Pillow, or `float32`; without antialias always float32."""
    normalisation: str | None = None
    """Whose mean and std: the backbone's own, `clip`, `imagenet`, `half` (0.45 / 0.225) or `none`."""


def choose_image(options: PixelOptions, size: int, backbone: Backbone | None) -> ImageSpec:
    """Return how frames become network input of `size` pixels; without a backbone only the options are checked.

    Raises:
        InputError: unknown names, an impossible geometry, a backbone whose own pictures ours cannot be.
    """
    base = _base(options, size, backbone)
    width = 0 if options.resize or options.resize_mode else base.resize_width
    mean, std = _normalisation(options.normalisation, base, backbone)
    antialias = base.antialias if options.antialias is None else options.antialias
    return ImageSpec(
        mode=options.resize_mode or base.mode,  # type: ignore[arg-type]  # names are checked by the class
        resize=options.resize or base.resize,
        resize_width=width if options.resize_width is None else options.resize_width,
        size=size,
        interpolation=options.interpolation or base.interpolation,  # type: ignore[arg-type]
        antialias=antialias,
        mean=mean,
        std=std,
        arithmetic=options.arithmetic or (base.arithmetic if antialias else "float32"),  # type: ignore[arg-type]
        centre=base.centre,
    )


def _base(options: PixelOptions, size: int, backbone: Backbone | None) -> ImageSpec:
    if options.pixels != AS_TRAINED:
        if options.pixels not in list_pipelines():
            raise unknown_name("way to prepare pixels", options.pixels, [AS_TRAINED, *list_pipelines()])
        return pixel_pipeline(options.pixels, size).test
    if backbone is not None and backbone.image is not None:
        return backbone.image
    if backbone is not None and options.resize_mode is None:
        raise InputError(
            f"{backbone.library}:{backbone.name} was trained on pictures that encode does not make (padded ones): "
            "choose others with --pixels NAME, or say --resize squash or short-side"
        )
    mean, std = (backbone.mean, backbone.std) if backbone is not None else NORMALISATIONS["none"]
    return ImageSpec("short-side", size, size, "bicubic", antialias=True, mean=mean, std=std, arithmetic="uint8")


def _normalisation(
    name: str | None, base: ImageSpec, backbone: Backbone | None
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if name is None:
        return base.mean, base.std
    if name == AS_TRAINED:
        return (backbone.mean, backbone.std) if backbone is not None else NORMALISATIONS["none"]
    if name not in NORMALISATIONS:
        raise unknown_name("normalisation", name, [AS_TRAINED, *NORMALISATIONS])
    return NORMALISATIONS[name]


IMAGE_FIELDS = (
    "resize_mode", "resize", "resize_width", "interpolation", "antialias", "mean", "std", "arithmetic", "centre",
)  # fmt: skip
"""Fields of a recipe that `choose_image` decides, but for the size, which is the backbone's."""


def as_begun(recipe: Recipe, stored: Recipe, out: Path) -> tuple[Recipe, str | None]:
    """Return a recipe with the pictures of the store at `out`, `stored`, and a note where these are others.

    The default has changed before and may again: who resumes a store without a word on pixels means the store's.
    """
    resumed = replace(recipe, **{name: getattr(stored, name) for name in IMAGE_FIELDS})
    try:
        before, now = resumed.image, recipe.image
    except InputError:
        return recipe, None
    if before == now:
        return recipe, None
    was, would = describe_image(before), describe_image(now)
    return resumed, f"{out} was begun with frames {was}, and goes on so (a new store would have them {would})"
