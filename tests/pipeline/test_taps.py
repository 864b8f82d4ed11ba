import dataclasses

import pytest
import torch
import torch.nn.functional as F
import torchvision

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.taps import TapExtractor, resolve_taps
from tests.pipeline.backbone_helpers import add_tiny_clips

close = torch.testing.assert_close


@pytest.fixture(scope="module", autouse=True)
def tiny_clips(tmp_path_factory):
    add_tiny_clips(tmp_path_factory.mktemp("clips"))


def frames(size, n=3):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def extract(backbone, *taps):
    extractor = TapExtractor(backbone, taps)
    with torch.inference_mode():
        features = extractor(frames(backbone.size))
    assert {tap: tuple(value.shape[1:]) for tap, value in features.items()} == extractor.shapes()
    extractor.close()
    return features


def test_clip_vit_tokens_are_the_librarys_behind_its_norm_and_projection():
    backbone = load_backbone("random:open_clip/tiny-vit")
    features = extract(backbone, "pooled", "tokens.0", "tokens.2", "tokens.1.raw")
    with torch.inference_mode():
        images, tower = frames(32), backbone.clip.visual
        inside = tower.forward_intermediates(
            images, indices=[0, 1, 2], output_fmt="NLC", output_extra_tokens=True, normalize_intermediates=False
        )
        residual = [
            torch.cat([prefix, patches], 1)
            for prefix, patches in zip(inside["image_intermediates_prefix"], inside["image_intermediates"], strict=True)
        ]
        close(features["pooled"], backbone.clip.encode_image(images))
        close(features["tokens.1.raw"], residual[1])
        close(features["tokens.0"], tower.ln_post(residual[0]) @ tower.proj)
    close(features["tokens.2"][:, 0], features["pooled"])  # the class token of the last block is the image embedding
    assert features["tokens.0"].shape == (3, 17, 24)


def test_the_tokens_below_the_first_block_are_clips_embeddings_behind_its_first_norm():
    backbone = load_backbone("random:open_clip/tiny-vit")
    alone = extract(backbone, "tokens.in.raw")["tokens.in.raw"]
    with torch.inference_mode():
        tower = backbone.clip.visual
        patches = tower.conv1(frames(32)).flatten(2).transpose(1, 2)
        tokens = torch.cat([tower.class_embedding.expand(3, 1, -1), patches], 1) + tower.positional_embedding
        close(alone, tower.ln_pre(tokens))
    together = extract(backbone, "tokens.all.raw", "pooled")
    assert list(together) == ["tokens.in.raw", "tokens.0.raw", "tokens.1.raw", "tokens.2.raw", "pooled"]
    close(together["tokens.in.raw"], alone)
    with torch.inference_mode():  # the first block, given them, gives what is stored of it
        close(backbone.points.blocks[0](alone), together["tokens.0.raw"])


def test_clip_resnet_pooled_and_map_are_the_librarys():
    backbone = load_backbone("random:open_clip/tiny-rn")
    features = extract(backbone, "map", "pooled", "avgpool", "map4max")
    with torch.inference_mode():
        images = frames(64)
        close(features["pooled"], backbone.clip.encode_image(images))
        inside = backbone.module.forward_intermediates(images, indices=[4], intermediates_only=True)
        close(features["map"], inside["image_intermediates"][0])
    close(features["avgpool"], features["map"].mean((2, 3)))


def test_torchvision_features_are_its_own_layers():
    backbone = load_backbone("random:torchvision/resnet18", size=64)
    features = extract(backbone, "pooled", "avgpool", "map", "map4max")
    model = torchvision.models.resnet18(weights=None).eval()
    model.load_state_dict(backbone.module.state_dict(), strict=False)
    nodes = {"layer4": "map", "flatten": "pooled"}
    expected = torchvision.models.feature_extraction.create_feature_extractor(model, nodes)(frames(64))
    close(features["map"], expected["map"])
    close(features["pooled"], expected["pooled"])
    close(features["avgpool"], expected["pooled"])
    assert features["map"].min() >= 0


