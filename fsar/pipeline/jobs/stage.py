"""What convert and extract share: run the unfinished videos into a folder that keeps account of itself."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.jobs.folder import OutputFolder, Record
from fsar.pipeline.jobs.run import Failure, Outcome, run_jobs, write_failures


class VideoTask(Protocol):
    """One video of a stage."""

    @property
    def row(self) -> CatalogRow: ...  # noqa: D102


Task = TypeVar("Task", bound=VideoTask)


def run_stage(
    folder: OutputFolder,
    catalog: Catalog,
    todo: Sequence[Task],
    function: Callable[[Task], Record],
    *,
    n_jobs: int,
    quiet: bool,
    timeout_seconds: float | None,
) -> tuple[list[Failure], Path]:
    """Do `function` for every task; return the failures and the path of the catalog of all finished outputs.

    `folder` must be claimed. Each finished output is journalled at once; failures.csv and catalog.csv are written to it
    at the end.
    """

    def keep(outcome: Outcome[Record]) -> None:
        if outcome.value is not None:
            folder.add(outcome.value)

    outcomes = run_jobs(
        folder.stage,
        todo,
        function,
        n_jobs=n_jobs,
        key=lambda task: task.row.video_id,
        quiet=quiet,
        workspace=folder.folder,
        timeout_seconds=timeout_seconds,
        on_outcome=keep,
    )
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    folder.finish()
    write_failures(folder.folder / "failures.csv", failures)
    path = folder.folder / "catalog.csv"
    write_catalog(folder.catalog(catalog, without={failure.video_id for failure in failures}), path)
    return failures, path
