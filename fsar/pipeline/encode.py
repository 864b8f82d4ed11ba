"""From catalog rows to a feature store: the recipe, the store, the run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsar.errors import InputError
from fsar.pipeline.engine import Engine, EngineOptions, EngineReport
from fsar.pipeline.recipe import Recipe, describe_backbone

if TYPE_CHECKING:
    from fsar.pipeline.backbones import Backbone
    from fsar.pipeline.catalog import CatalogRow
    from fsar.pipeline.store import FeatureStore, StoreWriter, TapSpec, VideoRow

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
        n_values = sum(_product(spec.shape) for spec in self.taps.values())
        return n_values * self.recipe.n_views * self.recipe.n_slots * (2 if self.recipe.dtype == "float16" else 4)


@dataclass(frozen=True)
class EncodeReport:
    """What an encode run left behind."""

    path: Path
    recipe_id: str
    n_videos: int
    n_resumed: int
    """Videos that were there already."""
    failures: list[tuple[str, str, str, str]]
    """(video_id, path, reason, message) of every failed video of the store."""
    run: EngineReport


def plan(rows: Sequence[CatalogRow], options: EncodeOptions) -> EncodePlan:
    """Load the backbone and settle the recipe. Raises InputError for anything that cannot work."""
    from fsar.pipeline.backbones import load_backbone
    from fsar.pipeline.engine_forward import resolve_device

    videos = _video_rows(rows)
    _settle(options, "x", {})  # wrong options are found before weights are fetched
    resolve_device(options.engine.device)
    backbone = load_backbone(options.backbone, weights=options.weights, size=options.size)
    recipe, taps = _recipe(backbone, options)
    return EncodePlan(recipe, backbone, taps, videos)


def encode(
    rows: Sequence[CatalogRow],
    out: Path,
    options: EncodeOptions,
    *,
    quiet: bool = False,
    prepared: EncodePlan | None = None,
) -> EncodeReport:
    """Fill the store at `out` (NAME.zarr or NAME.h5) with the features of `rows`; resume it if it is there.

    Every video ends with status ok or failed; failed rows are NaN and listed in the report. The store is sealed at the
    end. The bytes do not depend on interruptions, on the number of decode processes or on other encoders at work.

    Raises:
        InputError: nothing to encode, a store of another recipe (the message names the fields), no video could be read.
    """
    from fsar.pipeline.store import create_store

    todo = prepared or plan(rows, options)
    recipe = todo.recipe
    writer = create_store(
        out,
        videos=todo.videos,
        taps=todo.taps,
        n_views=recipe.n_views,
        n_slots=recipe.n_slots,
        recipe=recipe.to_dict(),
        chunk_bytes=options.chunk_bytes,
    )
    with writer:
        return _fill(writer, todo.videos, recipe, todo.backbone, todo.taps, options.engine, quiet=quiet)


def encode_pending(
    writer: StoreWriter, *, weights: Path | None = None, engine: EngineOptions | None = None, quiet: bool = False
) -> EncodeReport:
    """Encode the rows that a store still lacks, with the recipe it has, and seal it.

    `weights` is needed when the store was made from a checkpoint file: its hash must be the recorded one.
    """
    from fsar.pipeline.taps import TapExtractor

    recipe = Recipe.from_dict(writer.layout.recipe)
    backbone = backbone_of(recipe, weights)
    videos = list(writer.videos)
    taps = _tap_specs(TapExtractor(backbone, recipe.taps), recipe)
    return _fill(writer, videos, recipe, backbone, taps, engine or EngineOptions(), quiet=quiet)


def backbone_of(recipe: Recipe, weights: Path | None = None) -> Backbone:
    """Load the backbone that a recipe names. Raises InputError when its weights are not the recorded ones."""
    from fsar.pipeline.backbones import load_backbone

    name = f"{recipe.library}:{recipe.backbone}"
    if recipe.pretrained.startswith("random@"):
        backbone = load_backbone(f"random:{recipe.library}/{recipe.backbone}@{recipe.pretrained[7:]}", size=recipe.size)
    elif recipe.pretrained == "file":
        if weights is None:
            raise InputError(f"the store was made with a checkpoint file of {name}: pass it with --weights FILE")
        backbone = load_backbone(name, weights=weights, size=recipe.size)
    else:
        backbone = load_backbone(f"{name}/{recipe.pretrained}", weights=weights, size=recipe.size)
    if backbone.weights_sha256 != recipe.weights_sha256:
        raise InputError(
            f"these weights of {name} are not the store's: sha256 {backbone.weights_sha256[:16]}..., "
            f"the store has {recipe.weights_sha256[:16]}..."
        )
    return backbone


def _fill(
    writer: StoreWriter,
    videos: list[VideoRow],
    recipe: Recipe,
    backbone: Backbone,
    taps: dict[str, TapSpec],
    options: EngineOptions,
    *,
    quiet: bool,
) -> EncodeReport:
    from fsar.pipeline.engine_forward import Forward
    from fsar.pipeline.store import open_store
    from fsar.pipeline.taps import TapExtractor
    from fsar.progress import progress

    n_resumed = writer.n_rows_done
    if n_resumed == len(videos):
        run = EngineReport()
    else:
        _check_paths(videos)
        with (
            closing(TapExtractor(backbone, recipe.taps)) as extractor,
            closing(Forward(extractor, recipe, options.device)) as forward,
            progress("encode", len(videos), n_done=n_resumed, quiet=quiet) as advance,
        ):
            run = Engine(writer, videos, recipe, taps, forward, options, advance).run()
        writer.record_run(_run_record(forward, options, run))
    store = open_store(writer.path, allow_unsealed=True)
    failures = _failures(store)
    if len(failures) == len(videos):
        reason = f"{failures[0][2]}: {failures[0][3]}"
        raise InputError(
            f"none of the {len(videos)} videos could be read ({reason}); mend that and remove {writer.path}"
        )
    if not store.sealed:
        writer.seal()
    return EncodeReport(writer.path, recipe.recipe_id, len(videos), n_resumed, failures, run)


def _failures(store: FeatureStore) -> list[tuple[str, str, str, str]]:
    videos = store.videos
    return [(videos[row].video_id, videos[row].path, reason, message) for row, reason, message in store.failures()]


def _run_record(forward: Any, options: EngineOptions, run: EngineReport) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    return {
        "fsar": version("fsar"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.node(),
        "device": str(forward.device),
        "threads": forward.n_threads,
        "batch_size": options.batch_size,
        "jobs": options.jobs,
        "n_ok": run.n_ok,
        "n_failed": run.n_failed,
        "seconds": round(run.seconds, 3),
    }


def _video_rows(rows: Sequence[CatalogRow]) -> list[VideoRow]:
    from fsar.pipeline.store import VideoRow

    if not rows:
        raise InputError("the catalog (with this split) has no videos to encode")
    return [VideoRow(row.video_id, row.class_name, row.part, str(row.path)) for row in rows]


def _check_paths(videos: Sequence[VideoRow]) -> None:
    if not any(Path(video.path).exists() for video in videos):
        raise InputError(
            f"none of the {len(videos)} videos is on disk (first: {videos[0].path}); were they moved after index?"
        )


def _recipe(backbone: Backbone, options: EncodeOptions) -> tuple[Recipe, dict[str, TapSpec]]:
    from fsar.pipeline.taps import TapExtractor

    extractor = TapExtractor(backbone, options.taps)
    mean, std = _normalisation(backbone, options.normalisation)
    fixed = {**describe_backbone(backbone), "taps": extractor.taps, "mean": mean, "std": std, "size": backbone.size}
    recipe = _settle(options, backbone.library, fixed)
    specs = _tap_specs(extractor, recipe)
    extractor.close()
    return recipe, specs


def _settle(options: EncodeOptions, library: str, fixed: dict[str, Any]) -> Recipe:
    """Return the recipe; without what only the backbone knows it still checks everything else."""
    from fsar.pipeline.decode import get_decoder
    from fsar.pipeline.sample import sampler_version

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


def _tap_specs(extractor: Any, recipe: Recipe) -> dict[str, TapSpec]:
    from fsar.pipeline.store import TapSpec

    specs = {tap: TapSpec(shape, recipe.dtype) for tap, shape in extractor.shapes().items()}
    extractor.close()
    return specs


def _normalisation(backbone: Backbone | None, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from fsar.errors import unknown_name
    from fsar.pipeline.backbones import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

    known: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
        "clip": (CLIP_MEAN, CLIP_STD),
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "half": ((0.45,) * 3, (0.225,) * 3),
        "none": ((0.0,) * 3, (1.0,) * 3),
    }
    if backbone is not None and name == "backbone":
        return backbone.mean, backbone.std
    if name not in known:
        raise unknown_name("normalisation", name, NORMALISATIONS)
    return known[name]


def _product(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
