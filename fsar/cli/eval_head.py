"""`fsar-eval-head`: test heads on many episodes, with intervals, and compare them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import echo, run_command
from fsar.cli.options import opened, settings_options, store_option
from fsar.heads.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from fsar.heads.evaluation.evaluate_heads import EvaluationReport
    from fsar.heads.evaluation.report import Format


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("heads", nargs=-1, required=True, metavar="RUN_OR_HEAD...")
@store_option()
@settings_options(EvaluateSettings, without=("heads", "store"))
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "markdown", "csv", "json"]),
    default="text",
    show_default=True,
    help="Of the table on stdout.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for figures (SVG) and their numbers (CSV): accuracy, shots, classes, confusions, learning curves.",
)
def command(style: "Format", as_json: bool, plots: Path | None, **settings: Any) -> None:
    """Test runs or untrained heads on a part of a feature store: mean accuracy and its 95 % interval.

    Runs are tested on the terms they were trained for, split, part, way and shot, unless others are given; then the
    table says what they were trained for. Every head meets the same episodes, so that differences between heads are
    paired.

    \b
    Examples:
      fsar-eval-head runs/otam --store ssv2.zarr
      fsar-eval-head runs/otam tsn --store ssv2.zarr --shots 1,2,3,4,5
      fsar-eval-head otam tsn --store ssv2.zarr --split ssv2-cmn --format markdown
      fsar-eval-head runs/fold-* --store ssv2.zarr --complexity --plots figures/
    """  # noqa: D301 (click reads the backspace)
    chosen = opened(EvaluateSettings(**settings), settings["store"])
    from fsar.heads.evaluation.evaluate_heads import evaluate_heads

    report = evaluate_heads(chosen)
    if as_json or style == "json":
        echo(json.dumps(report.to_dict(), indent=2, sort_keys=True, default=str))
    else:
        echo(report.table(style))
        lines = [each.to_text() for each in report.comparisons] + [each.to_text() for each in report.spreads]
        for line in lines:
            echo(line, err=style == "csv")
    if plots is not None:
        from fsar.report.plots import write_plots

        n_files = write_plots(report, chosen.heads, plots)
        echo(f"{n_files} figures in {plots}", err=True)
    _print_notes(report)


def _print_notes(report: "EvaluationReport") -> None:
    from fsar.heads.evaluation.report import explanations

    for note in report.notes:
        echo(f"note: {note}", err=True)
    for line in explanations(report.results):
        echo(line, err=True)


def main() -> None:
    """Entry point of `fsar-eval-head`."""
    run_command(command, "fsar-eval-head")


if __name__ == "__main__":
    main()
