"""How frames become network input while a backbone trains: a published pipeline by name, or one for any backbone."""

from fsar.errors import InputError, unknown_name
from fsar.pipeline.backbones import Backbone
from fsar.pipeline.pixels.published import PixelPipeline, before_crop, list_pipelines, pixel_pipeline
from fsar.pipeline.pixels.spec import ImageSpec
from fsar.pipeline.pixels.steps import CentreCrop, Flip, Normalise, RandomCrop, ShortSide, Squash, Step, ToFloat

PLAIN = ("squash", "short-side", "centre-square")
FLIP = "+flip"


def list_images() -> list[str]:
    """Return the names of all pipelines."""
    return [*PLAIN, *(name + FLIP for name in PLAIN), *list_pipelines()]


def training_images(name: str, backbone: Backbone) -> PixelPipeline:
    """Return a pipeline for the frames of a backbone.

    "squash" and "short-side" resize as `fsar-prep encode --resize` of that name does (the latter antialiased), crop at
    random in training, and normalise as the backbone wants; "centre-square" is "short-side" with crops inside the
    central square, for what happens in the middle of a wide picture. "+flip" mirrors half of the training visits, which
    swaps left and right in the classes, too. All other names are those of published code, with its own normalisation.

    Raises:
        InputError: unknown name.
    """
    if name in list_pipelines():
        return pixel_pipeline(name, backbone.size)
    kind = name.removesuffix(FLIP)
    if kind not in PLAIN:
        raise unknown_name("pixel pipeline", name, list_images())
    size, mean, std = backbone.size, backbone.mean, backbone.std
    resized = before_crop(size)
    if size < 8:
        raise InputError(f"network input must have at least 8 pixels, got {size}")
    mirror: tuple[Step, ...] = (Flip(),) if name.endswith(FLIP) else ()
    if kind == "squash":
        steps = (ToFloat(), *mirror, Squash(resized, resized), RandomCrop(size), Normalise(mean, std))
        test = ImageSpec("squash", resized, size, "bilinear", antialias=False, mean=mean, std=std)
    else:
        square: tuple[Step, ...] = (CentreCrop(resized),) if kind == "centre-square" else ()
        steps = (ShortSide(resized), *square, *mirror, RandomCrop(size), ToFloat(), Normalise(mean, std))
        test = ImageSpec("short-side", resized, size, "bilinear", antialias=True, mean=mean, std=std)
    return PixelPipeline(name, size, steps, steps, test, "uniform-random", "uniform-center")
