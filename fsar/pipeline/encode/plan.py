"""What to store of each video, settled before the first one is opened: options, backbone, recipe, shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fsar.errors import InputError
from fsar.pipeline.encode.image_choice import AS_TRAINED, PixelOptions, as_begun, choose_image
from fsar.pipeline.encode.precision import Precision, default_precision, describe_default
from fsar.pipeline.encode.recipe import PACKED, Recipe, describe_backbone
from fsar.pipeline.encode.report import EngineOptions
from fsar.pipeline.packs.catalog import pack_settings, require_frames, video_rows
from fsar.pipeline.video.clips import SPREAD, ClipShape

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.backbones.taps import TapExtractor
    from fsar.pipeline.catalog.catalog import CatalogRow
    from fsar.pipeline.store import TapSpec, VideoRow


@dataclass(frozen=True)
class EncodeOptions:
    """What to store of each video. By default frames are prepared as the backbone was trained."""

    backbone: str
    weights: Path | None = None
    """Checkpoint file in place of published weights."""
    taps: tuple[str, ...] = ("pooled",)
    sampler: str = "uniform-center"
    n_slots: int = 8
    """Stored frames per view, for a network that sees single frames."""
    n_clips: int | None = None
    """Clips per view, for a network that sees clips; None is 1. Taps of time steps store several slots of each."""
    clip_length: int | None = None
    """Frames of a clip; None is what the network was trained with."""
    clip_stride: int | None = None
    """Frames from one frame of a clip to the next; None or 0 spreads the clips over the video."""
    n_views: int = 1
    """View 0 is the centre view; the others are augmented, for training videos only (val and test repeat view 0)."""
    flip: bool = False
    jitter: bool = False
    seed: int = 0
    size: int | None = None
    """Height and width of the network's input; None means what the backbone was made for."""
    pixels: str = AS_TRAINED
    """How frames become network input: see `PixelOptions`, also for the next seven."""
    resize_mode: str | None = None
    resize: int | None = None
    resize_width: int | None = None
    interpolation: str | None = None
    antialias: bool | None = None
    arithmetic: str | None = None
    normalisation: str | None = None
    decoder: str = "pyav"
    precision: Precision | None = None
    """Arithmetic of the forward pass; None is that of a store that is resumed, `default_precision` of a new one."""
    fold_batch_norm: bool = False
    """Fold batch norm into convolutions: faster, rounded otherwise, so the recipe says it."""
    dtype: str = "float16"
    chunk_bytes: int | None = None
    """Size of a chunk of the largest tap, at most 256 videos; None means what suits device and workers."""
    n_workers: int = 1
    """Processes that will fill the store together: each gets 8 chunks at least. Only used when the store is made."""
    engine: EngineOptions = field(default_factory=EngineOptions)

    @property
    def image(self) -> PixelOptions:
        """How frames become network input."""
        return PixelOptions(**{each.name: getattr(self, each.name) for each in fields(PixelOptions)})


@dataclass(frozen=True)
class EncodePlan:
    """Everything that is known before the first video is opened."""

    recipe: Recipe
    backbone: Backbone
    taps: dict[str, TapSpec]
    videos: list[VideoRow]
    notes: tuple[str, ...] = ()
    """What the user should hear of it."""

    @property
    def video_bytes(self) -> int:
        """Size of one video's features."""
        n_values = sum(math.prod(spec.shape) for spec in self.taps.values())
        return n_values * self.recipe.n_views * self.recipe.n_slots * (2 if self.recipe.dtype == "float16" else 4)


def plan(rows: Sequence[CatalogRow], options: EncodeOptions, out: Path | None = None) -> EncodePlan:
    """Load the backbone and settle the recipe. Raises InputError for anything that cannot work.

    With the path of a store that is to be resumed, frames are prepared as it was begun where `options.image` says
    nothing else, and computed with its precision where `options.precision` says nothing.
    """
    from fsar.device import resolve_device
    from fsar.pipeline.backbones import load_backbone

    videos = _video_rows(rows)
    packed = pack_settings(video.path for video in videos)
    require_frames(videos)
    _settle(options, None, options.taps)  # wrong options are found before weights are fetched
    device = resolve_device(options.engine.device)
    backbone = load_backbone(options.backbone, weights=options.weights, size=options.size)
    recipe, taps = recipe_of(backbone, options)
    if packed is not None:
        recipe = replace(recipe, decoder=PACKED, packed=asdict(packed))
    note = describe_default(device) if options.precision is None else None
    if out is not None and (stored := _begun(out)) is not None:
        note = None
        if options.precision is None:
            recipe = replace(recipe, precision=stored.precision)
        if options.image == PixelOptions():
            recipe, note = as_begun(recipe, stored, out)
    return EncodePlan(recipe, backbone, taps, videos, (note,) if note else ())


