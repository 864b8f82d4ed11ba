"""How a model of transformers wants its pictures: what its processor says, as an `ImageSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsar.errors import InputError, one_line
from fsar.pipeline.backbones.base import quiet_logging
from fsar.pipeline.backbones.hf.folder import pictures_file, read_json
from fsar.pipeline.backbones.hf.tower import Family
from fsar.pipeline.pixels.spec import ImageSpec

INTERPOLATION = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, by which processors name it."""
RESIZES_FLOATS = ("DINOv3ViTImageProcessor",)
"""Processors that resize numbers in 0..1; the others resize whole levels, as Pillow does."""


def load_processor(family: type[Family], folder: Path | None) -> Any:
    """Return the object of transformers that prepares pictures: by the folder's file, or the family's own.

    Raises InputError for a folder without such a file, or with one that transformers cannot read.
    """
    import transformers

    if folder is None:
        return getattr(transformers, family.processor)()
    path = pictures_file(folder)
    if path is None:
        raise InputError(
            f"{folder} has no preprocessor_config.json: how its frames must be prepared is not known; bring that file"
        )
    data = read_json(path)
    is_video = path.name.startswith("video") or "video_processor" in data or "VideoProcessor" in family.processor
    reader = transformers.AutoVideoProcessor if is_video else transformers.AutoImageProcessor
    try:
        with quiet_logging():
            return reader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise InputError(f"transformers cannot read {path}: {one_line(error)}") from error


def image_of(processor: Any, size: int | None) -> ImageSpec | None:
    """Return what a processor does to a frame, scaled to another input size if one is given; None for what ours do not.

    Raises InputError for a processor whose pictures are not square.
    """
    resize, width, crop = _geometry(processor)
    interpolation = INTERPOLATION.get(int(getattr(processor, "resample", 2)))
    if not resize or interpolation is None:
        return None
    scale = (size or crop) / crop
    mean, std = _normalisation(processor)
    floats = type(processor).__name__ in RESIZES_FLOATS
    return ImageSpec(
        mode="squash" if width else "short-side",
        resize=round(resize * scale),
        resize_width=round(width * scale) if width and width != resize else 0,
        size=size or crop,
        interpolation=interpolation,  # type: ignore[arg-type]
        antialias=True,
        mean=mean,
        std=std,
        arithmetic="float32" if floats else "uint8",
        centre="floor",
    )


def _geometry(processor: Any) -> tuple[int, int, int]:
    """Return height (or shorter side) and width (0: as it comes) before the crop, and side after it; 0 for neither."""
    size, crop = _plain(processor.size), _plain(getattr(processor, "crop_size", None))
    edge = size.get("shortest_edge", 0)
    height, width = (edge, 0) if edge else (size.get("height", 0), size.get("width", 0))
    if not getattr(processor, "do_resize", True) or size.get("longest_edge") or not height:
        return 0, 0, height or 1
    if getattr(processor, "do_center_crop", None):
        height_seen, width_seen = crop.get("height", 0), crop.get("width", 0)
    else:
        height_seen, width_seen = height, width
    if height_seen != width_seen or not height_seen:
        raise InputError(
            f"{type(processor).__name__} makes frames of {height_seen} x {width_seen or 'any'} pixels; networks here "
            "see squares: choose the pictures with --pixels or a processor with crop_size"
        )
    return height, width, height_seen


def _plain(size: Any) -> Mapping[str, int]:
    """Return a size as processors have it (a mapping, an object of one, or None) as a mapping."""
    if size is None:
        return {}
    items = dict(size) if isinstance(size, Mapping) else vars(size)
    return {name: int(value) for name, value in items.items() if value}


Three = tuple[float, float, float]


def _normalisation(processor: Any) -> tuple[Three, Three]:
    """Return mean and std of values in 0..1; ViViT's processors map these to -1..1 before they normalise."""
    factor = float(processor.rescale_factor) * 255 if processor.do_rescale else 255.0
    offset = 1.0 if "Vivit" in type(processor).__name__ and getattr(processor, "offset", True) else 0.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
    means, stds = (values if isinstance(values, (list, tuple)) else [values] * 3 for values in (mean, std))
    return (
        tuple(_tidy((offset + value) / factor) for value in means),
        tuple(_tidy(value / factor) for value in stds),
    )  # type: ignore[return-value]


def _tidy(value: float) -> float:
    """Return a number without the last digits that multiplying by 1/255 and 255 leaves."""
    return float(f"{value:.12g}")
