"""`fsar-train-head`: train a head on a store's features and test it."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import json_option, run_command, summary
from fsar.cli.head_options import choose_device, parse_counts, parse_list, parse_taps, refuse_given, store_options
from fsar.cli.store_address import open_any
from fsar.errors import InputError

if TYPE_CHECKING:
    from fsar.heads.recipes.presets import Preset


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("head")
@store_options
@click.option("--way", default=5, show_default=True, help="Classes per episode.")
@click.option("--shot", default="1", show_default=True, help="Supports per class; 1,5,2,1,1 for unequal ones.")
@click.option("--query", default=None, help="Queries per class in training. [default: of the preset]")
@click.option("--unlabelled", default=0, show_default=True, help="Unlabelled videos per class, for semi-supervision.")
@click.option("--option", "-o", "options", multiple=True, metavar="KEY=VALUE", help="Option of the head; repeatable.")
@click.option("--preset", default="cached", show_default=True, help="Training recipe; `published` for the head's own.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps. [default: of the preset]")
@click.option("--episodes", type=click.IntRange(min=1), help="Training episodes, instead of --steps.")
@click.option("--episodes-per-step", type=click.IntRange(min=1), help="Episodes of one step. [default: of the preset]")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate. [default: of the preset]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, episodes, dropout.")
@click.option("--seeds", help="Several seeds in one call, like 0,1,2: a run each, then mean and spread.")
@click.option(
    "--val-episodes",
    default=200,
    show_default=True,
    type=click.IntRange(min=0),
    help="Episodes of a validation; 0 for none.",
)
@click.option(
    "--validate-every", type=click.IntRange(min=1), help="Steps. [default: a twentieth of the training, at least 10]"
)
@click.option(
    "--patience",
    default=10,
    show_default=True,
    type=click.IntRange(min=0),
    help="Validations without a better one; 0: never stop early.",
)
@click.option(
    "--val-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Hold this share of the training classes out for validation, where the split has no val part.",
)
@click.option("--amp", is_flag=True, help="Compute in bfloat16 where it is safe.")
@click.option(
    "--test-episodes",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="Episodes of the final test; --no-test for none.",
)
@click.option("--test-query", default="1", show_default=True, help="Queries per class in the test.")
@click.option("--test-seed", default=0, show_default=True, help="Of the test episodes; the same for all seeds.")
@click.option("--episodes-file", type=click.Path(path_type=Path), help="Saved list of test episodes.")
@click.option("--no-test", is_flag=True, help="Train only.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. [default: runs/<time>-<head>-<split>]")
@click.option(
    "--list-heads",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, asked: _list_heads(context) if asked else None,
    help="List heads, their options and presets.",
)
@json_option
def command(**arguments: Any) -> None:
    """Train HEAD on a feature store, select on the validation part, test on the test part.

    An interrupted run goes on when the same command is given again, with the same final weights.

    \b
    Examples:
      fsar-train-head otam --store ssv2.zarr --split ssv2-cmn --way 5 --shot 1 -o adapter=temporal
      fsar-train-head trx --store ssv2.zarr --split ssv2-otam --shot 5 --preset published --seeds 0,1,2
    """  # noqa: D301 (click reads the backspace)
    _train(arguments)


def _train(arguments: dict[str, Any]) -> None:
    from fsar.heads.evaluation.report import table
    from fsar.heads.training.experiment import run

    seeds = parse_list("seeds", arguments["seeds"]) if arguments["seeds"] else [arguments["seed"]]
    experiment = _experiment(arguments)
    out: Path | None = arguments["out"]
    results, folders = [], []
    for seed in seeds:
        folder = out / f"seed-{seed}" if out and len(seeds) > 1 else out
        run_folder, result = run(dataclasses.replace(experiment, seed=seed, notes=[]), folder, quiet=arguments["quiet"])
        results.append(result)
        folders.append(str(run_folder.path))
    data: dict[str, Any] = {"runs": folders, "results": results}
    lines = [table([{**r, "label": f"{r['head']} seed {r['seed']}"} for r in results])]
    lines += list(dict.fromkeys(f"note: {note}" for result in results for note in result["notes"]))
    if len(seeds) > 1:
        data["seeds"] = _spread(results)
        lines.append(f"mean of {len(seeds)} seeds: {_percent(data['seeds'])}")
    lines.append("written to " + ", ".join(folders))
    summary(data, "\n".join(lines), as_json=arguments["as_json"])


def _spread(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation (ddof 1) over seeds: the spread of training, not of the episodes."""
    import statistics

    accuracies = [result["accuracy"] for result in results if result["accuracy"] is not None]
    if len(accuracies) < 2:
        return {"mean": None, "std": None, "n_seeds": len(results)}
    return {"mean": statistics.mean(accuracies), "std": statistics.stdev(accuracies), "n_seeds": len(accuracies)}


