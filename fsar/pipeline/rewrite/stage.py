"""What convert and extract share: rewrite every video of a catalog into a folder that keeps account of itself."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow, write_catalog
from fsar.pipeline.jobs.folder import OutputFolder, Record
from fsar.pipeline.jobs.run import Failure, Outcome, run_jobs, write_failures

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Task(Generic[Settings]):
    """One video to rewrite."""

    row: CatalogRow
    out: Path
    settings: Settings

    @property
    def path(self) -> Path:
        """The source, as failures list it."""
        return self.row.path


@dataclass(frozen=True)
class RewriteReport:
    """What a run did."""

    done: int
    kept: int
    """Videos that an earlier run had finished."""
    failures: list[Failure]
    catalog: Path
    """The catalog of the rewritten videos, for the next stage."""


def _nothing(catalog: Catalog, settings: Any) -> None:
    pass


@dataclass(frozen=True)
class Stage(Generic[Settings]):
    """One way to rewrite videos. `rewrite` runs in a worker process and must be importable there."""

    name: str
    rewrite: Callable[[Task[Settings]], Record]
    check: Callable[[Catalog, Settings], None] = _nothing
    """Raises `InputError` for a catalog that cannot be rewritten with these settings."""

    def plan(self, catalog: Catalog, out: Path, settings: Settings) -> list[Task[Settings]]:
        """Return what `run` would do, after the same checks; nothing is written."""
        folder = self._folder(catalog, out, settings)
        folder.check()
        return _unfinished(catalog, folder, settings)

    def run(
        self,
        catalog: Catalog,
        out: Path,
        settings: Settings,
        *,
        n_jobs: int,
        quiet: bool,
        timeout_seconds: float | None,
    ) -> RewriteReport:
        """Rewrite every video and write catalog.csv and failures.csv.

        Outputs that an earlier run finished are recognised by its journal without decoding; an output whose source has
        changed is made again. A folder with other settings or foreign files, or that another run is writing to, is
        refused. Each finished output is journalled at once.
        """
        folder = self._folder(catalog, out, settings)
        with folder.claim():
            todo = _unfinished(catalog, folder, settings)
            outcomes = run_jobs(
                self.name,
                todo,
                self.rewrite,
                n_jobs=n_jobs,
                key=_video_id,
                quiet=quiet,
                workspace=out.absolute(),
                timeout_seconds=timeout_seconds,
                on_outcome=lambda outcome: _keep(folder, outcome),
            )
            failures = [outcome.failure for outcome in outcomes if outcome.failure]
            path = _close(folder, catalog, failures)
        return RewriteReport(len(todo) - len(failures), len(catalog.rows) - len(todo), failures, path)

    def _folder(self, catalog: Catalog, out: Path, settings: Settings) -> OutputFolder:
        self.check(catalog, settings)
        return OutputFolder(out, self.name, asdict(settings))  # type: ignore[call-overload]


def _video_id(task: Task[Any]) -> str:
    return task.row.video_id


def _unfinished(catalog: Catalog, folder: OutputFolder, settings: Settings) -> list[Task[Settings]]:
    rows = (row for row in catalog.rows if not folder.is_done(row.video_id, row.path))
    # Absolute, for worker processes that outlive a run and stand in the folder in which they were started.
    return [Task(row, folder.folder.absolute(), settings) for row in rows]


def _keep(folder: OutputFolder, outcome: Outcome[Record]) -> None:
    if outcome.value is not None:
        folder.add(outcome.value)


def _close(folder: OutputFolder, catalog: Catalog, failures: list[Failure]) -> Path:
    """Put the journal in order, write the tables and return the catalog's path."""
    folder.finish()
    write_failures(folder.folder / "failures.csv", failures)
    path = folder.folder / "catalog.csv"
    write_catalog(folder.catalog(catalog, without={failure.video_id for failure in failures}), path)
    return path
