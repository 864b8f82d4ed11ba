"""Frames are prepared as the backbone was trained: by its library's own transform, on real and made-up frames."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.open_clip import _image as open_clip_image
from fsar.pipeline.backbones.spec import BackboneSpec
from fsar.pipeline.backbones.timm import _image as timm_image
from fsar.pipeline.backbones.torchvision import _image as torchvision_image
from fsar.pipeline.encode.encode import EncodeOptions, encode, plan
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.encode.image_choice import PixelOptions, choose_image
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.pixels.published import list_pipelines, pixel_pipeline
from fsar.pipeline.pixels.spec import CLIP_MEAN, CLIP_STD
from fsar.pipeline.store import open_store
from fsar.pipeline.video.decode import decode_clip
from tests.pipeline.encode_helpers import fake_decode, made_up_rows

LEVEL = 1 / 255


def made_up():
    coarse = np.random.default_rng(0).integers(0, 256, (1, 25, 33, 3), dtype=np.uint8)
    wide = coarse.repeat(10, 1).repeat(13, 2)[:, :240, :427]
    return [wide[0].copy(), wide[0].transpose(1, 0, 2).copy(), wide[0, :90, :110].copy()]


def agrees(spec, transform, pictures):
    """Check that pictures prepared by `spec` are those of a library's transform, but for the last of 256 levels.

    Squashing tall pictures is left out: Pillow 13 began to resize these by columns first; rows first, as every Pillow
    before, is what the models were trained with.
    """
    for picture in pictures:
        if spec.mode == "squash" and picture.shape[0] > picture.shape[1]:
            continue
        expected = transform(Image.fromarray(picture))
        difference = (prepare(picture[None], spec)[0] - expected).abs() * torch.tensor(spec.std).view(3, 1, 1)
        assert difference.max() <= 2.01 * LEVEL
        assert (difference < 0.01 * LEVEL).float().mean() > 0.985


def open_clip_cases():
    for resize_mode in ("shortest", "squash"):
        for interpolation in ("bicubic", "bilinear", "random"):
            yield {"size": (64, 64), "resize_mode": resize_mode, "interpolation": interpolation}
    yield {"size": 96, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.mark.parametrize("config", list(open_clip_cases()), ids=str)
def test_open_clips_own_transform(config):
    cfg = open_clip.transform.PreprocessCfg(**config)
    tower = SimpleNamespace(preprocess_cfg=dataclasses.asdict(cfg), image_mean=cfg.mean, image_std=cfg.std)
    size = config["size"] if isinstance(config["size"], int) else config["size"][0]
    agrees(open_clip_image(tower, size), open_clip.transform.image_transform_v2(cfg, is_train=False), made_up())


def test_a_loaded_clip_is_prepared_as_clip():
    backbone = load_backbone("random:open_clip/ViT-S-32-alt")
    transform = open_clip.image_transform(224, is_train=False)
    agrees(backbone.image, transform, made_up())
    assert (backbone.image.interpolation, backbone.image.mean, backbone.image.std) == ("bicubic", CLIP_MEAN, CLIP_STD)
    assert load_backbone("random:open_clip/ViT-S-32-alt", size=64).image.size == 64


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "resnet18", "tf_efficientnet_lite0"])
def test_timms_own_transform(name):
    module = timm.create_model(name, num_classes=0)
    config = timm.data.resolve_model_data_config(module)
    native = config["input_size"][-1]
    agrees(timm_image(module.pretrained_cfg, native), timm.data.create_transform(**config), made_up())


@pytest.mark.parametrize(
    "changes", [{"crop_mode": "squash"}, {"crop_pct": 1.0}, {"crop_pct": 0.9, "interpolation": "bilinear"}], ids=str
)
def test_timms_other_crops(changes):
    module = timm.create_model("resnet18", num_classes=0)
    config = timm.data.resolve_model_data_config(module) | changes
    transform = timm.data.create_transform(**config)
    agrees(timm_image(module.pretrained_cfg | changes, 224), transform, made_up())


@pytest.mark.parametrize(("name", "tag"), [("resnet18", "IMAGENET1K_V1"), ("resnet50", "IMAGENET1K_V2")])
def test_torchvisions_own_transform(name, tag):
    spec = BackboneSpec("torchvision", name, tag=tag)
    weights = torchvision.models.get_model_weights(name)[tag]
    agrees(torchvision_image(spec, 224), weights.transforms(), made_up())
    assert torchvision_image(spec, 112).resize == torchvision_image(spec, 224).resize / 2


def test_weights_without_a_tag_are_prepared_as_the_first_imagenet_weights():
    backbone = load_backbone("random:torchvision/resnet18")
    agrees(backbone.image, torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms(), made_up())


@pytest.mark.shared
def test_real_frames_too(shared):
    paths = sorted((shared / "data" / "ssv2-mini" / "videos").glob("*.webm"))[:4]
    frames = [decode_clip(path, lambda n: np.arange(0, n, 4)).frames for path in paths]
    pictures = [frame for clip in frames for frame in clip]
    clip = load_backbone("random:open_clip/ViT-S-32-alt")
    agrees(clip.image, open_clip.image_transform(224, is_train=False), pictures)
    module = timm.create_model("resnet18", num_classes=0)
    config = timm.data.resolve_model_data_config(module)
    agrees(timm_image(module.pretrained_cfg, 224), timm.data.create_transform(**config), pictures)
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    agrees(
        torchvision_image(BackboneSpec("torchvision", "resnet50", tag="DEFAULT"), 224), weights.transforms(), pictures
    )


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("random:timm/test_resnet", size=32)


@pytest.mark.parametrize("name", list_pipelines())
def test_published_pixels_are_their_test_pictures(name, backbone):
    assert choose_image(PixelOptions(name), 32, backbone) == pixel_pipeline(name, 32).test


def test_each_part_can_be_replaced(backbone):
    assert choose_image(PixelOptions(), 32, backbone) == backbone.image
    chosen = choose_image(PixelOptions("trx", normalisation="backbone", resize=40), 32, backbone)
    expected = dataclasses.replace(pixel_pipeline("trx", 32).test, resize=40, mean=backbone.mean, std=backbone.std)
    assert chosen == expected
    plain = choose_image(PixelOptions(antialias=False, resize_mode="squash", normalisation="none"), 32, backbone)
    assert (plain.arithmetic, plain.mode, plain.mean) == ("float32", "squash", (0.0, 0.0, 0.0))
    assert choose_image(PixelOptions(arithmetic="float32"), 32, backbone).antialias


def test_padded_pictures_are_refused_unless_others_are_asked_for(backbone):
    tower = SimpleNamespace(
        preprocess_cfg={"size": 32, "resize_mode": "longest"}, image_mean=CLIP_MEAN, image_std=CLIP_STD
    )
    assert open_clip_image(tower, 32) is None
    assert timm_image({"crop_mode": "border", "interpolation": "bicubic"}, 32) is None
    padded = dataclasses.replace(backbone, image=None)
    with pytest.raises(InputError, match=r"choose others with --pixels NAME"):
        choose_image(PixelOptions(), 32, padded)
    assert choose_image(PixelOptions("hcl"), 32, padded) == pixel_pipeline("hcl", 32).test
    assert choose_image(PixelOptions(resize_mode="squash"), 32, padded).mean == backbone.mean


OLD = PixelOptions(resize_mode="squash", resize=37, interpolation="bilinear", antialias=False)
"""What 0.1.0 did with every backbone."""


def tiny(image):
    engine = EngineOptions(device="cpu", batch_size=8, jobs=0, decode=fake_decode)
    return EncodeOptions("random:timm/test_resnet", n_slots=2, size=32, engine=engine, **dataclasses.asdict(image))


def test_a_store_that_an_older_version_began_is_resumed_with_its_own_pixels(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b", "c"])
    old = encode(rows, tmp_path / "s.zarr", tiny(OLD), quiet=True)
    assert "arithmetic" not in open_store(old.path).recipe
    again = encode(rows, tmp_path / "s.zarr", tiny(PixelOptions()), quiet=True)
    assert (again.recipe_id, again.n_resumed) == (old.recipe_id, 3)
    planned = plan(rows, tiny(PixelOptions()), tmp_path / "s.zarr")
    assert "was begun with frames squashed to 37 x 37 pixels (bilinear, not antialiased)" in "".join(planned.notes)
    new = encode(rows, tmp_path / "new.zarr", tiny(PixelOptions()), quiet=True)
    assert new.recipe_id != old.recipe_id
    assert open_store(new.path).recipe["arithmetic"] == "uint8"
    assert plan(rows, tiny(PixelOptions()), tmp_path / "new.zarr").notes == ()
    with pytest.raises(InputError, match="holds another recipe"):
        encode(rows, tmp_path / "s.zarr", tiny(PixelOptions("trx")), quiet=True)