def _begun(out: Path) -> Recipe | None:
    """Return the recipe of the store at a path; None if there is none, or one that cannot be resumed anyway."""
    from fsar.pipeline.store import open_store

    if not out.exists():
        return None
    try:
        return Recipe.from_dict(open_store(out, allow_unsealed=True).recipe)
    except (InputError, FileNotFoundError):
        return None


def _video_rows(rows: Sequence[CatalogRow]) -> list[VideoRow]:
    if not rows:
        raise InputError("the catalog (with this split) has no videos to encode")
    return video_rows(rows)


def recipe_of(backbone: Backbone, options: EncodeOptions) -> tuple[Recipe, dict[str, TapSpec]]:
    """Return the recipe of a loaded backbone and what its taps give; raises InputError for what cannot work."""
    from fsar.device import resolve_device
    from fsar.pipeline.backbones.folding import fold_batch_norm
    from fsar.pipeline.backbones.taps import TapExtractor

    backbone = _with_clips(backbone, options)
    if options.precision is None:
        options = replace(options, precision=default_precision(resolve_device(options.engine.device)))
    if options.fold_batch_norm:
        fold_batch_norm(backbone)
    extractor = TapExtractor(backbone, options.taps)
    recipe = _settle(options, backbone, extractor.taps)
    if backbone.video is not None:
        shape = ClipShape(backbone.video.length, options.clip_stride or SPREAD, extractor.n_steps())
        recipe = replace(recipe, clip=asdict(shape), n_slots=(options.n_clips or 1) * shape.steps)
    specs = tap_specs(extractor, recipe)
    extractor.close()
    return recipe, specs


def _with_clips(backbone: Backbone, options: EncodeOptions) -> Backbone:
    if backbone.video is None and (options.n_clips is not None or options.clip_stride is not None):
        raise InputError(
            f"{backbone.library}:{backbone.name} sees single frames: leave --clips, --clip-length and --clip-stride out"
        )
    return backbone.with_clips_of(options.clip_length)


_UNKNOWN = {"library": "x", "backbone": "", "pretrained": "", "weights_sha256": ""}


def _settle(options: EncodeOptions, backbone: Backbone | None, taps: tuple[str, ...]) -> Recipe:
    """Return the recipe; without what only the backbone knows it still checks everything else."""
    from fsar.pipeline.video.decode import get_decoder
    from fsar.pipeline.video.sample import sampler_version

    get_decoder(options.decoder)
    size = backbone.size if backbone is not None else options.size or 224
    image = choose_image(options.image, size, backbone)
    return Recipe(
        **(describe_backbone(backbone) if backbone is not None else _UNKNOWN),
        taps=taps,
        sampler=options.sampler,
        sampler_version=sampler_version(options.sampler),
        n_slots=options.n_slots,
        n_views=options.n_views,
        flip=options.flip,
        jitter=options.jitter,
        seed=options.seed,
        resize_mode=image.mode,
        resize=image.resize,
        resize_width=image.resize_width,
        centre=image.centre,
        size=image.size,
        interpolation=image.interpolation,
        antialias=image.antialias,
        mean=image.mean,
        std=image.std,
        arithmetic=image.arithmetic,
        decoder=options.decoder,
        precision=options.precision or "fp32",
        fold_batch_norm=options.fold_batch_norm,
        dtype=options.dtype,  # type: ignore[arg-type]
    )


def tap_specs(extractor: TapExtractor, recipe: Recipe) -> dict[str, TapSpec]:
    """Return shape and type of every tap as a store wants them; closes the extractor."""
    from fsar.pipeline.store import TapSpec

    specs = {tap: TapSpec(shape, recipe.dtype) for tap, shape in extractor.shapes().items()}
    extractor.close()
    return specs
