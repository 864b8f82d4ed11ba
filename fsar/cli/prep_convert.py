"""`fsar-prep convert`: videos to H.264 mp4."""

from pathlib import Path

import click

from fsar.cli.cluster import PREP, ClusterChoice, ClusterCommand, run_elsewhere, shared_work, shared_work_options
from fsar.cli.common import EXIT_DONE, EXIT_FAILED, json_option, summary, timeout_option, video_jobs_option
from fsar.errors import count_of

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")


@click.command("convert", cls=ClusterCommand)
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Output folder.")
@click.option("--short-side", type=click.IntRange(min=2), help="Scale the shorter side to so many pixels (even).")
@click.option("--gop", type=click.IntRange(min=1), help="Frames between key frames; x264's 250 if not given.")
@click.option("--crf", default=18, show_default=True, type=click.IntRange(0, 51), help="Quality: 0 is lossless.")
@click.option("--preset", default="veryfast", show_default=True, type=click.Choice(PRESETS), help="Speed of x264.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@click.option("--quiet", is_flag=True, help="No progress.")
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
    from fsar.pipeline.rewrite.convert import CONVERT, convert, plan
    from fsar.pipeline.video.transcode import ConvertSettings

    settings = ConvertSettings(short_side, gop, crf, preset)
    videos = read_catalog(catalog)
    if cluster:
        watch = CONVERT.watch(videos, out, settings)
        work = shared_work(PREP, "convert", out, watch, len(videos.rows), cluster.n_workers)
        ended = run_elsewhere(cluster, work, dry_run=dry_run, as_json=as_json, quiet=quiet)
        if ended is not None:
            return ended
        report = watch.report()
    elif dry_run:
        todo = plan(videos, out, settings)
        data = {"out": str(out), "to_convert": len(todo), "kept": len(videos.rows) - len(todo), "dry_run": True}
        summary(data, f"{out}: would convert {count_of(len(todo), 'video')}, keep {data['kept']}", as_json=as_json)
        return EXIT_DONE
    else:
        report = convert(videos, out, settings, n_jobs=jobs, quiet=quiet, timeout_seconds=timeout_seconds)
    data = {
        "out": str(out),
        "catalog": str(report.catalog),
        "converted": report.done,
        "kept": report.kept,
        "failed": len(report.failures),
    }
    text = f"{out}: {count_of(report.done, 'video')} converted, {report.kept} kept, {len(report.failures)} failed"
    if report.failures:
        text += f", listed in {out / 'failures.csv'}"
    summary(data, text, as_json=as_json)
    return EXIT_FAILED if report.failures else EXIT_DONE
