"""Models of transformers as backbones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsar.device import seeded
from fsar.errors import InputError, one_line, unknown_name
from fsar.pipeline.backbones.base import Backbone, TextTower, quiet_transformers
from fsar.pipeline.backbones.hf import images, videos
from fsar.pipeline.backbones.hf.folder import (
    CONFIG,
    has_tokenizer,
    model_folder,
    pictures_file,
    read_config,
    read_state,
)
from fsar.pipeline.backbones.hf.pictures import image_of, load_processor
from fsar.pipeline.backbones.hf.tower import Family, tower_of
from fsar.pipeline.backbones.spec import BackboneSpec
from fsar.pipeline.backbones.weights import state_sha256
from fsar.pipeline.pixels.spec import ImageSpec

FAMILIES: Mapping[str, type[Family]] = {
    "clip": images.Clip,
    "siglip": images.Siglip,
    "siglip2": images.SiglipNaflex,
    "dinov2": images.Dino,
    "dinov2_with_registers": images.DinoRegisters,
    "dinov3_vit": images.Dino3,
    "dinov3_convnext": images.Dino3ConvNext,
    "videomae": videos.VideoMae,
    "vjepa2": videos.VJepa,
    "timesformer": videos.Timesformer,
    "vivit": videos.Vivit,
    "xclip": videos.XClip,
}
"""`model_type` of a configuration -> how it becomes a tower."""
OWN_MODELS = Path(__file__).with_name("models")
"""Small configurations for trying things out."""
NAFLEX_SIDE = 16
"""Patches along a side of the square that has as many as SigLIP 2 sees of a picture of any aspect."""


def build(spec: BackboneSpec, size: int | None) -> Backbone:
    """Return the model that `spec` names; pooled features are the library's own, or what its classifier would see.

    Raises:
        InputError: transformers is missing, a folder or repository that cannot be used (its kind is not known, it
            brings code, its weights are no safetensors or do not fit), a size that the model does not take.
    """
    _require_transformers()
    folder, data = _configuration(spec)
    family = _family(spec, data)
    config = _parsed(spec, data)
    image, processor = _pictures(spec, family, config, folder, size)
    pixels = _settle_size(spec, family, config, size or (image.size if image is not None else None))
    with quiet_transformers(), _as_input_errors(spec):
        model = _random(spec, family, config) if spec.seed is not None else _loaded(spec, family, config, folder)
    return _describe(spec, family(model, pixels).checked(), model, processor, image, folder)


def list_names() -> list[str]:
    """Return the names of `random:hf/NAME`: every kind of model as its library configures it, and small ones."""
    return [*FAMILIES, *sorted(path.stem for path in OWN_MODELS.glob("*.json"))]


def describe_names() -> Iterator[tuple[str, int, int | None]]:
    """Yield every name of `list_names` with its pixels, and frames of a clip or None. Raises InputError as `build`."""
    _require_transformers()
    for name in list_names():
        spec = BackboneSpec("hf", name, seed=0)
        _, data = _configuration(spec)
        family = _family(spec, data)
        config = _parsed(spec, data)
        length = getattr(family.vision_config(config), family.length_field) if family.length_field else None
        yield name, _native(family, config), length


def check_name(name: str) -> None:
    """Raise InputError unless it is a kind of model, a small one of ours, or a folder, all with random weights."""
    if name not in list_names() and not Path(name).is_dir():
        raise unknown_name("hf backbone (or folder with a config.json)", name, list_names())


def _configuration(spec: BackboneSpec) -> tuple[Path | None, dict[str, Any]]:
    """Return the folder of a model, None for one of ours, and its configuration."""
    own = OWN_MODELS / f"{spec.name}.json"
    if spec.seed is None or Path(spec.name).is_dir():
        folder = model_folder(spec) if spec.seed is None else Path(spec.name)
        return folder, read_config(folder)
    check_name(spec.name)
    if own.is_file():
        return None, json.loads(own.read_text("utf-8"))
    return None, {"model_type": spec.name}


def _family(spec: BackboneSpec, data: Mapping[str, Any]) -> type[Family]:
    kind = str(data.get("model_type", ""))
    if kind not in FAMILIES:
        raise unknown_name(f"model_type of hf:{spec.name}:", kind, FAMILIES)
    return FAMILIES[kind]


def _parsed(spec: BackboneSpec, data: Mapping[str, Any]) -> Any:
    import transformers

    kind = data["model_type"]
    if kind not in transformers.CONFIG_MAPPING:
        raise InputError(f"transformers {transformers.__version__} has no {kind} models: a newer one has")
    with quiet_transformers(), _as_input_errors(spec):
        return transformers.CONFIG_MAPPING[kind].from_dict(dict(data))


def _pictures(
    spec: BackboneSpec, family: type[Family], config: Any, folder: Path | None, size: int | None
) -> tuple[ImageSpec | None, Any]:
    """Return how frames are prepared and the processor that says so: the folder's, or for random weights the usual."""
    says = folder if folder is not None and (spec.seed is None or pictures_file(folder)) else None
    processor = load_processor(family, says)
    if family.padded:
        return None, processor
    return image_of(processor, size or (_native(family, config) if spec.seed is not None else None)), processor