def test_the_max_tokens_are_the_documented_bins_in_row_major_order():
    backbone = load_backbone("random:torchvision/resnet18", size=224)
    features = extract(backbone, "map", "map4max")
    assert features["map"].shape == (3, 512, 7, 7)
    bins = [(0, 2), (1, 4), (3, 6), (5, 7)]
    for row, (top, bottom) in enumerate(bins):
        for column, (left, right) in enumerate(bins):
            expected = features["map"][:, :, top:bottom, left:right].amax((2, 3))
            close(features["map4max"][:, 4 * row + column], expected)


def test_timm_features_are_its_own():
    vit = load_backbone("random:timm/test_vit", size=32)
    features = extract(vit, "pooled", "tokens.early", "tokens.late", "tokens.0.raw")
    with torch.inference_mode():
        images = frames(32)
        close(features["pooled"], vit.module(images))
        last = len(vit.points.blocks) - 1
        close(features[f"tokens.{last}"], vit.module.forward_features(images))
        inside = vit.module.forward_intermediates(
            images, indices=[0], norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        close(features["tokens.0.raw"], torch.cat([inside[0][1], inside[0][0]], 1))
    resnet = load_backbone("random:timm/test_resnet", size=32)
    features = extract(resnet, "pooled", "map")
    with torch.inference_mode():
        close(features["map"], resnet.module.forward_features(frames(32)))
        close(features["pooled"], resnet.module(frames(32)))


def test_taps_behind_which_nothing_is_wanted_end_the_forward_pass():
    backbone = load_backbone("random:open_clip/tiny-vit")
    reached = []
    backbone.points.blocks[1].register_forward_hook(lambda *unused: reached.append(1))
    alone = extract(backbone, "tokens.0")
    assert reached == []
    close(alone["tokens.0"], extract(backbone, "tokens.0", "pooled")["tokens.0"])
    assert reached


def test_closing_takes_the_hooks_off():
    backbone = load_backbone("random:torchvision/resnet18", size=32)
    TapExtractor(backbone, ["map"]).close()
    assert backbone.module(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_relative_blocks_are_thirds_of_the_depth():
    backbone = load_backbone("random:open_clip/tiny-vit")
    points = dataclasses.replace(backbone.points, blocks=backbone.points.blocks * 4)
    backbone = dataclasses.replace(backbone, points=points)
    names = ["tokens.early", "tokens.middle", "tokens.late.raw"]
    assert resolve_taps(backbone, names) == ("tokens.3", "tokens.7", "tokens.11.raw")


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (["poled"], "did you mean pooled.*resnet18 has pooled, avgpool, map, map4max"),
        (["tokens.3"], "unknown tap 'tokens.3'"),
        (["tokens.late"], "unknown tap"),
        (["tokens.all.raw"], "unknown tap"),
        (["map", "map"], "once each"),
        ([], "got none"),
    ],
)
def test_taps_that_a_backbone_lacks_are_refused(taps, message):
    backbone = load_backbone("random:torchvision/resnet18", size=32)
    with pytest.raises(InputError, match=message):
        resolve_taps(backbone, taps)


def test_a_vit_says_how_deep_it_is():
    backbone = load_backbone("random:open_clip/tiny-vit")
    with pytest.raises(InputError, match=r"tiny-vit has pooled, tokens.K and tokens.K.raw for K = 0..2"):
        resolve_taps(backbone, ["tokens.12"])


def test_normalising_is_left_to_the_heads():
    backbone = load_backbone("random:open_clip/tiny-vit")
    pooled = extract(backbone, "pooled")["pooled"]
    unit = backbone.clip.encode_image(frames(32), normalize=True)
    close(F.normalize(pooled, dim=-1), unit)
    assert not torch.allclose(pooled, unit)
