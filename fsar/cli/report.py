"""`fsar-report`: one page about runs."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import echo, quiet_option, run_command
from fsar.errors import InputError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--store", help="Feature store. [default: the one that each run was trained on]")
@click.option(
    "--frames",
    type=click.Path(path_type=Path),
    help="Packed frames (NAME.frames) for the filmstrips, where the videos are gone.",
)
@click.option("--out", type=click.Path(path_type=Path), default="report.html", show_default=True, help="The page.")
@click.option(
    "--assets", type=click.Path(path_type=Path), help="Also figures as SVG and tables as CSV, into this folder."
)
@click.option(
    "--episodes", default=200, show_default=True, type=click.IntRange(min=1), help="Of the measures of order."
)
@click.option("--hard", default=2, show_default=True, type=click.IntRange(min=0), help="Hardest episodes to show.")
@click.option("--easy", default=1, show_default=True, type=click.IntRange(min=0), help="Easiest episodes to show.")
@click.option("--quick", is_flag=True, help="Only what the run folders hold: nothing is measured anew.")
@click.option("--device", help="cpu, cuda, cuda:1. [default: cuda where there is one]")
@quiet_option
def command(runs: tuple[Path, ...], out: Path, assets: Path | None, **options: Any) -> None:
    """Write one self-contained page about one or more runs: it opens from disk, without a network.

    A folder that holds runs stands for all finished ones below it. With --assets, leaderboard.csv has the heads in
    order.

    \b
    Examples:
      fsar-report runs/trx runs/otam --out report.html
      fsar-report runs/* --assets figures/
    """  # noqa: D301 (click reads the backspace)
    from fsar.device import resolve_device
    from fsar.report.report import ReportOptions, make_report
    from fsar.report.store_page import check_out

    check_out(out)
    if assets is not None and assets.is_file():
        raise InputError(f"--assets {assets} is a file; name a folder")
    page = make_report(
        runs,
        ReportOptions(
            store=options["store"],
            frames=options["frames"],
            n_episodes=options["episodes"],
            n_hard=options["hard"],
            n_easy=options["easy"],
            device=str(resolve_device(options["device"] or "auto")),
            measure=not options["quick"],
        ),
        quiet=options["quiet"],
    )
    page.write(out, assets)
    echo(str(out.resolve()))


def main() -> None:
    """Entry point of `fsar-report`."""
    run_command(command, "fsar-report")
