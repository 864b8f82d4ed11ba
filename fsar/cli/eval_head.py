"""`fsar-eval-head`: test heads on many episodes, with intervals, and compare them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import run_command
from fsar.cli.head_options import choose_device, parse_counts, parse_list, parse_taps, refuse_given, store_options
from fsar.cli.store_address import open_any
from fsar.errors import InputError

if TYPE_CHECKING:
    from fsar.heads.evaluation.candidates import Subject
    from fsar.heads.evaluation.protocol import Plan, Planned
    from fsar.heads.evaluation.report import Format


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("heads", nargs=-1, required=True, metavar="RUN_OR_HEAD...")
@store_options
@click.option("--way", type=int, help="Classes per episode. [default: of the run, else 5]")
@click.option("--shot", help="Supports per class; 1,5,2,1,1 for unequal ones. [default: of the run, else 1]")
@click.option("--shots", help="Several shots in one call, like 1,2,3,4,5.")
@click.option("--query", default="1", show_default=True, help="Queries per class.")
@click.option("--episodes", default=10_000, show_default=True, type=click.IntRange(min=1), help="Test episodes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the episode list.")
@click.option("--part", help="Part of the split. [default: of the run, else test]")
@click.option(
    "--order/--no-order", default=True, show_default=True, help="Also measure what shuffling the frames costs."
)
@click.option("--episodes-file", type=click.Path(path_type=Path), help="Saved list of episodes, instead of drawn ones.")
@click.option("--save-episodes", type=click.Path(path_type=Path), help="Save the list of episodes here (.npz).")
@click.option(
    "--compare", metavar="RUN2", help="Also test this run or head and give the paired difference to the first."
)
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of an untrained head.")
@click.option(
    "--allow-seen",
    is_flag=True,
    help="Test on classes that trained the head or chose its weights; marked in the result.",
)
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

    Runs are tested on the terms they were trained for, split, part, way and shot, unless others are given; then the
    table says what they were trained for. Every head meets the same episodes, so that differences between heads are
    paired.

    \b
    Examples:
      fsar-eval-head runs/otam --store ssv2.zarr
      fsar-eval-head runs/otam tsn --store ssv2.zarr --shots 1,2,3,4,5
      fsar-eval-head otam tsn --store ssv2.zarr --split ssv2-cmn --format markdown
    """  # noqa: D301 (click reads the backspace)
    from fsar.heads.evaluation.candidates import measure_subject, plan_subject, with_distinct_labels
    from fsar.heads.evaluation.evaluate import compare
    from fsar.heads.evaluation.report import table

    _refuse_combinations(arguments)
    names = list(dict.fromkeys([*arguments["heads"], *filter(None, [arguments["compare"]])]))
    terms = _terms(names, arguments)
    subjects = with_distinct_labels(_subjects(names, terms, arguments))
    allowed = {"out": arguments["out"], "allow_seen": arguments["allow_seen"]}
    planned = [[plan_subject(subject, plan, **allowed) for subject in subjects] for plan in _plans(terms, arguments)]
    results, comparisons = [], []
    for of_subjects in planned:
        measured = [
            measure_subject(
                subject, episodes, **allowed, allow_recipe=arguments["allow_recipe"], quiet=arguments["quiet"]
            )
            for subject, episodes in zip(subjects, of_subjects, strict=True)
        ]
        results += [result for result, _ in measured]
        for result, evaluation in measured[1:] if arguments["compare"] else []:
            comparisons.append((measured[0][0], result, compare(measured[0][1], evaluation)))
    if arguments["save_episodes"]:
        _save_episodes(planned[0][0], arguments["save_episodes"])
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


def _terms(names: list[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return split, part, way and shots: as given, else as the runs were trained."""
    from fsar.heads.evaluation.terms import agreed, agreed_split, trained_terms
    from fsar.heads.run_folder import is_run

    runs = [terms for terms in (trained_terms(Path(name)) for name in names if is_run(Path(name))) if terms]
    if arguments["shots"]:
        shots: list[Any] = list(parse_list("shots", arguments["shots"]))
    else:
        given = None if arguments["shot"] is None else parse_counts("shot", arguments["shot"], at_least=1)
        drawn = not arguments["episodes_file"]  # a saved list has its own shots
        shots = [agreed("shot", given if drawn else 1, runs, lambda run: run.n_shot, 1)]
    return {
        "split": agreed_split(arguments["split"], runs),
        "part": agreed("part", arguments["part"], runs, lambda run: run.part, "test"),
        "way": agreed("way", 5 if arguments["episodes_file"] else arguments["way"], runs, lambda run: run.n_way, 5),
        "shots": shots,
    }


def _subjects(names: list[str], terms: dict[str, Any], arguments: dict[str, Any]) -> "list[Subject]":
    from fsar.heads.evaluation.candidates import Reading, load_subject

    store = open_any(arguments["store"], quiet=arguments["quiet"])
    reading = Reading(
        split=terms["split"],
        taps=parse_taps(arguments["taps"]),
        text=arguments["text"],
        n_frames=arguments["frames"],
        device=choose_device(arguments["device"]),
        where=arguments["features"],
        allow_duplicates=arguments["allow_duplicates"],
    )
    allow_recipe = arguments["allow_recipe"]
    return [load_subject(n, store, reading, options=arguments["options"], allow_recipe=allow_recipe) for n in names]


def _plans(terms: dict[str, Any], arguments: dict[str, Any]) -> "list[Plan]":
    from fsar.heads.episodes.sampler import EpisodeShape
    from fsar.heads.evaluation.protocol import ORDER_EPISODES, Plan

    return [
        Plan(
            EpisodeShape(terms["way"], shot, parse_counts("query", arguments["query"])),
            n_episodes=arguments["episodes"],
            part=terms["part"],
            seed=arguments["seed"],
            file=arguments["episodes_file"],
            drop_small_classes=arguments["drop_small_classes"],
            order_episodes=ORDER_EPISODES if arguments["order"] else 0,
        )
        for shot in terms["shots"]
    ]


def _save_episodes(planned: "Planned", path: Path) -> None:
    from fsar.heads.episodes.saved_list import save_list

    save_list(planned.listed, path)


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
    from fsar.heads.evaluation.report import explanations

    for note in dict.fromkeys(note for result in results for note in result["notes"]):
        click.echo(f"note: {note}", err=True)
    for line in explanations(results):
        click.echo(line, err=True)


def main() -> None:
    """Entry point of `fsar-eval-head`."""
    run_command(command, "fsar-eval-head")


if __name__ == "__main__":
    main()
