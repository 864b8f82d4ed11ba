"""`fsar-eval-head`: test heads on many episodes, with intervals, and compare them."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.cluster import (
    Assignment,
    ClusterChoice,
    ClusterCommand,
    cluster_options,
    launch_dry_run,
    run_elsewhere,
    typed_arguments,
    workers_folder,
)
from fsar.cli.common import EXIT_DONE, echo, run_command
from fsar.cli.options import opened, settings_options, store_option
from fsar.errors import InputError
from fsar.heads.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from fsar.heads.evaluation.evaluate_heads import Evaluating, EvaluationReport
    from fsar.heads.evaluation.report import Format


@click.command(cls=ClusterCommand, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("--only", type=int, hidden=True, help="Test the head at this place alone, for one who makes the report.")
@click.option("--measured", type=click.Path(path_type=Path), hidden=True, help="Folder for that one.")
@launch_dry_run
@cluster_options
def command(
    style: "Format",
    as_json: bool,
    plots: Path | None,
    only: int | None,
    measured: Path | None,
    cluster: ClusterChoice | None,
    dry_run: bool,
    **settings: Any,
) -> int | None:
    """Test runs or untrained heads on a part of a feature store: mean accuracy and its 95 % interval.

    Runs are tested on the terms they were trained for, split, part, way and shot, unless others are given; then the
    table says what they were trained for. Every head meets the same episodes, so that differences between heads are
    paired. --cluster tests each in a process of its own.

    \b
    Examples:
      fsar-eval-head runs/otam --store ssv2.zarr
      fsar-eval-head runs/otam tsn --store ssv2.zarr --shots 1,2,3,4,5
      fsar-eval-head otam tsn --store ssv2.zarr --split ssv2-cmn --format markdown
      fsar-eval-head runs/fold-* --store ssv2.zarr --complexity --plots figures/
    """  # noqa: D301 (click reads the backspace)
    chosen = opened(EvaluateSettings(**settings), settings["store"])
    from fsar.heads.evaluation.elsewhere import write_measured
    from fsar.heads.evaluation.evaluate_heads import Evaluating

    evaluating = Evaluating.of(chosen)
    if only is not None and measured is not None:
        write_measured(measured, only, evaluating.measure(only))
        return EXIT_DONE
    if cluster:
        found = _measure_elsewhere(cluster, evaluating, dry_run=dry_run, as_json=as_json)
        if isinstance(found, int):
            return found
    else:
        found = [evaluating.measure(place) for place in range(len(evaluating.subjects))]
    report = evaluating.report(found)
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
    return None


def _measure_elsewhere(choice: ClusterChoice, evaluating: "Evaluating", *, dry_run: bool, as_json: bool) -> Any:
    """Return what workers measured of each head, or an exit code."""
    from fsar.cluster.runs import Runs
    from fsar.heads.evaluation.elsewhere import digest, facts_file, read_measured

    out, places = evaluating.settings.out, range(len(evaluating.subjects))
    if out is None:
        raise InputError("--cluster needs --out: a folder on a disk that all workers share")
    typed = typed_arguments(without=("--save-episodes", "--plots", "--format"))
    folder = workers_folder(out) / f"measured-{digest(evaluating, typed)}"
    lines = [[*typed, "--only", str(place), "--measured", str(folder)] for place in places]
    work = Runs([facts_file(folder, place) for place in places])
    assigned = Assignment(("fsar-eval-head", "fsar.cli.eval_head"), lines, out, work, "test", "heads")
    ended = run_elsewhere(choice, assigned, dry_run=dry_run, as_json=as_json, quiet=evaluating.settings.quiet)
    if ended is not None:
        return ended
    found = [read_measured(folder, place) for place in places]
    shutil.rmtree(folder, ignore_errors=True)
    return found


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