def _percent(spread: dict[str, Any]) -> str:
    from fsar.heads.evaluation.report import percent

    return f"{percent(spread['mean'])} %, standard deviation {percent(spread['std'])}"


def _experiment(arguments: dict[str, Any]) -> Any:
    from fsar.heads.episodes.sampler import EpisodeShape
    from fsar.heads.evaluation.protocol import Plan
    from fsar.heads.setup.options import parse_options
    from fsar.heads.setup.task import make_task
    from fsar.heads.training.experiment import Experiment

    if arguments["episodes_file"]:
        refuse_given(("test_episodes", "test_query", "test_seed"), "--episodes-file lists the test episodes")
    name = arguments["head"]
    options = parse_options(name, arguments["options"])
    task = make_task(
        name,
        open_any(arguments["store"], quiet=arguments["quiet"]),
        split=arguments["split"],
        taps=parse_taps(arguments["taps"]),
        text=arguments["text"],
        n_frames=arguments["frames"],
        device=choose_device(arguments["device"]),
        where=arguments["features"],
        val_share=arguments["val_share"],
        allow_duplicates=arguments["allow_duplicates"],
    )
    shot = parse_counts("shot", arguments["shot"], at_least=1)
    preset = _preset(arguments, task.parts.name, shot if isinstance(shot, int) else max(shot))
    query = preset.n_query if arguments["query"] is None else parse_counts("query", arguments["query"])
    plan = Plan(
        EpisodeShape(arguments["way"], shot, parse_counts("test-query", arguments["test_query"])),
        n_episodes=arguments["test_episodes"],
        seed=arguments["test_seed"],
        file=arguments["episodes_file"],
        drop_small_classes=arguments["drop_small_classes"],
    )
    return Experiment(
        task=task,
        options=options,
        shape=EpisodeShape(arguments["way"], shot, query, arguments["unlabelled"]),
        test=None if arguments["no_test"] else plan,
        preset=preset,
        val_episodes=arguments["val_episodes"],
        validate_every=arguments["validate_every"],
        patience=arguments["patience"],
        amp=arguments["amp"],
        drop_small_classes=arguments["drop_small_classes"],
    )


def _preset(arguments: dict[str, Any], split: str, n_shot: int) -> "Preset":
    """Return the recipe with what the user changed; a changed length stretches the schedule of `cached`."""
    from fsar.heads.head import head_type
    from fsar.heads.recipes.presets import get_preset

    if arguments["steps"] and arguments["episodes"]:
        raise InputError("give --steps or --episodes, not both")
    if arguments["lr"] is not None and not math.isfinite(arguments["lr"]):
        raise InputError(f"--lr must be a number, got {arguments['lr']}")
    preset = get_preset(arguments["preset"], arguments["head"], split, n_shot=n_shot)
    if head_type(arguments["head"]).training_unit == "pairs":
        preset = preset.of_pairs()
        refuse_given(("query", "episodes_per_step"), f"head {arguments['head']!r} trains on pairs of videos")
    changes = {"lr": arguments["lr"], "episodes_per_step": arguments["episodes_per_step"]}
    preset = dataclasses.replace(preset, **{key: value for key, value in changes.items() if value is not None})
    n_episodes = arguments["episodes"] or (arguments["steps"] or 0) * preset.episodes_per_step
    return dataclasses.replace(preset, n_episodes=n_episodes) if n_episodes else preset


def _list_heads(context: click.Context) -> None:
    click.echo(_describe_heads())
    context.exit()


def _describe_heads() -> str:
    from fsar.heads import list_heads
    from fsar.heads.head import head_type
    from fsar.heads.recipes.presets import list_presets
    from fsar.heads.setup.options import option_types

    lines = []
    for name in list_heads():
        lines.append(f"{name}: {head_type(name).paper}")
        lines.append(f"    options: {', '.join(option_types(name)) or '(none)'}")
        lines.append(f"    presets: {', '.join(list_presets(name))}")
    return "\n".join(lines)


def main() -> None:
    """Entry point of `fsar-train-head`."""
    run_command(command, "fsar-train-head")


if __name__ == "__main__":
    main()
