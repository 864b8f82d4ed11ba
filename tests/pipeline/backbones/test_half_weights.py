"""Weights that are cast once give the features that autocast gives, bit for bit."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.half_weights import cast_weights
from fsar.pipeline.backbones.taps import TapExtractor

BACKBONES = [
    ("random:timm/test_resnet", 32, ("pooled", "map")),
    ("random:timm/test_vit", 32, ("pooled", "tokens.1")),
    ("random:timm/test_efficientnet", 32, ("pooled",)),
    ("random:torchvision/resnet18", 32, ("avgpool",)),
    ("random:open_clip/ViT-S-32-alt", 64, ("pooled", "tokens.3.raw")),
]


class Casts(TorchDispatchMode):
    """Names the parameters that autocast casts to half precision."""

    def __init__(self, module):
        super().__init__()
        self.name_of = {parameter.data_ptr(): name for name, parameter in module.named_parameters()}
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.to.dtype and args[0].data_ptr() in self.name_of and args[1] != args[0].dtype:
            self.names.add(self.name_of[args[0].data_ptr()])
        return func(*args, **(kwargs or {}))


def features(extractor, size):
    frames = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), Casts(extractor.backbone.module) as casts:
        found = extractor(frames)
    return found, casts.names


@pytest.mark.parametrize(("spec", "size", "taps"), BACKBONES, ids=[spec for spec, *_ in BACKBONES])
@pytest.mark.parametrize("native", [True, False], ids=["native attention", "attention as on a GPU"])
def test_features_are_the_same_and_no_weight_is_cast_any_more(spec, size, taps, native):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(native)
    try:
        extractor = TapExtractor(load_backbone(spec, size=size), taps)
        expected, cast_before = features(extractor, size)
        assert cast_weights(extractor, torch.bfloat16) > 0
        found, still = features(extractor, size)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[tap], expected[tap]) for tap in found)
    assert len(cast_before) > 5
    own = {"proj", "class_embedding", "positional_embedding"}  # open_clip uses these outside of layers
    assert {name for name in still if not (native and ".attn." in name)} <= own


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("spec", "size", "taps"), BACKBONES, ids=[spec for spec, *_ in BACKBONES])
def test_features_are_the_same_on_a_gpu(spec, size, taps, dtype):
    backbone = load_backbone(spec, size=size)
    backbone.module.to("cuda")
    extractor = TapExtractor(backbone, taps)
    frames = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)).cuda()
    results = []
    for cast in (False, True):
        assert not cast or cast_weights(extractor, dtype) > 0
        with torch.inference_mode(), torch.autocast("cuda", dtype):
            results.append(extractor(frames))
    assert all(torch.equal(results[0][tap], results[1][tap]) for tap in taps)


class Odd(nn.Module):
    """Does more with a weight than multiply by it."""

    def __init__(self):
        super().__init__()
        self.plain, self.odd = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.plain(x).float() + self.odd.weight.float().sum(1) + 0 * self.odd(x)


class Backbone:
    def __init__(self, module):
        self.module = module

    def example(self):
        return torch.zeros(1, 8)


class Extractor:
    def __init__(self, module):
        self.backbone = Backbone(module)

    def __call__(self, x):
        return {"pooled": self.backbone.module(x)}


def test_a_backbone_whose_features_would_change_keeps_its_weights():
    module = Odd()
    weights = dict(module.named_parameters())
    assert cast_weights(Extractor(module), torch.bfloat16) == 0
    assert all(parameter is weights[name] for name, parameter in module.named_parameters())


def test_only_plain_layers_are_cast():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    plain, normed, own, norm, tied = nn.Linear(8, 8), weight_norm(nn.Linear(8, 8)), Own(8, 8), nn.LayerNorm(8), None
    tied = nn.Linear(8, 8, bias=False)
    tied.weight = own.weight
    module = nn.Sequential(plain, normed, own, norm, tied)
    assert cast_weights(Extractor(module), torch.bfloat16) == 3  # the normed layer's bias is a plain one
    assert {name for name, p in module.named_parameters() if p.dtype == torch.bfloat16} == {
        "0.weight", "0.bias", "1.bias",
    }  # fmt: skip
