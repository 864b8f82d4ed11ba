"""Commands on a cluster: the options, and the same command in many processes."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, echo, summary
from fsar.errors import InputError, count_of

if TYPE_CHECKING:
    from fsar.cluster.filling import Journal
    from fsar.cluster.launch import Launch, Work

PREP = ("fsar-prep", "fsar.cli.prep")
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
            help="Work in other processes: local, slurm, dask=ADDRESS or ray=ADDRESS.",
        ),
    ):
        option(called)
    return called


def shared_work_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `cluster_options` and `--workers`: of them the function gets only `cluster`, which knows their number."""

    @functools.wraps(function)
    def called(*arguments: Any, cluster: "ClusterChoice | None", workers: int | None, **rest: Any) -> Any:
        if workers is not None and cluster is None:
            raise InputError("--workers needs --cluster; without it, start this command as often as you like")
        chosen = None if cluster is None else replace(cluster, n_workers=workers or 1)
        return function(*arguments, cluster=chosen, **rest)

    click.option(
        "--workers", type=click.IntRange(1, 4096), help="Processes to start with --cluster; they share the work [1]."
    )(called)
    return cluster_options(called)


@dataclass(frozen=True)
class ClusterChoice:
    """Where workers are to run."""

    cluster: str
    slurm: dict[str, str]
    resources: dict[str, str]
    cancel: bool
    n_workers: int = 1

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


def launch_dry_run(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--dry-run` to a command that has none of its own."""

    @functools.wraps(function)
    def called(*arguments: Any, cluster: "ClusterChoice | None", dry_run: bool, **rest: Any) -> Any:
        if dry_run and cluster is None:
            raise InputError("--dry-run needs --cluster: it prints what would be started there")
        return function(*arguments, cluster=cluster, dry_run=dry_run, **rest)

    return click.option("--dry-run", is_flag=True, help="With --cluster: print what would be started, and stop.")(
        called
    )


@dataclass(frozen=True)
class Assignment:
    """What workers are to do."""

    program: tuple[str, str]
    """What is called, and the module with its `main`."""
    lines: Sequence[Sequence[str]]
    """Arguments of each worker."""
    out: Path
    """What they make; logs go to a folder beside it."""
    work: "Work"
    label: str
    unit: str = "videos"


def shared_work(
    program: tuple[str, str],
    name: str,
    out: Path,
    journal: "Journal",
    n_items: int,
    n_workers: int,
    *,
    until_closed: bool = True,
) -> Assignment:
    """Return the work that any number of processes share which run the command `name` as it was typed.

    Args:
        program: what is called, and the module with its `main`.
        name: of the command.
        out: what is made.
        journal: tells what is left.
        n_items: how many videos there are.
        n_workers: how many processes.
        until_closed: the workers write the end, too.
    """
    from fsar.cluster.filling import Filling

    work = Filling(journal, n_items, until_closed=until_closed)
    return Assignment(program, [[name, *typed_arguments(without=("--workers",))]] * n_workers, out, work, name)


def run_elsewhere(
    choice: ClusterChoice,
    assigned: Assignment,
    *,
    dry_run: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    before: Callable[[], Any] = lambda: None,
) -> int | None:
    """Do what `--cluster` asks for.

    Args:
        choice: where.
        assigned: what.
        dry_run: print what would be started, and no more.
        as_json: print summaries as JSON.
        quiet: show no progress.
        before: makes what the workers need.

    Returns:
        An exit code, or None when the workers have done everything: the caller has the last word.

    Raises:
        InputError: all workers have ended with work left.
    """
    launch = _prepare(choice, assigned)
    if choice.cancel:
        return cancel_launch(launch, as_json=as_json)
    if dry_run:
        return show_script(launch, as_json=as_json)
    before()
    see_through(launch, assigned, quiet=quiet)
    n_left = assigned.work.n_left()
    if n_left:
        raise InputError(
            f"{n_left} of {count_of(assigned.work.n_items, assigned.unit[:-1])} not done: all workers have ended, see "
            f"their logs in {launch.folder}; run the same command again to go on"
        )
    return None


def _prepare(choice: ClusterChoice, assigned: Assignment) -> "Launch":
    from fsar.cluster.engine import Task
    from fsar.cluster.engines import open_engine
    from fsar.cluster.launch import Launch, new_name

    engine, name = open_engine(choice.cluster, choice.slurm, choice.resources), new_name()
    folder, cwd = workers_folder(assigned.out), Path.cwd().absolute()
    tasks = [Task(i, name, assigned.program, tuple(line), folder, cwd) for i, line in enumerate(assigned.lines)]
    return Launch(engine, choice.cluster, tasks, assigned.work)


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
    with redirect_stdout(sys.stderr), closing(launch.engine):
        n_cancelled = launch.cancel() if launch.find() else 0
        if n_cancelled:
            launch.wait()
            for worker in launch.workers:
                launch.work.ended(worker.task)
    text = f"{count_of(n_cancelled, 'worker')} ended; what was finished is kept"
    summary({"cancelled": n_cancelled, "folder": str(launch.folder)}, text, as_json=as_json)
    return EXIT_DONE


def see_through(launch: "Launch", assigned: Assignment, *, quiet: bool) -> None:
    """Start or find the workers and wait for them; list their logs."""
    from fsar.progress import progress

    # Ray tells what happens to its processes on stdout, which is for summaries.
    with redirect_stdout(sys.stderr), closing(launch.engine), launch.left_at_work():
        began = "attached to" if launch.begin() else "started"
        n_workers = count_of(len(launch.workers), "worker")
        echo(f"{began} {n_workers} of {launch.cluster}; logs in {launch.folder}", err=True)
        n_items, n_done = assigned.work.n_items, assigned.work.n_done()
        with progress(assigned.label, n_items, n_done=n_done, unit=assigned.unit, quiet=quiet) as advance:
            launch.watch(advance)
    for worker in launch.workers:
        echo(worker.to_text(), err=True)


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
    return [*kept, "--allow-http"] if os.environ.get("FSAR_ALLOW_HTTP") else kept
