"""`fsar-prep extract`: frames as JPEG."""

from pathlib import Path

import click

from fsar.cli.cluster import ClusterChoice, ClusterCommand, shared_work_options
from fsar.cli.common import json_option, quiet_option, timeout_option, video_jobs_option
from fsar.cli.rewriting import rewrite


@click.command("extract", cls=ClusterCommand)
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Output folder; packed: NAME.frames."
)
@click.option("--split", help="Split (name or CSV): only its videos.")
@click.option("--frames", type=click.IntRange(min=1), help="Pictures per video; all if not given.")
@click.option("--sampler", default="uniform-center", show_default=True, help="Which frames, with --frames.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="For samplers that draw.")
@click.option(
    "--layout",
    default="trx",
    show_default=True,
    type=click.Choice(["trx", "hcl", "packed"]),
    help="Folders of pictures, or packed.",
)
@click.option(
    "--short-side",
    type=click.IntRange(min=1),
    help="Scale the shorter side to so many pixels; packed frames are not enlarged.",
)
@click.option("--quality", default=95, show_default=True, type=click.IntRange(1, 100), help="JPEG quality.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@quiet_option
@timeout_option
@video_jobs_option
@shared_work_options
@json_option
def command(
    catalog: Path,
    out: Path,
    split: str | None,
    frames: int | None,
    sampler: str,
    seed: int,
    layout: str,
    short_side: int | None,
    quality: int,
    dry_run: bool,
    quiet: bool,
    timeout_seconds: float,
    jobs: int,
    as_json: bool,
    cluster: ClusterChoice | None,
) -> int:
    """Extract the frames of the videos of CATALOG as JPEG.

    Layout trx is OUT/frames/CLASS/VIDEO/00000001.jpg, as TRX, STRM and CLIP-MEI read it; layout hcl is
    OUT/images/PART/CLASS/VIDEO/0.jpg. OUT also gets catalog.csv, with one frame folder per video, for the next stage,
    and failures.csv (then the exit code is 1). A video's folder appears only when it is complete. Run the same command
    again to resume; start it several times, on one machine or many, to share the work, or have --cluster do so.

    Layout packed writes the frames of all videos into a few large files with an index and checksums, NAME.frames, which
    encode and fine-tuning read in place of the videos. fsar-store info, verify and add take it, too.

    \b
    Examples:
      fsar-prep extract catalog.csv --out frames --frames 8 --short-side 256 --jobs 4
      fsar-prep extract catalog.csv --out ssv2.frames --layout packed --frames 16 --short-side 256 --jobs 4
    """  # noqa: D301 - click needs a real backspace
    from fsar.cli.packs import extract_packed
    from fsar.pipeline.catalog.catalog import Catalog, read_catalog, select_rows
    from fsar.pipeline.rewrite.extract import EXTRACT, ExtractSettings
    from fsar.pipeline.rewrite.stage import How
    from fsar.splits import load_split

    videos = read_catalog(catalog)
    if split:
        videos = Catalog(tuple(select_rows(videos, load_split(split))), videos.dataset)
    if layout == "packed":
        sampled = {"frames": frames, "sampler": sampler, "short_side": short_side, "quality": quality, "seed": seed}
        work = {"n_jobs": jobs, "quiet": quiet, "timeout_seconds": timeout_seconds}
        return extract_packed(videos, out, sampled, work, cluster=cluster, dry_run=dry_run, as_json=as_json)
    settings = ExtractSettings(frames, sampler, layout, short_side, quality, seed)
    how = How(jobs, quiet, timeout_seconds)
    return rewrite(EXTRACT, videos, out, settings, how, cluster=cluster, dry_run=dry_run, as_json=as_json)
