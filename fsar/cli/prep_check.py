"""`fsar-prep check`: what is odd among the videos of a catalog."""

from pathlib import Path

import click

from fsar.cli.common import (
    EXIT_DONE,
    EXIT_FAILED,
    json_option,
    quiet_option,
    summary,
    timeout_option,
    video_jobs_option,
)


@click.command("check")
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option("--split", help="Look at the videos of this split alone, with its parts.")
@click.option(
    "--min-frames", default=8, show_default=True, type=click.IntRange(min=1), help="Fewer frames than this are odd."
)
@click.option(
    "--facts", type=click.Path(path_type=Path, dir_okay=False), help="Write a line for each video as CSV here."
)
@quiet_option
@timeout_option
@video_jobs_option
@json_option
def command(
    catalog: Path,
    split: str | None,
    min_frames: int,
    facts: Path | None,
    quiet: bool,
    timeout_seconds: float,
    jobs: int,
    as_json: bool,
) -> int:
    """Read every video of CATALOG quickly and print what is odd.

    The packets are counted and the first frame is decoded: unreadable and cut files, the same content twice (above all
    in train and test), names of another class, near-empty clips, mirrors and turns, other ranges of brightness, missing
    times, odd lengths. Run it before a GPU is used. The exit code is 1 if a video cannot be read.

    \b
    Example:
      fsar-prep check catalog.csv --split ssv2-otam --facts facts.csv
    """  # noqa: D301 - click needs a real backspace
    from fsar.pipeline.catalog.catalog import read_catalog, select_rows
    from fsar.pipeline.inspect.check import check_videos, write_facts
    from fsar.splits import load_split

    rows = select_rows(read_catalog(catalog), load_split(split) if split else None)
    report = check_videos(rows, min_frames=min_frames, n_jobs=jobs, quiet=quiet, timeout_seconds=timeout_seconds)
    if facts is not None:
        write_facts(facts, report.facts)
    summary(report.to_dict(), report.to_text(), as_json=as_json)
    return EXIT_FAILED if report.failures else EXIT_DONE
