import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.folding import fold_batch_norm
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.catalog.catalog import CatalogRow
from fsar.pipeline.encode.command import encode_command
from fsar.pipeline.encode.encode import EncodeOptions, add_videos, encode, plan
from fsar.pipeline.encode.engine import EngineOptions
from fsar.pipeline.encode.recipe import Recipe
from fsar.pipeline.encode.recorded_backbone import backbone_of
from fsar.pipeline.store import VideoRow, open_store
from tests.pipeline.encode_helpers import fake_decode, made_up_rows

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
PAIRS = {
    "random:timm/test_resnet": ("pooled", "map"),
    "random:timm/test_efficientnet": ("pooled",),  # its batch norms hold the activation
    "random:open_clip/fsar-RN-T": ("pooled",),
}
ENGINE = EngineOptions(device="cpu", jobs=0, decode=fake_decode)
OPTIONS = EncodeOptions("random:timm/test_resnet", n_slots=4, size=32, dtype="float32", engine=ENGINE)
FOLDED = dataclasses.replace(OPTIONS, fold_batch_norm=True)


def trained(backbone):
    """Give batch norms the statistics and factors that training would: those of a fresh network do nothing."""
    draw = torch.Generator().manual_seed(0)
    for norm in backbone.module.modules():
        if isinstance(norm, NORMS):
            for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)):
                tensor.copy_(torch.rand(tensor.shape, generator=draw) * (high - low) + low)
            norm.weight.data.copy_(torch.rand(norm.weight.shape, generator=draw) + 0.5)
            norm.bias.data.copy_(torch.rand(norm.bias.shape, generator=draw) - 0.5)
    return backbone


def features(backbone, taps):
    extractor = TapExtractor(backbone, taps)
    example = backbone.example()
    frames = torch.randn((3, *example.shape[1:]), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = extractor(frames)
    extractor.close()
    return found


@pytest.mark.parametrize("spec", PAIRS)
def test_features_stay_to_rounding_and_no_batch_norm_is_left(spec):
    plain, folded = (trained(load_backbone(spec, size=64)) for _ in range(2))
    n_norms = sum(isinstance(module, NORMS) for module in plain.module.modules())
    assert fold_batch_norm(folded) == n_norms > 3
    assert not any(isinstance(module, NORMS) for module in folded.module.modules())
    assert not any(parameter.requires_grad for parameter in folded.module.parameters())
    before, after = features(plain, PAIRS[spec]), features(folded, PAIRS[spec])
    for tap, values in before.items():
        assert (after[tap] - values).abs().max() <= 1e-5 * values.abs().max()
        assert not torch.equal(after[tap], values)


class Net(nn.Module):
    """Two convolutions and a batch norm in the ways that matter."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, frames):
        x = self.first(frames)
        if self.way == "used elsewhere":
            return (self.norm(x) + x).mean((2, 3))
        if self.way == "twice":  # one batch norm on two convolutions: only the other one can be folded
            return self.other(self.second(self.norm(self.second(self.norm(x))))).mean((2, 3))
        return self.norm(x.relu()).mean((2, 3))


def net(way):
    module = Net(way).eval()
    plain = load_backbone("random:timm/test_resnet", size=32)
    return trained(dataclasses.replace(plain, module=module))


@pytest.mark.parametrize("way", ["used elsewhere", "twice", "behind something else"])
def test_what_cannot_be_folded_is_refused_in_words(way):
    words = "gives other features" if way == "used elsewhere" else "no batch norm behind a convolution"
    with pytest.raises(InputError, match=words):
        fold_batch_norm(net(way))


def test_transformers_are_refused_where_it_is_planned(tmp_path):
    chosen = dataclasses.replace(FOLDED, backbone="random:timm/test_vit", size=None)
    with pytest.raises(InputError, match="leave --fold-batch-norm out"):
        plan([CatalogRow("a", tmp_path / "a", "x", 1)], chosen)


def test_a_folded_store_is_of_another_recipe_and_grows_by_it(tmp_path):
    rows = made_up_rows(tmp_path, ["a", "b"])
    plain = encode(rows, tmp_path / "plain.zarr", OPTIONS, quiet=True)
    folded = encode(rows, tmp_path / "folded.zarr", FOLDED, quiet=True)
    assert plain.recipe_id != folded.recipe_id
    stores = [open_store(report.path) for report in (plain, folded)]
    assert "fold_batch_norm" not in stores[0].recipe  # as older stores
    first, second = (store.read("pooled", [0, 1]) for store in stores)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    assert not np.array_equal(first, second)
    with pytest.raises(InputError, match="fold_batch_norm"):
        encode(rows, tmp_path / "plain.zarr", FOLDED, quiet=True)
    assert "--fold-batch-norm" in encode_command(stores[1].recipe, ["pooled"])
    assert "--fold-batch-norm" not in encode_command(stores[0].recipe, ["pooled"])
    more = [VideoRow(row.video_id, row.class_name, "train", str(row.path)) for row in made_up_rows(tmp_path, ["c"])]
    add_videos(folded.path, more, engine=ENGINE, quiet=True)
    whole = encode([*rows, *made_up_rows(tmp_path, ["c"])], tmp_path / "whole.zarr", FOLDED, quiet=True)
    added = open_store(folded.path).read("pooled", [2])
    np.testing.assert_allclose(added, open_store(whole.path).read("pooled", [2]), rtol=1e-6)
    module = backbone_of(Recipe.from_dict(stores[1].recipe)).module
    assert not any(isinstance(one, NORMS) for one in module.modules())
