"""`fsar-prep convert`: videos to H.264 mp4."""

from pathlib import Path

import click

from fsar.cli.cluster import ClusterChoice, ClusterCommand, shared_work_options
from fsar.cli.common import json_option, quiet_option, timeout_option, video_jobs_option
from fsar.cli.rewriting import rewrite

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@click.command("convert", cls=ClusterCommand)
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Output folder.")
@click.option("--short-side", type=click.IntRange(min=2), help="Scale the shorter side to so many pixels (even).")
@click.option("--gop", type=click.IntRange(min=1), help="Frames between key frames; x264's 250 if not given.")
@click.option("--crf", default=18, show_default=True, type=click.IntRange(0, 51), help="Quality: 0 is lossless.")
@click.option("--preset", default="veryfast", show_default=True, type=click.Choice(PRESETS), help="Speed of x264.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@quiet_option
@timeout_option
@video_jobs_option
@shared_work_options
@json_option
def command(
    catalog: Path,
    out: Path,
    short_side: int | None,
    gop: int | None,
    crf: int,
    preset: str,
    dry_run: bool,
    quiet: bool,
    timeout_seconds: float,
    jobs: int,
    as_json: bool,
    cluster: ClusterChoice | None,
) -> int:
    """Convert the videos of CATALOG to H.264 mp4, frame for frame.

    Every frame of the source becomes one frame with the same time; none is dropped or doubled. Each result is decoded
    again and checked before it gets its name. Odd sizes are padded by one repeated row or column. OUT gets videos/,
    catalog.csv for the next stage, and failures.csv (then the exit code is 1). Run the same command again to resume;
    start it several times, on one machine or many, to share the work, or have --cluster do so. Later stages read the
    original files just as well: convert for tools that need mp4.

    \b
    Example:
      fsar-prep convert catalog.csv --out mp4 --short-side 240 --jobs 4
    """  # noqa: D301 - click needs a real backspace
    from fsar.pipeline.catalog.catalog import read_catalog
    from fsar.pipeline.rewrite.convert import CONVERT
    from fsar.pipeline.rewrite.stage import How
    from fsar.pipeline.video.transcode import ConvertSettings

    settings = ConvertSettings(short_side, gop, crf, preset)
    how = How(jobs, quiet, timeout_seconds)
    return rewrite(
        CONVERT, read_catalog(catalog), out, settings, how, cluster=cluster, dry_run=dry_run, as_json=as_json
    )
