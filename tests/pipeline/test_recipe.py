import dataclasses
import json

import pytest

from fsar.errors import InputError
from fsar.pipeline.encode.command import backbone_spec
from fsar.pipeline.encode.recipe import Recipe, describe_pixels, differences

RECIPE = Recipe(
    library="torchvision",
    backbone="resnet18",
    pretrained="IMAGENET1K_V1",
    weights_sha256="0" * 64,
    taps=("pooled", "map"),
    sampler="uniform-center",
    sampler_version=1,
    n_slots=8,
    resize_mode="squash",
    resize=256,
    size=224,
    interpolation="bilinear",
    antialias=False,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    n_views=2,
)
OTHER = {
    "arithmetic": "uint8",
    "packed": {"frames": 8},
    "dtype": "float32",
    "precision": "bf16",
    "n_views": 3,
    "n_slots": 4,
    "size": 112,
    "format": 2,
}


def changed(name):
    value = getattr(RECIPE, name)
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, tuple):
        return tuple(reversed(value)) if isinstance(value[0], str) else (0.1, *value[1:])
    return f"{value}x"


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_every_field_changes_the_id_and_is_named_in_the_difference(name):
    other = dataclasses.replace(RECIPE, **{name: changed(name)})
    assert other.recipe_id != RECIPE.recipe_id
    (line,) = differences(RECIPE.to_dict(), other.to_dict())
    assert line.startswith(name)


def test_recipes_survive_json():
    again = Recipe.from_dict(json.loads(json.dumps(RECIPE.to_dict())))
    assert again == RECIPE
    assert again.recipe_id == RECIPE.recipe_id


def test_unknown_and_missing_fields_are_named():
    data = RECIPE.to_dict()
    with pytest.raises(InputError, match="unknown fields colour_space"):
        Recipe.from_dict({**data, "colour_space": "x"})
    del data["sampler"]
    with pytest.raises(InputError, match="sampler"):
        Recipe.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp8"}, "unknown precision"),
        ({"dtype": "int8"}, "unknown feature dtype"),
        ({"n_slots": 0}, "n_slots must be at least 1"),
        ({"n_views": 1, "flip": True}, "ask for 2 views or more"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(RECIPE, **change)


def test_recipes_of_0_1_0_keep_their_id():
    """What came later says nothing in them, so stores of old and new versions merge, compare and resume."""
    assert RECIPE.recipe_id == "bdca17d0a5bf5cd423f66c5332cce4aaa87811111dc4fc4acf447c67e882202c"
    assert not {"arithmetic", "packed"} & set(RECIPE.to_dict())
    later = dataclasses.replace(RECIPE, antialias=True, arithmetic="uint8", packed={"frames": 16})
    assert later.to_dict()["packed"] == {"frames": 16}
    assert Recipe.from_dict(json.loads(json.dumps(later.to_dict()))) == later


def test_frames_in_words():
    assert describe_pixels(RECIPE.to_dict()) == (
        "videos decoded by pyav; squashed to 256 x 256 pixels (bilinear, not antialiased), centre crop of 224, "
        "mean 0.5, 0.5, 0.5, std 0.2, 0.2, 0.2"
    )
    pillow = dataclasses.replace(
        RECIPE, resize_mode="short-side", antialias=True, arithmetic="uint8", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    assert describe_pixels(pillow.to_dict()) == (
        "videos decoded by pyav; shorter side to 256 pixels (bilinear, antialiased, rounded to 8 bits as Pillow does), "
        "centre crop of 224, values in 0..1; as tested by clip-mei, clip-mei-ssv2, lib, strm, trx"
    )
    packed = dataclasses.replace(RECIPE, packed={"frames": 16, "short_side": 256})
    assert describe_pixels(packed.to_dict()).startswith("packed, 16 frames by uniform-center (seed 0), shorter side at")
    for foreign in ({}, {**RECIPE.to_dict(), "size": 999}, {**RECIPE.to_dict(), "mean": "x"}, {"packed": 3}):
        assert describe_pixels(foreign) is None


@pytest.mark.parametrize(
    ("pretrained", "spec"),
    [("random@0", "random:timm/x"), ("random@7", "random:timm/x@7"), ("tag", "timm:x/tag"), ("file", "timm:x/FILE")],
)
def test_a_backbone_is_written_as_the_command_takes_it(pretrained, spec):
    assert backbone_spec({"library": "timm", "backbone": "x", "pretrained": pretrained}) == spec
