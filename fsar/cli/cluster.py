"""Commands on a cluster: the options, and the same command in many processes."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, echo, summary
from fsar.errors import InputError, count_of

if TYPE_CHECKING:
    from fsar.cluster.launch import Launch, Work

ARGUMENTS = "fsar.arguments"
"""Where a command's context keeps what was typed after the command's name."""
WITH_VALUE, FLAGS = ("--cluster", "--slurm", "--resource"), ("--cancel", "--dry-run", "--json")
"""What the launcher takes for itself, and the workers do not get."""


class ClusterCommand(click.Command):
    """A command that can start itself in other places: it keeps what was typed."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and keep a copy."""
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


def cluster_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--cluster` and what goes with it: the function gets all as one `cluster`, a `ClusterChoice` or None."""

    @functools.wraps(function)
    def called(
        *arguments: Any,
        cluster: str | None,
        slurm: tuple[str, ...],
        resource: tuple[str, ...],
        cancel: bool,
        **rest: Any,
    ) -> Any:
        chosen = ClusterChoice.of(cluster, slurm, resource, cancel=cancel)
        return function(*arguments, cluster=chosen, **rest)

    for option in (
        click.option("--cancel", is_flag=True, help="End the workers that the same command started on --cluster."),
        click.option(
            "--resource",
            multiple=True,
            metavar="KEY=AMOUNT",
            help="What a worker needs of Dask's or Ray's resources: GPU=1; repeatable.",
        ),
        click.option("--slurm", multiple=True, metavar="KEY=VALUE", help="Option of sbatch, verbatim; repeatable."),
        click.option(
            "--cluster",
            metavar="ENGINE",
            help="Start --workers processes: local, slurm, dask=ADDRESS or ray=ADDRESS.",
        ),
    ):
        option(called)
    return called


@dataclass(frozen=True)
class ClusterChoice:
    """Where workers are to run."""

    cluster: str
    slurm: dict[str, str]
    resources: dict[str, str]
    cancel: bool

    @classmethod
    def of(
        cls, cluster: str | None, slurm: Sequence[str], resources: Sequence[str], *, cancel: bool
    ) -> "ClusterChoice | None":
        """Return what the options say, None where the command runs here. Raises InputError when they do not fit."""
        if cluster is None:
            for name, given in (("--slurm", slurm), ("--resource", resources), ("--cancel", cancel)):
                if given:
                    raise InputError(f"{name} needs --cluster")
            return None
        return cls(cluster, _pairs(slurm), _pairs(resources), cancel)


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (text.removeprefix("--").partition("=") for text in texts)}


def prepare_launch(
    choice: ClusterChoice,
    program: tuple[str, str],
    arguments: Sequence[Sequence[str]],
    out: Path,
    work: "Work",
) -> "Launch":
    """Return a launch that is not begun.

    Args:
        choice: where.
        program: what is called, and the module with its `main`.
        arguments: of each worker.
        out: what the workers make; logs go to a folder beside it.
        work: what is left to do.
    """
    from fsar.cluster.engine import Task
    from fsar.cluster.engines import open_engine
    from fsar.cluster.launch import Launch, new_name

    engine, name, folder = open_engine(choice.cluster, choice.slurm, choice.resources), new_name(), workers_folder(out)
    tasks = [
        Task(index, name, program, tuple(line), folder, Path.cwd().absolute()) for index, line in enumerate(arguments)
    ]
    return Launch(engine, choice.cluster, tasks, work)


def workers_folder(out: Path) -> Path:
    """Return the folder of logs of the workers that make `out`."""
    return out.absolute().with_name(f"{out.name}.workers")


def show_script(launch: "Launch", *, as_json: bool) -> int:
    """Print what would be started."""
    script = launch.engine.script(launch.tasks)
    data = {"script": script, "workers": len(launch.tasks), "cluster": launch.cluster, "folder": str(launch.folder)}
    summary(data, script.rstrip("\n"), as_json=as_json)
    return EXIT_DONE


def cancel_launch(launch: "Launch", *, as_json: bool) -> int:
    """End the workers of an earlier launch, and wait until they have given back what they held."""
    n_cancelled = launch.cancel() if launch.find() else 0
    if n_cancelled:
        launch.wait()
        for worker in launch.workers:
            launch.work.ended(worker.task)
    text = f"{count_of(n_cancelled, 'worker')} ended; what was finished is kept"
    summary({"cancelled": n_cancelled, "folder": str(launch.folder)}, text, as_json=as_json)
    return EXIT_DONE


def see_through(launch: "Launch", label: str, n_items: int, *, unit: str = "videos", quiet: bool = False) -> bool:
    """Start or find the workers and wait for them; list their logs; return whether everything is done."""
    from fsar.progress import progress

    found = launch.begin()
    began = "attached to" if found else "started"
    with launch.left_at_work():
        echo(
            f"{began} {count_of(len(launch.workers), 'worker')} of {launch.cluster}; logs in {launch.folder}", err=True
        )
        with progress(label, n_items, n_done=launch.work.n_done(), unit=unit, quiet=quiet) as advance:
            done = launch.watch(advance)
    for worker in launch.workers:
        echo(worker.to_text(), err=True)
    return done


def typed_arguments(*, without: Sequence[str] = ()) -> list[str]:
    """Return what was typed after a command's name, without what is for the launcher; `without` names more options
    that have a value.
    """
    typed, kept = iter(click.get_current_context().meta[ARGUMENTS]), []
    with_value = (*WITH_VALUE, *without)
    for word in typed:
        if word in with_value:
            next(typed, None)
        elif word not in FLAGS and not word.startswith(tuple(f"{name}=" for name in with_value)):
            kept.append(word)
    return kept
