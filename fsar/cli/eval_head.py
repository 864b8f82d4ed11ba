"""`fsar-eval-head`: test heads on many episodes, with intervals, and compare them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import run_command
from fsar.cli.head_options import choose_device, parse_counts, parse_list, parse_taps, refuse_given, store_options
from fsar.errors import InputError

if TYPE_CHECKING:
    from fsar.heads.evaluation.candidates import Subject
    from fsar.heads.evaluation.report import Format


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("heads", nargs=-1, required=True, metavar="RUN_OR_HEAD...")
@store_options
@click.option("--way", default=5, show_default=True, help="Classes per episode.")
@click.option("--shot", default="1", show_default=True, help="Supports per class; 1,5,2,1,1 for unequal ones.")
@click.option("--shots", help="Several shots in one call, like 1,2,3,4,5.")
@click.option("--query", default="1", show_default=True, help="Queries per class.")
@click.option("--episodes", default=10_000, show_default=True, type=click.IntRange(min=1), help="Test episodes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the episode list.")
@click.option("--part", default="test", show_default=True, help="Part of the split.")
@click.option("--episodes-file", type=click.Path(path_type=Path), help="Saved list of episodes, instead of drawn ones.")
@click.option("--save-episodes", type=click.Path(path_type=Path), help="Save the list of episodes here (.npz).")
@click.option(
    "--compare", metavar="RUN2", help="Also test this run or head and give the paired difference to the first."
)
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of an untrained head.")
@click.option("--allow-seen", is_flag=True, help="Test on classes that the head was trained on; marked in the result.")
@click.option("--allow-recipe", is_flag=True, help="Test on features of another recipe than the training's; marked.")
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
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for results, confusions and per-episode accuracies. "
    "[default: eval/ in the run folder; nothing for an untrained head]",
)
def command(**arguments: Any) -> None:
    """Test runs or untrained heads on a part of a feature store: mean accuracy and its 95 % interval.

    Every head meets the same episodes, so that differences between heads are paired.

    \b
    Examples:
      fsar-eval-head runs/otam-ssv2 --store ssv2.zarr --split ssv2-cmn --shots 1,2,3,4,5
      fsar-eval-head otam tsn --store ssv2.zarr --split ssv2-cmn --format markdown
    """  # noqa: D301 (click reads the backspace)
    from fsar.heads.evaluation.candidates import load_subject, with_distinct_labels
    from fsar.heads.evaluation.evaluate import compare
    from fsar.heads.evaluation.report import table
    from fsar.heads.setup.task import open_store

    _refuse_combinations(arguments)
    store = open_store(arguments["store"])
    names = list(dict.fromkeys([*arguments["heads"], *filter(None, [arguments["compare"]])]))
    subjects = [
        load_subject(
            name,
            store,
            split=arguments["split"],
            taps=parse_taps(arguments["taps"]),
            text=arguments["text"],
            n_frames=arguments["frames"],
            device=choose_device(arguments["device"]),
            where=arguments["features"],
            options=arguments["options"],
            allow_recipe=arguments["allow_recipe"],
        )
        for name in names
    ]
    subjects = with_distinct_labels(subjects)
    results, comparisons = [], []
    for shot in _shots(arguments):
        measured = [_measure(subject, shot, arguments) for subject in subjects]
        results += [result for result, _ in measured]
        for result, evaluation in measured[1:] if arguments["compare"] else []:
            paired = compare(measured[0][1], evaluation)
            comparisons.append((measured[0][0], result, paired))
    style: Format = "json" if arguments["as_json"] else arguments["style"]
    if style == "json":
        _print_json(results, comparisons)
    else:
        click.echo(table(results, style))
        for line in [_comparison_line(*entry) for entry in comparisons]:
            click.echo(line, err=style == "csv")
    _print_notes(results)


def _refuse_combinations(arguments: dict[str, Any]) -> None:
    """Raise InputError for options of which one would be ignored."""
    if arguments["episodes_file"]:
        refuse_given(("way", "shot", "shots", "query", "episodes", "seed"), "--episodes-file lists the episodes")
    if arguments["compare"] and set(arguments["heads"]) == {arguments["compare"]}:
        raise InputError(f"--compare {arguments['compare']} is the head under test: name another")
    if arguments["shots"] and "," in arguments["shots"] and arguments["save_episodes"]:
        raise InputError("--save-episodes writes one list: give one number of shots")


def _shots(arguments: dict[str, Any]) -> list[Any]:
    if arguments["shots"]:
        return list(parse_list("shots", arguments["shots"]))
    return [parse_counts("shot", arguments["shot"], at_least=1)]


def _measure(subject: "Subject", shot: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    from fsar.heads.episodes.sampler import EpisodeShape
    from fsar.heads.episodes.saved_list import save_list
    from fsar.heads.evaluation.candidates import measure_subject
    from fsar.heads.evaluation.protocol import Plan

    plan = Plan(
        EpisodeShape(arguments["way"], shot, parse_counts("query", arguments["query"])),
        n_episodes=arguments["episodes"],
        part=arguments["part"],
        seed=arguments["seed"],
        file=arguments["episodes_file"],
        drop_small_classes=arguments["drop_small_classes"],
    )
    out: Path | None = arguments["out"]
    if out is not None and out.is_file():
        raise InputError(f"--out {out} is a file; name a folder")
    result, evaluation, planned = measure_subject(
        subject, plan, out=out, allow_seen=arguments["allow_seen"], quiet=arguments["quiet"]
    )
    if arguments["save_episodes"]:
        save_list(planned.listed, arguments["save_episodes"])
    return result, evaluation


def _comparison_line(first: dict[str, Any], second: dict[str, Any], paired: Any) -> str:
    from fsar.heads.evaluation.report import percent

    verdict = "clear" if paired.is_clear else "not clear"
    return (
        f"{first['label']} minus {second['label']}, {first['n_shot']}-shot, same {first['n_episodes']} episodes: "
        f"{100 * paired.difference:+.2f} ± {percent(paired.ci95)} points ({verdict} at 95 %)"
    )


def _print_json(results: list[dict[str, Any]], comparisons: list[Any]) -> None:
    import json

    paired = [
        {"first": a["label"], "second": b["label"], "n_shot": a["n_shot"], "difference": p.difference, "ci95": p.ci95}
        for a, b, p in comparisons
    ]
    click.echo(json.dumps({"results": results, "comparisons": paired}, indent=2, sort_keys=True, default=str))


def _print_notes(results: list[dict[str, Any]]) -> None:
    for note in dict.fromkeys(note for result in results for note in result["notes"]):
        click.echo(f"note: {note}", err=True)


def main() -> None:
    """Entry point of `fsar-eval-head`."""
    run_command(command, "fsar-eval-head")
