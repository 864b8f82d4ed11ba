"""`fsar-prep encode`: videos to a feature store."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from fsar.cli.cluster import (
    PREP,
    Assignment,
    ClusterChoice,
    ClusterCommand,
    cluster_options,
    run_elsewhere,
    typed_arguments,
)
from fsar.cli.common import (
    EXIT_DONE,
    EXIT_FAILED,
    MAX_FRAMES,
    SECONDS,
    FiniteRange,
    echo,
    json_option,
    page,
    quiet_option,
    summary,
)
from fsar.cli.store_address import LOCAL_STORE, STORE, open_any
from fsar.errors import InputError, count_of
from fsar.pipeline.encode.precision import PRECISIONS

option = partial(click.option, show_default=True)

FRAME_COUNT = click.IntRange(1, MAX_FRAMES)
RESIZE_MODES = ("squash", "short-side")
NORMALISATIONS = ("backbone", "clip", "imagenet", "kinetics", "half", "none")


@click.command("encode", cls=ClusterCommand)
@click.argument("catalog", type=click.Path(path_type=Path))
@option(
    "--backbone", required=True, help="open_clip:NAME/TAG, torchvision:NAME/WEIGHTS, timm:NAME/TAG, LIB:NAME/FILE …"
)
@option("--out", required=True, type=LOCAL_STORE, help="Store to fill: NAME.zarr or NAME.h5.")
@option("--format", "store_format", type=click.Choice(["zarr", "hdf5"]), help="Adds the suffix if --out has none.")
@option("--weights", type=click.Path(path_type=Path), help="Checkpoint file in place of published weights.")
@option(
    "--tap",
    "taps",
    multiple=True,
    default=["pooled"],
    help="What to store; repeatable: pooled, map, tokens.K, tokens.all.raw, steps.pooled …",
)
@option("--split", help="Split (name or CSV): only its videos, in its order.")
@option("--limit", type=click.IntRange(min=1), help="Only the first N videos.")
@option("--frames", "n_frames", type=FRAME_COUNT, help="Frames to store of a video [8].")
@option("--clips", "n_clips", type=FRAME_COUNT, help="Clips to store of a video, of a network that sees clips [1].")
@option("--clip-length", type=FRAME_COUNT, help="Frames of a clip [what the network was trained with].")
@option(
    "--clip-stride", type=click.IntRange(min=0), help="From frame to frame of a clip; 0 spreads it over the video [0]."
)
@option(
    "--slots", type=FRAME_COUNT, help="Store more: `fsar-train-head --frames N` draws N of them anew at each visit."
)
@option("--sampler", default="uniform-center", help="Which frames: uniform-center, uniform-random, trx, dense …")
@option("--views", "n_views", default=1, type=click.IntRange(min=1), help="Views to store of each training video.")
@option("--flip/--no-flip", default=False, help="Mirror half of the views after the first. Not for SSv2.")
@option("--jitter/--no-jitter", default=True, help="Change the colours of views after the first.")
@option("--seed", default=0, type=click.IntRange(min=0), help="Seed of random frames and views.")
@option("--size", type=click.IntRange(min=8), help="Pixels of the network's input [what the backbone was made for].")
@option(
    "--pixels",
    default="backbone",
    help="backbone: as its weights were trained; or as published code does: trx, strm, clip-fsar, hyrsm, hcl …",
)
@option("--resize", "resize_mode", type=click.Choice(RESIZE_MODES), help="squash drops the aspect [as --pixels says].")
@option("--resize-to", "resize", type=click.IntRange(min=1), help="Pixels before the crop [as --pixels says].")
@option(
    "--resize-width",
    type=click.IntRange(min=0),
    help="Width before the crop where squashed frames are wider than --resize-to [as --pixels says].",
)
@option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="How to resize [as --pixels says].")
@option("--antialias/--no-antialias", default=None, help="Low-pass before shrinking [as --pixels says].")
@option("--arithmetic", type=click.Choice(["uint8", "float32"]), help="Of resizing; uint8 rounds as Pillow does.")
@option(
    "--normalise",
    "normalisation",
    type=click.Choice(NORMALISATIONS),
    help="Mean and std [as --pixels says]; half: 0.45, 0.225.",
)
@option("--dtype", default="float16", type=click.Choice(["float16", "float32"]), help="Type of the stored features.")
@option("--device", default="auto", help="auto, cpu, cuda, cuda:N.")
@option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Arithmetic; bf16 has bf16 weights, too [the store's; of a new one tf32 on GPUs that have it, else fp32].",
)
@option(
    "--fold-batch-norm",
    is_flag=True,
    help="Fold batch norm into convolutions: up to a fifth faster on CPUs; features move by rounding, another recipe.",
)
@option("--batch-size", type=click.IntRange(min=1), help="Frames in a forward pass [by device and pixels].")
@option("--jobs", type=click.IntRange(min=0), help="Decode processes [one per core]; 0 decodes in this process.")
@option("--timeout-seconds", default=120.0, type=SECONDS, help="Longest time that one video may take to decode.")
@option("--decoder", default="pyav", help="pyav, torchcodec or decord.")
@option(
    "--workers",
    "n_workers",
    default=1,
    type=click.IntRange(1, 4096),
    help="Processes that will fill the store together: it is cut into 8 chunks for each at least.",
)
@option("--chunk-mb", type=FiniteRange(0, 1024, min_open=True), help="MB of a chunk, 256 videos at most [what suits].")
@cluster_options
@option("--reuse", multiple=True, type=STORE, help="Store, folder of stores or address to take equal rows from.")
@option(
    "--estimate", is_flag=True, help="Measure ten videos here; print storage, and hours by workers. Writes nothing."
)
@option("--dry-run", is_flag=True, help="Say what would be stored, and stop.")
@json_option
@quiet_option
def command(
    catalog: Path,
    out: Path,
    store_format: str | None,
    split: str | None,
    limit: int | None,
    n_frames: int | None,
    slots: int | None,
    reuse: tuple[Any, ...],
    estimate: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    cluster: ClusterChoice | None,
    **options: Any,
) -> int:
    """Encode the videos of a catalog into a feature store.

    Interrupted, the same command goes on where it stopped. Videos that cannot be read become failed rows, listed in the
    store's failures.csv, and the exit code is 1. CATALOG may be a pack of frames (NAME.frames, from extract --layout
    packed), which is read in place of the videos.

    Frames are prepared as the backbone was trained: resized, cropped and normalised by the transform of open_clip, timm
    or torchvision for its weights. --pixels names the test pictures of published code instead, and --resize,
    --resize-to, --interpolation, --antialias, --arithmetic and --normalise each replace one part.

    --cluster starts --workers processes that fill the store together, here or on a cluster, shows how far they are and
    starts those again that fail. Ctrl-C leaves them at work; the same command attaches to them, --cancel ends them.
    With --dry-run it prints what it would start: for slurm a script for `sbatch`.

    \b
    Examples:
      fsar-prep encode catalog.csv --backbone open_clip:ViT-B-16/openai --tap pooled --out ssv2.zarr
      fsar-prep encode catalog.csv --backbone open_clip:RN50/openai --pixels clip-fsar --out as-published.zarr
      fsar-prep encode catalog.csv --backbone open_clip:ViT-B-16/openai --out ssv2.zarr \\
          --cluster slurm --workers 8 --slurm partition=gpu --slurm gres=gpu:1 --slurm time=12:00:00
    """  # noqa: D301
    from fsar.pipeline.encode.workers import forked_decoders

    if options["jobs"] != 0 and not (estimate or cluster or dry_run):
        click.get_current_context().with_resource(forked_decoders())  # now, while this process has no threads

    from fsar.pipeline.catalog.catalog import select_rows
    from fsar.pipeline.catalog.duplicates import describe_duplicates
    from fsar.pipeline.encode.encode import encode, plan
    from fsar.pipeline.packs.catalog import read_videos
    from fsar.splits import load_split

    rows = select_rows(read_videos(catalog), load_split(split) if split else None)[:limit]
    if slots is not None and slots < (n_frames or 8):
        raise InputError(f"--slots must be at least --frames {n_frames or 8}, got {slots}")
    path = _store_path(out, store_format)
    chosen = _options(slots or n_frames or 8, **options)
    prepared = plan(rows, chosen, path)
    if prepared.recipe.clip is not None and (slots or n_frames):
        raise InputError(f"{chosen.backbone} sees clips: say --clips, --clip-length and --clip-stride, not --frames")
    for note in prepared.notes:
        echo(page([f"note: {note}"]), err=True)
    if cluster and cluster.cluster != "local" and chosen.precision is None and not path.exists():
        _tell_default_elsewhere(prepared.recipe.precision)
    if estimate:
        return _estimate(rows, prepared, chosen, as_json=as_json)
    if cluster:
        work = _work(path, prepared, chosen.n_workers)
        start, n_before = time.monotonic(), work.work.n_done()
        make = partial(_make, path, prepared, chosen, is_here=cluster.cluster == "local")
        ended = run_elsewhere(cluster, work, dry_run=dry_run, as_json=as_json, quiet=quiet, before=make)
        if ended is not None:
            return ended
        report = encode(rows, path, chosen, prepared=prepared, quiet=quiet)  # seals it if no worker has
        report.run.n_ok, report.run.seconds = report.n_videos - n_before, time.monotonic() - start
        report = replace(report, n_resumed=n_before, n_workers=chosen.n_workers)
    elif dry_run:
        summary(_plan_data(prepared, path), _plan_text(prepared, path), as_json=as_json)
        return EXIT_DONE
    else:
        stores = _stores_to_reuse(reuse, prepared.recipe, quiet=quiet)
        report = encode(rows, path, chosen, prepared=prepared, reuse=stores, quiet=quiet)
    for video_id, _, reason, message in report.failures:
        echo(page([f"failed: {video_id} ({reason}): {message}"]), err=True)
    if report.duplicates:
        echo(f"warning: {describe_duplicates(report.duplicates)}", err=True)
    summary(_report_data(report), _report_text(report), as_json=as_json)
    return EXIT_FAILED if report.failures else EXIT_DONE


def _tell_default_elsewhere(precision: str) -> None:
    """Say which precision a store gets whose workers may have GPUs that this machine has not."""
    if precision == "fp32":
        echo(
            "note: precision fp32, the default on this machine; if the workers have GPUs, say --precision tf32",
            err=True,
        )


def _estimate(rows: Any, prepared: Any, chosen: Any, *, as_json: bool) -> int:
    from fsar.cli.estimate_text import estimate_data, estimate_text
    from fsar.pipeline.encode.estimate import estimate

    found = estimate(rows, prepared, chosen)
    summary(estimate_data(found, chosen.n_workers), estimate_text(found, chosen.n_workers), as_json=as_json)
    return EXIT_DONE


def _work(out: Path, prepared: Any, n_workers: int) -> Assignment:
    from fsar.cluster.filling import Filling, StoreJournal
    from fsar.pipeline.store.format.files import StoreFiles

    work = Filling(StoreJournal(StoreFiles.at(out)), len(prepared.videos))
    return Assignment(PREP, [["encode", *typed_arguments()]] * n_workers, out, work, "encode")


def _make(path: Path, prepared: Any, chosen: Any, *, is_here: bool) -> None:
    """Make the store for the workers; if they run here, only where they can compute as it says."""
    from fsar.device import resolve_device
    from fsar.pipeline.encode.encode import open_or_make
    from fsar.pipeline.encode.precision import require_precision

    if is_here:
        require_precision(prepared.recipe.precision, resolve_device(chosen.engine.device))
    open_or_make(path, prepared, chosen).close()


def _options(
    n_slots: int,
    *,
    device: str,
    batch_size: int | None,
    jobs: int | None,
    timeout_seconds: float,
    jitter: bool,
    chunk_mb: float | None,
    **rest: Any,
) -> Any:
    from fsar.pipeline.encode.encode import EncodeOptions
    from fsar.pipeline.encode.report import EngineOptions, default_jobs

    n_jobs = default_jobs() if jobs is None else jobs
    engine = EngineOptions(device=device, batch_size=batch_size, jobs=n_jobs, timeout_seconds=timeout_seconds)
    rest["taps"] = tuple(rest["taps"])
    rest["chunk_bytes"] = None if chunk_mb is None else max(int(chunk_mb * 1e6), 1)
    return EncodeOptions(n_slots=n_slots, jitter=jitter and rest["n_views"] > 1, engine=engine, **rest)


def _stores_to_reuse(places: tuple[Any, ...], recipe: Any, *, quiet: bool) -> list[Any]:
    """Return the stores at some places that hold what a recipe asks for, open."""
    from fsar.pipeline.encode.reuse import same_numbers
    from fsar.pipeline.share.shelf import stores_at

    found = [store for place in places for store in stores_at(place)]
    return [open_any(store.where, quiet=quiet) for store in found if same_numbers(recipe.to_dict(), store.recipe)]


def _store_path(out: Path, store_format: str | None) -> Path:
    suffix = {"zarr": ".zarr", "hdf5": ".h5"}.get(store_format or "", "")
    if out.suffix in (".zarr", ".h5"):
        if suffix and out.suffix != suffix:
            raise InputError(f"--out {out} does not fit --format {store_format}: name it {out.stem}{suffix}")
        return out
    if not suffix:
        raise InputError(f"--out must end in .zarr or .h5, got {out} (or say --format)")
    return out.with_name(out.name + suffix)


def _plan_data(plan: Any, path: Path) -> dict[str, Any]:
    taps = {tap: {"shape": list(spec.shape), "dtype": spec.dtype} for tap, spec in plan.taps.items()}
    n_videos = len(plan.videos)
    recipe = plan.recipe.to_dict()
    size = {"n_videos": n_videos, "bytes": n_videos * plan.video_bytes}
    return {"path": str(path), "recipe_id": plan.recipe.recipe_id, "recipe": recipe, "taps": taps, **size}


def _plan_text(plan: Any, path: Path) -> str:
    from fsar.pipeline.encode.recipe import describe_pixels

    recipe = plan.recipe
    lines = [
        f"{path}: {count_of(len(plan.videos), 'video')}, "
        f"{len(plan.videos) * plan.video_bytes / 1e6:.1f} MB, nothing written"
    ]
    lines += [
        f"  {tap}: {recipe.n_views} x {recipe.n_slots} x {spec.shape} {spec.dtype}" for tap, spec in plan.taps.items()
    ]
    lines.append(f"  frames: {describe_pixels(recipe.to_dict())}")
    lines += [f"  {name} = {value}" for name, value in recipe.to_dict().items()]
    return "\n".join([*lines, f"  recipe_id = {recipe.recipe_id}"])


def _report_data(report: Any) -> dict[str, Any]:
    run = report.run
    return {
        "path": str(report.path),
        "recipe_id": report.recipe_id,
        "n_videos": report.n_videos,
        "n_resumed": report.n_resumed,
        "n_encoded": run.n_ok + run.n_failed,
        "n_failed": len(report.failures),
        "n_reused": run.n_reused,
        "duplicates": report.duplicates,
        "failures": [dict(zip(("video_id", "path", "reason", "message"), f, strict=True)) for f in report.failures],
        "seconds": run.seconds,
        "frames_per_second": run.n_frames / run.seconds if run.seconds else 0.0,
        "shares": run.shares() if run.seconds and not report.n_workers else {},
        "n_workers": report.n_workers,
        "peak_memory_bytes": run.peak_memory_bytes,
    }


def _report_text(report: Any) -> str:
    run = report.run
    n_new = run.n_ok + run.n_failed
    counts = f"{count_of(report.n_videos, 'video')}, {len(report.failures)} failed"
    text = f"{report.path}: {counts}, recipe {report.recipe_id[:12]}"
    if run.n_reused:
        text += f"; {count_of(run.n_reused, 'video')} taken from other stores"
    if not n_new:
        return text if run.n_reused else f"{text}; nothing was left to encode"
    if report.n_workers:
        rate = f"{n_new / run.seconds:.1f} videos/s"
        return f"{text}\n{n_new} encoded by {count_of(report.n_workers, 'worker')} in {run.seconds:.1f} s ({rate})"
    shares = ", ".join(f"{name} {share:.0%}" for name, share in run.shares().items())
    rates = f"{n_new / run.seconds:.1f} videos/s, {run.n_frames / run.seconds:.0f} frames/s"
    return (
        f"{text}\n{n_new} encoded in {run.seconds:.1f} s ({rates}); time: {shares}; "
        f"peak memory {run.peak_memory_bytes / 2**20:.0f} MiB"
    )
