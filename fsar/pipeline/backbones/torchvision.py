"""ResNets of torchvision, without their classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import unknown_name
from fsar.pipeline.backbones.base import Backbone, TapPoints
from fsar.pipeline.backbones.published import require_weights, unreachable
from fsar.pipeline.backbones.spec import BackboneSpec
from fsar.pipeline.backbones.weights import load_exactly, read_weights, state_sha256
from fsar.pipeline.pixels.spec import IMAGENET_MEAN, IMAGENET_STD, ImageSpec

if TYPE_CHECKING:
    from torch import nn

FAMILIES = ("resnet", "resnext", "wide_resnet")


def build(spec: BackboneSpec, size: int | None) -> Backbone:
    """Return the ResNet that `spec` names; pooled features are its global average pool, before the classifier."""
    module, dim = _load(spec)
    return Backbone(
        library="torchvision",
        name=spec.name,
        pretrained=_resolve(spec),
        module=module,
        dim=dim,
        size=size or 224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image=_image(spec, size or 224),
        points=TapPoints(map_module=module.get_submodule("layer4")),
        weights_sha256=state_sha256(module.state_dict()),
    )


def _load(spec: BackboneSpec) -> tuple[nn.Module, int]:
    import torchvision
    from torch import nn

    names = [name for name in torchvision.models.list_models() if name.startswith(FAMILIES)]
    if spec.name not in names:
        raise unknown_name("torchvision backbone", spec.name, names)
    with seeded(spec.seed or 0):
        module = _published(spec) if spec.tag else torchvision.models.get_model(spec.name, weights=None)
    dim, module.fc = module.fc.in_features, nn.Identity()
    if spec.file is not None:
        load_exactly(module, read_weights(spec.file)[0], path=spec.file, ignore=("fc.",))
    return module, dim


def _published(spec: BackboneSpec) -> Any:
    import torchvision

    weights = _weights(spec)
    require_weights(spec)
    try:
        return torchvision.models.get_model(spec.name, weights=weights)
    except (OSError, RuntimeError) as error:
        raise unreachable(f"torchvision:{spec.name}/{spec.tag}", str(error)) from error


def _weights(spec: BackboneSpec) -> Any:
    import torchvision

    known = torchvision.models.get_model_weights(spec.name)
    if spec.tag != "DEFAULT" and spec.tag not in known.__members__:
        raise unknown_name(f"weights of torchvision {spec.name}", spec.tag, known.__members__)
    return known[spec.tag]


def _resolve(spec: BackboneSpec) -> str:
    # DEFAULT moves to other weights with a new torchvision: record what it stands for today.
    return str(_weights(spec).name) if spec.tag else spec.pretrained


def _image(spec: BackboneSpec, size: int) -> ImageSpec:
    """Return the transform that comes with the weights; that of the first ImageNet weights where there is no tag."""
    crop, resize, interpolation = 224, 256, "bilinear"
    if spec.tag:
        transform = _weights(spec).transforms()
        crop, resize = transform.crop_size[0], transform.resize_size[0]
        interpolation = transform.interpolation.value
    return ImageSpec(
        mode="short-side",
        resize=round(size * resize / crop),
        size=size,
        interpolation=interpolation,  # type: ignore[arg-type]  # checked by the class
        antialias=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        arithmetic="uint8",
    )