def _native(family: type[Family], config: Any) -> int:
    """Return the pixels that a configuration is for."""
    if family.padded:
        return NAFLEX_SIDE * int(family.vision_config(config).patch_size)
    value = getattr(family.vision_config(config), family.size_field)
    return int(value if isinstance(value, int) else value[0])


def _settle_size(spec: BackboneSpec, family: type[Family], config: Any, wanted: int | None) -> int:
    """Return the pixels of the input, written into the configuration where that decides how the model is made."""
    native = _native(family, config)
    pixels = wanted or native
    if pixels != native and not family.any_size and spec.seed is None:
        raise InputError(f"hf:{spec.name} takes frames of {native} pixels, got {pixels}")
    if not family.padded and (spec.seed is not None or family.size_field == "crop_size"):
        setattr(family.vision_config(config), family.size_field, pixels)
    return pixels


def _random(spec: BackboneSpec, family: type[Family], config: Any) -> Any:
    import transformers

    with seeded(spec.seed or 0):
        return getattr(transformers, family.model)(config, **family.options)


def _loaded(spec: BackboneSpec, family: type[Family], config: Any, folder: Path | None) -> Any:
    """Return the model with a folder's weights, and what comes before its classifier if it was trained with one."""
    import torch
    import transformers

    assert folder is not None
    classifies = bool(family.classifier) and family.classifier in (config.architectures or ())
    kind = getattr(transformers, family.classifier if classifies else family.model)
    options = {} if classifies else family.options
    model, found = kind.from_pretrained(
        None, config=config, state_dict=read_state(folder), output_loading_info=True, dtype=torch.float32, **options
    )
    bad = sorted(found["missing_keys"]) + sorted(str(key[0]) for key in found["mismatched_keys"])
    if bad:
        raise InputError(
            f"weights in {folder} do not fit {kind.__name__}: {len(bad)} missing or of another shape "
            f"({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''})"
        )
    return model


def _describe(
    spec: BackboneSpec, family: Family, model: Any, processor: Any, image: ImageSpec | None, folder: Path | None
) -> Backbone:
    tower, points = tower_of(family)
    words = {name: value for name, value in model.state_dict().items() if family.text and name.startswith(family.text)}
    tokenizer = folder if folder is not None and has_tokenizer(folder) else None
    return Backbone(
        library="hf",
        name=spec.name,
        pretrained=_pretrained(spec, folder),
        module=tower,
        dim=family.dim,
        size=family.size,
        mean=image.mean if image is not None else tuple(processor.image_mean),
        std=image.std if image is not None else tuple(processor.image_std),
        image=image,
        points=points,
        weights_sha256=state_sha256(tower.state_dict()),
        text_sha256=state_sha256(words) if words else "",
        text=TextTower(model, tokenizer) if words else None,
        video=family.video,
    )


def _pretrained(spec: BackboneSpec, folder: Path | None) -> str:
    """Return how the weights are recorded; a branch moves, so of a repository the commit that it stands for today."""
    if spec.tag and folder is not None and folder.parent.name == "snapshots":
        return folder.name
    return spec.pretrained


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise InputError('hf backbones need the package transformers: pip install "fsar[hf]"') from error


@contextmanager
def _as_input_errors(spec: BackboneSpec) -> Iterator[None]:
    """Have a configuration that transformers cannot make a model of said in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # it validates some of its fields, and fails anywhere on others
        raise InputError(f"transformers cannot make hf:{spec.name} of its {CONFIG}: {one_line(error)}") from error
