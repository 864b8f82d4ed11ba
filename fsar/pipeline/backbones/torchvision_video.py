"""Networks of torchvision that see clips, without their classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

from fsar.pipeline.backbones.base import TapPoints, VideoInput
from fsar.pipeline.pixels.spec import ImageSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """What the networks of one kind have in common."""

    classifier: str
    """Module behind the pooled features."""
    video: VideoInput
    points: Callable[[Any], TapPoints]
    fixed_size: int | None = None
    """Pixels, where it takes no others."""


def _resnet_points(network: Any) -> TapPoints:
    return TapPoints(map_module=network.layer4, grid=lambda last_map: last_map)


def _s3d_points(network: Any) -> TapPoints:
    return TapPoints(map_module=network.features, grid=lambda last_map: last_map)


def _swin_points(network: Any) -> TapPoints:
    return TapPoints(map_module=network.norm, grid=lambda last_map: last_map.permute(0, 4, 1, 2, 3))


def _mvit_points(network: Any) -> TapPoints:
    def grid(tokens: Tensor) -> Tensor:
        n_steps = network.pos_encoding.temporal_size
        side = isqrt((tokens.shape[1] - 1) // n_steps)
        return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, n_steps, side, side)

    return TapPoints(map_module=network.norm, grid=grid, blocks=tuple(network.blocks))


RESNET = Family("fc", VideoInput(16), _resnet_points)
S3D = Family("classifier", VideoInput(128), _s3d_points)
MVIT = Family("head", VideoInput(16, fixed_length=True), _mvit_points, fixed_size=224)
SWIN = Family("head", VideoInput(32), _swin_points)
VIDEO_NETWORKS = {
    "r2plus1d_18": RESNET,
    "r3d_18": RESNET,
    "mc3_18": RESNET,
    "s3d": S3D,
    "mvit_v1_b": MVIT,
    "mvit_v2_s": MVIT,
    "swin3d_t": SWIN,
    "swin3d_b": SWIN,
}
"""Their clips are as long as torchvision says that the weights were evaluated on."""


def without_classifier(name: str, network: nn.Module) -> int:
    """Make a network take clips (B, T, 3, H, W) and give what its classifier would see; return how wide that is."""
    from torch import nn

    place = VIDEO_NETWORKS[name].classifier
    classifier = getattr(network, place)
    last: Any = classifier[-1] if isinstance(classifier, nn.Sequential) else classifier
    setattr(network, place, nn.Identity())
    network.register_forward_pre_hook(lambda _, clips: (clips[0].transpose(1, 2),))  # torchvision has (B, 3, T, H, W)
    return int(last.in_channels if isinstance(last, nn.Conv3d) else last.in_features)


def evaluation_image(name: str, size: int | None) -> ImageSpec:
    """Return torchvision's evaluation transform for the first weights of a network, scaled to another size."""
    import torchvision

    transform = torchvision.models.get_model_weights(name)["KINETICS400_V1"].transforms()
    crop, resize = transform.crop_size[0], transform.resize_size
    scale = (size or crop) / crop
    return ImageSpec(
        mode="squash" if len(resize) == 2 else "short-side",
        resize=round(resize[0] * scale),
        resize_width=round(resize[1] * scale) if len(resize) == 2 else 0,
        size=size or crop,
        interpolation=transform.interpolation.value,
        antialias=False,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
    )
