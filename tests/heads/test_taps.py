"""The command that a head suggests for a store without its tap makes features like the store's."""

import dataclasses
from types import SimpleNamespace

import pytest

from fsar.cli import prep_encode
from fsar.errors import InputError
from fsar.heads.head import head_type
from fsar.heads.setup.taps import choose_taps
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.encode.image_choice import PixelOptions, choose_image
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.pixels.published import list_pipelines, pixel_pipeline
from fsar.pipeline.store import TapSpec


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("random:timm/test_resnet", size=32)


def recipe_with(image, **changes):
    fields = {"resize_mode": image.mode, **{n: getattr(image, n) for n in ("resize", "size", "interpolation")}}
    fields |= {n: getattr(image, n) for n in ("antialias", "mean", "std", "arithmetic", "resize_width")}
    recipe = Recipe("timm", "test_resnet", "random@0", "0" * 64, ("pooled",), "trx", 1, 8, **fields)
    return dataclasses.replace(recipe, **changes)


def suggested(recipe):
    """Return the words of the command that STRM, which needs maps, suggests for a store of pooled features."""
    store = SimpleNamespace(path="s.zarr", taps={"pooled": TapSpec((64,), "float16")}, recipe=recipe.to_dict())
    with pytest.raises(InputError, match="Add it: ") as error:
        choose_taps("strm", head_type("strm"), store)
    return str(error.value).split("Add it: fsar-prep encode ")[1].split()


@pytest.mark.parametrize("name", ["backbone", "0.1.0", *list_pipelines()])
def test_it_prepares_frames_as_the_store_has_them(name, backbone):
    own = {"backbone": PixelOptions(), "0.1.0": PixelOptions("clip-fsar", normalisation="backbone")}
    image = choose_image(own[name], 32, backbone) if name in own else pixel_pipeline(name, 32).test
    options = prep_encode.command.make_context("encode", suggested(recipe_with(image))).params
    chosen = PixelOptions(**{field.name: options[field.name] for field in dataclasses.fields(PixelOptions)})
    again = choose_image(chosen, options["size"], backbone)
    known = (backbone.mean, (0.45,) * 3, (0.0,) * 3)
    assert again == (image if image.mean in known else dataclasses.replace(image, mean=again.mean, std=again.std))
    assert options["sampler"] == "trx"


def test_a_pack_is_named_in_place_of_a_catalog(backbone):
    words = suggested(recipe_with(backbone.image, decoder="packed", packed={"frames": 16}))
    assert words[0] == "NAME.frames"
    assert "--decoder" not in words
