"""What to store of each video, settled before the first one is opened: options, backbone, recipe, shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.pipeline.encode.recipe import Recipe, describe_backbone
from fsar.pipeline.encode.report import EngineOptions

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.backbones.taps import TapExtractor
    from fsar.pipeline.catalog.catalog import CatalogRow
    from fsar.pipeline.store import TapSpec, VideoRow

NORMALISATIONS = ("backbone", "clip", "imagenet", "half", "none")


@dataclass(frozen=True)
class EncodeOptions:
    """What to store of each video. The defaults give the published geometry of the CLIP-FSAR family."""

    backbone: str
    weights: Path | None = None
    """Checkpoint file in place of published weights."""
    taps: tuple[str, ...] = ("pooled",)
    sampler: str = "uniform-center"
    n_slots: int = 8
    """Stored frames per view."""
    n_views: int = 1
    """View 0 is the centre view; the others are augmented, for training videos only (val and test repeat view 0)."""
    flip: bool = False
    jitter: bool = False
    seed: int = 0
    resize_mode: str = "squash"
    resize: int | None = None
    """Pixels before the crop; None means size * 256 / 224."""
    size: int | None = None
    """Pixels after the crop; None means what the backbone was made for."""
    interpolation: str = "bilinear"
    antialias: bool = False
    normalisation: str = "backbone"
    """Whose mean and std: the backbone's own, `clip`, `imagenet`, `half` (0.45 / 0.225) or `none`."""
    decoder: str = "pyav"
    precision: str = "fp32"
    dtype: str = "float16"
    chunk_bytes: int = 32 << 20
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class EncodePlan:
    """Everything that is known before the first video is opened."""

    recipe: Recipe
    backbone: Backbone
    taps: dict[str, TapSpec]
    videos: list[VideoRow]

    @property
    def video_bytes(self) -> int:
        """Size of one video's features."""
        n_values = sum(math.prod(spec.shape) for spec in self.taps.values())
        return n_values * self.recipe.n_views * self.recipe.n_slots * (2 if self.recipe.dtype == "float16" else 4)


def plan(rows: Sequence[CatalogRow], options: EncodeOptions) -> EncodePlan:
    """Load the backbone and settle the recipe. Raises InputError for anything that cannot work."""
    from fsar.device import resolve_device
    from fsar.pipeline.backbones import load_backbone

    videos = _video_rows(rows)
    _settle(options, "x", {})  # wrong options are found before weights are fetched
    resolve_device(options.engine.device)
    backbone = load_backbone(options.backbone, weights=options.weights, size=options.size)
    recipe, taps = recipe_of(backbone, options)
    return EncodePlan(recipe, backbone, taps, videos)


def _video_rows(rows: Sequence[CatalogRow]) -> list[VideoRow]:
    from fsar.pipeline.store import VideoRow

    if not rows:
        raise InputError("the catalog (with this split) has no videos to encode")
    return [VideoRow(row.video_id, row.class_name, row.part, str(row.path)) for row in rows]


def recipe_of(backbone: Backbone, options: EncodeOptions) -> tuple[Recipe, dict[str, TapSpec]]:
    """Return the recipe of a loaded backbone and what its taps give; raises InputError for what cannot work."""
    from fsar.pipeline.backbones.taps import TapExtractor

    extractor = TapExtractor(backbone, options.taps)
    mean, std = _normalisation(backbone, options.normalisation)
    fixed = {**describe_backbone(backbone), "taps": extractor.taps, "mean": mean, "std": std, "size": backbone.size}
    recipe = _settle(options, backbone.library, fixed)
    specs = tap_specs(extractor, recipe)
    extractor.close()
    return recipe, specs


def _settle(options: EncodeOptions, library: str, fixed: dict[str, Any]) -> Recipe:
    """Return the recipe; without what only the backbone knows it still checks everything else."""
    from fsar.pipeline.video.decode import get_decoder
    from fsar.pipeline.video.sample import sampler_version

    get_decoder(options.decoder)
    if options.normalisation not in NORMALISATIONS:
        _normalisation(None, options.normalisation)
    size = fixed.get("size", options.size or 224)
    unknown = {"library": library, "backbone": "", "pretrained": "", "weights_sha256": "", "taps": options.taps}
    recipe = Recipe(
        **{**unknown, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), **fixed, "size": size},
        sampler=options.sampler,
        sampler_version=sampler_version(options.sampler),
        n_slots=options.n_slots,
        n_views=options.n_views,
        flip=options.flip,
        jitter=options.jitter,
        seed=options.seed,
        resize_mode=options.resize_mode,
        resize=options.resize or round(size * 256 / 224),
        interpolation=options.interpolation,
        antialias=options.antialias,
        decoder=options.decoder,
        precision=options.precision,  # type: ignore[arg-type]
        dtype=options.dtype,  # type: ignore[arg-type]
    )
    assert recipe.image  # building it checks the geometry
    return recipe


def tap_specs(extractor: TapExtractor, recipe: Recipe) -> dict[str, TapSpec]:
    """Return shape and type of every tap as a store wants them; closes the extractor."""
    from fsar.pipeline.store import TapSpec

    specs = {tap: TapSpec(shape, recipe.dtype) for tap, shape in extractor.shapes().items()}
    extractor.close()
    return specs


def _normalisation(backbone: Backbone | None, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from fsar.errors import unknown_name
    from fsar.pipeline.pixels.spec import NORMALISATIONS as KNOWN

    if backbone is not None and name == "backbone":
        return backbone.mean, backbone.std
    if name not in KNOWN:
        raise unknown_name("normalisation", name, NORMALISATIONS)
    return KNOWN[name]
