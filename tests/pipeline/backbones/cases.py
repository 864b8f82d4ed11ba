"""One case for every kind of backbone: how to name a small one, and what its library itself gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision

from fsar.pipeline.backbones import Backbone, load_backbone
from fsar.pipeline.backbones.torchvision_video import VIDEO_NETWORKS
from tests.pipeline.backbones.hf_models import library_features, make_model


@dataclass
class Case:
    """A small backbone."""

    spec: str | Callable[[Any], str]
    """Its name, or what makes it in a folder and returns the name."""
    size: int
    """Pixels."""
    own: Callable[[Backbone, torch.Tensor], dict[str, torch.Tensor]]
    """Tap -> what the library's own forward gives for frames (B, 3, s, s) or clips (B, T, 3, s, s)."""
    length: int | None = None
    """Frames of a clip."""
    n_steps: int = 1
    """Time steps that its last layer has for such a clip."""
    text: str = ""
    """Text encoder of the same model, if there is one."""
    taps: tuple[str, ...] = field(default=())
    """Further taps that must be there."""
    slow: bool = False
    """Whether it is only tried by the slow tests."""


def _torchvision_image(backbone, frames):
    network = torchvision.models.get_model(backbone.name, weights=None).eval()
    network.load_state_dict(backbone.module.state_dict(), strict=False)
    nodes = torchvision.models.feature_extraction.create_feature_extractor(
        network, {"layer4": "map", "flatten": "pooled"}
    )
    return nodes(frames)


LAST = {"s3d": "features", "swin3d_t": "norm", "swin3d_b": "norm", "mvit_v1_b": "norm", "mvit_v2_s": "norm"}


def _torchvision_clip(backbone, clips):
    """The network as torchvision makes it, with the tower's weights and a classifier that changes nothing."""
    network = torchvision.models.get_model(backbone.name, weights=None).eval()
    network.load_state_dict(backbone.module.state_dict(), strict=False)
    place = VIDEO_NETWORKS[backbone.name].classifier
    head = getattr(network, place)
    width = backbone.dim
    if backbone.name == "s3d":
        same = torch.nn.Conv3d(width, width, 1)
        torch.nn.init.dirac_(same.weight), torch.nn.init.zeros_(same.bias)
        head[-1] = same
    else:
        same = torch.nn.Linear(width, width)
        torch.nn.init.eye_(same.weight), torch.nn.init.zeros_(same.bias)
        setattr(
            network,
            place,
            torch.nn.Sequential(*list(head)[:-1], same) if isinstance(head, torch.nn.Sequential) else same,
        )
    kept = {}
    network.get_submodule(LAST.get(backbone.name, "layer4")).register_forward_hook(lambda m, i, o: kept.update(last=o))
    pooled = network(clips.transpose(1, 2))
    last = kept["last"]
    if backbone.name.startswith("swin"):
        last = last.permute(0, 4, 1, 2, 3)
    if backbone.name.startswith("mvit"):
        t = network.pos_encoding.temporal_size
        side = int(((last.shape[1] - 1) // t) ** 0.5)
        last = torch.stack([last[:, 1 + i * side * side : 1 + (i + 1) * side * side] for i in range(t)], 1)
        last = last.unflatten(2, (side, side)).permute(0, 4, 1, 2, 3)
    return {"pooled": pooled, "map": last}


def _clip_model(backbone, frames):
    return {"pooled": backbone.clip.encode_image(frames)}


def _timm(backbone, frames):
    return {"pooled": backbone.module.forward_head(backbone.module.forward_features(frames))}


def _hf(kind, size=32, length=None, n_steps=1, *, classifies=False, **more):
    """A folder with a small model of transformers."""
    places = []

    def folder(where):
        places.append(make_model(where, kind, classifies=classifies))
        return f"hf:{where}"

    return Case(folder, size, lambda backbone, batch: library_features(places[-1], batch), length, n_steps, **more)


HF_CASES = {
    "hf:videomae": _hf("videomae", length=8, n_steps=4, taps=("tokens.1.raw",)),
    "hf:videomae classifier": _hf("videomae", length=8, n_steps=4, classifies=True),
    "hf:vjepa2": _hf("vjepa2", length=6, n_steps=3, taps=("tokens.1",)),
    "hf:vjepa2 classifier": _hf("vjepa2", length=8, n_steps=4, classifies=True),
    "hf:vjepa2 larger": _hf("vjepa2", size=48, length=4, n_steps=2, slow=True),
    "hf:timesformer": _hf("timesformer", length=8, n_steps=8, taps=("tokens.1",)),
    "hf:vivit": _hf("vivit", length=8, n_steps=4, taps=("tokens.1",)),
    "hf:xclip": _hf("xclip", length=8, n_steps=8),
    "hf:clip": _hf("clip", taps=("tokens.1", "map4max")),
    "hf:siglip": _hf("siglip", taps=("tokens.1", "map")),
    "hf:siglip2": _hf("siglip2", taps=("tokens.1", "map")),
    "hf:dinov2": _hf("dinov2", taps=("tokens.1", "avgpool")),
    "hf:dinov2_with_registers": _hf("dinov2_with_registers"),
    "hf:dinov3_vit": _hf("dinov3_vit", taps=("map4max",)),
    "hf:dinov3_convnext": _hf("dinov3_convnext", size=64, taps=("map",)),
}
"""Every kind of model of transformers."""
CASES = {
    "open_clip": Case(
        "random:open_clip/tiny-vit", 32, _clip_model, text="random:open_clip/tiny-vit", taps=("tokens.2",)
    ),
    "open_clip resnet": Case("random:open_clip/tiny-rn", 64, _clip_model, taps=("map4max",)),
    "torchvision": Case("random:torchvision/resnet18", 64, _torchvision_image, taps=("avgpool",)),
    "timm": Case("random:timm/test_vit", 32, _timm, taps=("tokens.0.raw",)),
    "torchvision:r2plus1d_18": Case("random:torchvision/r2plus1d_18", 32, _torchvision_clip, 16, 2, slow=True),
    "torchvision:r3d_18": Case("random:torchvision/r3d_18", 32, _torchvision_clip, 16, 2),
    "torchvision:mc3_18": Case("random:torchvision/mc3_18", 32, _torchvision_clip, 4, 4),
    "torchvision:s3d": Case("random:torchvision/s3d", 224, _torchvision_clip, 14, 2, slow=True),
    "torchvision:mvit_v1_b": Case(
        "random:torchvision/mvit_v1_b", 224, _torchvision_clip, 16, 8, taps=("tokens.0.raw",), slow=True
    ),
    "torchvision:mvit_v2_s": Case("random:torchvision/mvit_v2_s", 224, _torchvision_clip, 16, 8, slow=True),
    "torchvision:swin3d_t": Case("random:torchvision/swin3d_t", 32, _torchvision_clip, 4, 2),
    "torchvision:swin3d_b": Case("random:torchvision/swin3d_b", 32, _torchvision_clip, 4, 2, slow=True),
    **HF_CASES,
}


def load(case: Case, folder: Any) -> Backbone:
    """Return the backbone of a case, for clips of its length; folders of models are made in `folder`."""
    spec = case.spec if isinstance(case.spec, str) else case.spec(folder)
    return load_backbone(spec, size=case.size).with_clips_of(case.length)
