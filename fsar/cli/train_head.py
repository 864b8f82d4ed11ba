"""`fsar-train-head`: train a head on a store's features and test it."""

from typing import Any

import click

from fsar.cli.cluster import (
    Assignment,
    ClusterChoice,
    ClusterCommand,
    cluster_options,
    launch_dry_run,
    run_elsewhere,
    typed_arguments,
)
from fsar.cli.common import echo, json_option, run_command, summary
from fsar.cli.lean_imports import leave_out_compiler
from fsar.cli.options import opened, settings_options, store_option
from fsar.errors import InputError
from fsar.heads.finetune.settings import FinetuneSettings


@click.command(cls=ClusterCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("head")
@store_option(required=False)
@settings_options(FinetuneSettings, without=("head", "store"))
@click.option(
    "--list-heads",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda context, _, asked: _list_heads(context) if asked else None,
    help="List heads, their options and presets.",
)
@launch_dry_run
@cluster_options
@json_option
def command(as_json: bool, cluster: ClusterChoice | None, dry_run: bool, **settings: Any) -> int | None:
    """Train HEAD on a feature store, select on the validation part, test on the test part.

    With --finetune the backbone trains as well, on frames of --videos; with --finetune last:N its last blocks, on
    tokens of the store.

    An interrupted run goes on when the same command is given again, with the same final weights. --cluster trains
    each seed of --seeds in a process of its own.

    \b
    Examples:
      fsar-train-head otam --store ssv2.zarr --split ssv2-cmn --way 5 --shot 1 -o adapter=temporal
      fsar-train-head trx --store ssv2.zarr --split ssv2-otam --shot 5 --preset published --seeds 0,1,2
      fsar-train-head trx --finetune torchvision:resnet50/IMAGENET1K_V1 --videos ssv2.frames --split ssv2-otam
    """  # noqa: D301 (click reads the backspace)
    chosen = FinetuneSettings(**settings)
    if chosen.store is not None:
        chosen = opened(chosen, chosen.store)
    if cluster:
        ended = run_elsewhere(cluster, _work(chosen), dry_run=dry_run, as_json=as_json, quiet=chosen.quiet)
        if ended is not None:
            return ended
    from fsar.heads.finetune.setup import prepare
    from fsar.heads.training.train_head import train_head

    trained = train_head(chosen, prepare=prepare)
    if trained.results:  # the first of several processes
        summary(trained.to_dict(), trained.to_text(), as_json=as_json)
    return None


def _work(settings: FinetuneSettings) -> Assignment:
    """Return a command for each seed, which makes the run that this one would make."""
    from fsar.cluster.runs import Runs
    from fsar.heads.run_folder import RESULT

    out, seeds = settings.out, settings.seeds or (settings.seed,)
    if out is None:
        raise InputError("--cluster needs --out: a folder on a disk that all workers share")
    folders = [out / f"seed-{seed}" for seed in seeds] if len(seeds) > 1 else [out]
    typed = typed_arguments(without=("--seed", "--seeds", "--out"))
    lines = [[*typed, "--seed", str(seed), "--out", str(at)] for seed, at in zip(seeds, folders, strict=True)]
    work = Runs([folder / RESULT for folder in folders])
    return Assignment(("fsar-train-head", "fsar.cli.train_head"), lines, out, work, "train", "runs")


def _list_heads(context: click.Context) -> None:
    echo(_describe_heads())
    context.exit()


def _describe_heads() -> str:
    from fsar.heads import list_heads
    from fsar.heads.head import head_type
    from fsar.heads.recipes.presets import list_presets
    from fsar.heads.setup.options import option_types

    lines = []
    for name in list_heads():
        paper = " ".join(head_type(name).paper.split())
        lines.append(f"{name}: {paper}" if paper else name)
        lines.append(f"    options: {', '.join(option_types(name)) or '(none)'}")
        lines.append(f"    presets: {', '.join(list_presets(name))}")
    return "\n".join(lines)


def main() -> None:
    """Entry point of `fsar-train-head`."""
    leave_out_compiler(keep_shapes=True)
    run_command(command, "fsar-train-head")


if __name__ == "__main__":
    main()
