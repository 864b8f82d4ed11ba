"""ResNets and networks for clips of torchvision, without their classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError, unknown_name
from fsar.pipeline.backbones.base import Backbone, TapPoints
from fsar.pipeline.backbones.published import require_weights, unreachable
from fsar.pipeline.backbones.spec import BackboneSpec
from fsar.pipeline.backbones.torchvision_video import VIDEO_NETWORKS, evaluation_image, without_classifier
from fsar.pipeline.backbones.weights import load_exactly, read_weights, state_sha256
from fsar.pipeline.pixels.spec import IMAGENET_MEAN, IMAGENET_STD, ImageSpec

if TYPE_CHECKING:
    from torch import nn

FAMILIES = ("resnet", "resnext", "wide_resnet")


def build(spec: BackboneSpec, size: int | None) -> Backbone:
    """Return the network that `spec` names; pooled features are what its classifier would see."""
    if spec.name in VIDEO_NETWORKS:
        return _build_video(spec, size)
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


def list_names() -> list[str]:
    """Return the networks that can be named."""
    import torchvision

    images = [name for name in torchvision.models.list_models() if name.startswith(FAMILIES)]
    return [*images, *VIDEO_NETWORKS]


def check_name(name: str) -> None:
    """Raise InputError unless it is a network that can be named."""
    if name not in list_names():
        raise unknown_name("torchvision backbone", name, list_names())


def _build_video(spec: BackboneSpec, size: int | None) -> Backbone:
    module = _network(spec)
    dim = without_classifier(spec.name, module)
    family = VIDEO_NETWORKS[spec.name]
    if spec.file is not None:
        load_exactly(module, read_weights(spec.file)[0], path=spec.file, ignore=(f"{family.classifier}.",))
    image = evaluation_image(spec.name, size)
    if family.fixed_size and image.size != family.fixed_size:
        raise InputError(f"torchvision:{spec.name} takes frames of {family.fixed_size} pixels, got {image.size}")
    return Backbone(
        library="torchvision",
        name=spec.name,
        pretrained=_resolve(spec),
        module=module,
        dim=dim,
        size=image.size,
        mean=image.mean,
        std=image.std,
        image=image,
        points=family.points(module),
        weights_sha256=state_sha256(module.state_dict()),
        video=family.video,
    )


def _network(spec: BackboneSpec) -> nn.Module:
    import torchvision

    check_name(spec.name)
    with seeded(spec.seed or 0):
        return _published(spec) if spec.tag else torchvision.models.get_model(spec.name, weights=None)


def _load(spec: BackboneSpec) -> tuple[nn.Module, int]:
    from torch import nn

    module: Any = _network(spec)
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
