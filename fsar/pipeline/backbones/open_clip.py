"""CLIP models of open_clip: the image tower, and the text tower that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.device import seeded
from fsar.errors import InputError, unknown_name
from fsar.pipeline.backbones.base import Backbone, TapPoints, quiet_logging
from fsar.pipeline.backbones.published import require_weights, unreachable
from fsar.pipeline.backbones.spec import BackboneSpec
from fsar.pipeline.backbones.weights import load_exactly, read_weights, state_sha256
from fsar.pipeline.pixels.spec import ImageSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXT_LEFTOVERS = ("logit_scale", "logit_bias")
"""Parameters of a CLIP model that belong to neither tower."""
OWN_MODELS = Path(__file__).with_name("models")
"""Sizes of our own small models, as open_clip reads them."""


def build(spec: BackboneSpec, size: int | None) -> Backbone:
    """Return the CLIP model that `spec` names; pooled features are the projected image embedding, not normalised.

    Beside open_clip's models there are two of CLIP's form that are small enough to be trained from nothing on a
    processor, for 64 pixels: `fsar-RN-T` around timm's `test_resnet`, and the transformer `fsar-ViT-T-8`.

    OpenAI's weights were trained with QuickGELU, which many model names of open_clip do not have: the tower is built
    with what the weights need, and the modules are checked (a wrong activation costs accuracy without any error).
    """
    check_name(spec.name)
    state, metadata = read_weights(spec.file) if spec.file is not None else ({}, {})
    quick_gelu = _needs_quick_gelu(spec, metadata)
    model = _create(spec, size, quick_gelu)
    has_text = spec.file is None or _load_file(model, state, spec)
    _check_activation(spec, model, quick_gelu)
    return _describe(spec, model, size, quick_gelu, has_text)


def check_name(name: str) -> None:
    """Raise InputError unless open_clip, or this package, has a model of this name."""
    import open_clip

    if (OWN_MODELS / f"{name}.json").is_file():
        open_clip.add_model_config(OWN_MODELS / f"{name}.json")
    if name not in open_clip.list_models():
        raise unknown_name("open_clip backbone", name, open_clip.list_models())


def _describe(spec: BackboneSpec, model: Any, size: int | None, quick_gelu: bool, has_text: bool) -> Backbone:
    tower = model.visual
    native = tower.image_size if isinstance(tower.image_size, int) else tower.image_size[0]
    rest = {name: value for name, value in model.state_dict().items() if not name.startswith("visual.")}
    return Backbone(
        library="open_clip",
        name=spec.name,
        pretrained=spec.pretrained,
        module=tower,
        dim=_output_dim(tower),
        size=size or int(native),
        mean=tuple(tower.image_mean),
        std=tuple(tower.image_std),
        image=_image(tower, size or int(native)),
        points=_points(tower),
        weights_sha256=state_sha256(tower.state_dict()),
        text_sha256=state_sha256(rest) if has_text else "",
        quick_gelu=quick_gelu,
        clip=model if has_text else None,
    )


def _needs_quick_gelu(spec: BackboneSpec, metadata: Mapping[str, str]) -> bool:
    import open_clip

    by_name = bool(open_clip.get_model_config(spec.name).get("quick_gelu", False))
    tag = spec.tag or spec.file_tag
    if tag:
        tags = open_clip.list_pretrained_tags_by_model(spec.name)
        if tag not in tags:
            raise unknown_name(f"weights of open_clip {spec.name}", tag, tags)
        by_weights = bool(open_clip.get_pretrained_cfg(spec.name, tag).get("quick_gelu", False))
        if by_name and not by_weights:
            raise InputError(
                f"open_clip {spec.name}/{tag}: these weights were trained with GELU, not QuickGELU; "
                f"use open_clip:{spec.name.removesuffix('-quickgelu')}/{tag}"
            )
        return by_weights
    return by_name or metadata.get("quick_gelu", "").lower() == "true"


def _create(spec: BackboneSpec, size: int | None, quick_gelu: bool) -> Any:
    import open_clip
    import torch

    options: dict[str, Any] = {"force_image_size": size} if size is not None else {}
    if not spec.tag:
        options["pretrained_hf"] = False  # no download for a text tower whose weights come from elsewhere
    else:
        require_weights(spec)
    with seeded(spec.seed or 0), quiet_logging():
        try:
            return open_clip.create_model(
                spec.name,
                pretrained=spec.tag or None,
                precision="fp32",
                device=torch.get_default_device(),
                force_quick_gelu=quick_gelu,
                **options,
            )
        except (OSError, RuntimeError) as error:
            if not spec.tag:
                raise InputError(f"open_clip cannot build {spec.name}: {error}") from error
            raise unreachable(f"open_clip:{spec.name}/{spec.tag}", str(error)) from error


def _load_file(model: Any, state: Mapping[str, Tensor], spec: BackboneSpec) -> bool:
    """Load a checkpoint; return whether it held the text tower too."""
    assert spec.file is not None
    if not any(name.startswith("visual.") for name in state):
        load_exactly(model.visual, state, path=spec.file)
        return False
    if all(name.startswith("visual.") for name in state):
        tower = {name.removeprefix("visual."): value for name, value in state.items()}
        load_exactly(model.visual, tower, path=spec.file)
        return False
    missing = {
        name: value for name, value in model.state_dict().items() if name in TEXT_LEFTOVERS and name not in state
    }
    load_exactly(model, {**state, **missing}, path=spec.file)
    return True


def _check_activation(spec: BackboneSpec, model: nn.Module, quick_gelu: bool) -> None:
    found = any(type(module).__name__ == "QuickGELU" for module in model.modules())
    if found != quick_gelu:
        wanted = "QuickGELU" if quick_gelu else "GELU"
        raise InputError(
            f"open_clip {spec.name} with weights {spec.pretrained} must have {wanted} but was built without"
        )


def _output_dim(tower: Any) -> int:
    if hasattr(tower, "output_dim"):
        return int(tower.output_dim)
    import torch

    size = tower.image_size if isinstance(tower.image_size, int) else tower.image_size[0]
    with torch.no_grad():
        return int(tower.eval()(torch.zeros(1, 3, size, size)).shape[-1])


def _points(tower: Any) -> TapPoints:
    if hasattr(tower, "layer4"):
        return TapPoints(map_module=tower.layer4)
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    if not blocks:
        return TapPoints()
    batch_first = bool(getattr(tower.transformer, "batch_first", False))
    # Only where the pooled embedding is itself one token behind ln_post and proj are other tokens defined that way.
    plain = tower.attn_pool is None and not tower.final_ln_after_pool and tower.proj is not None
    return TapPoints(blocks=tuple(blocks), batch_first=batch_first, finish=_projection(tower) if plain else None)


def _projection(tower: Any) -> Any:
    def finish(tokens: Tensor) -> Tensor:
        return tower.ln_post(tokens) @ tower.proj

    return finish


def _image(tower: Any, size: int) -> ImageSpec | None:
    """Return open_clip's evaluation transform; None for pictures that are padded (`longest`)."""
    from open_clip.transform import PreprocessCfg

    config = tower.preprocess_cfg if isinstance(tower.preprocess_cfg, Mapping) else asdict(tower.preprocess_cfg)
    config = asdict(PreprocessCfg()) | dict(config)
    modes = {"shortest": "short-side", "squash": "squash"}
    if config["resize_mode"] not in modes:
        return None
    return ImageSpec(
        mode=modes[config["resize_mode"]],  # type: ignore[arg-type]
        resize=size,
        size=size,
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",  # as image_transform decides
        antialias=True,
        mean=tuple(tower.image_mean),
        std=tuple(tower.image_std),
        arithmetic="uint8",
    )
