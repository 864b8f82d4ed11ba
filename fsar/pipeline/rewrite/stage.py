"""What convert and extract share: rewrite every video of a catalog into a folder that keeps account of itself."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from fsar.pipeline.catalog.catalog import Catalog, CatalogRow
from fsar.pipeline.jobs.run import Outcome, stream_jobs
from fsar.pipeline.rewrite.folder import OutputFolder
from fsar.pipeline.rewrite.record import Record
from fsar.pipeline.rewrite.report import RewriteReport
from fsar.pipeline.rewrite.session import Batch, Session
from fsar.pipeline.rewrite.watch import RewriteWatch
from fsar.progress import Advance, progress

Settings = TypeVar("Settings")

POLL_SECONDS = 1.0
"""How often to look again at a folder in which others have the rest in hand."""


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
class How:
    """How a process works; nothing of it decides the bytes."""

    n_jobs: int = 1
    quiet: bool = False
    timeout_seconds: float | None = None


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
        rows = (row for row in catalog.rows if not folder.is_done(folder.records.get(row.video_id), row.path))
        return [Task(row, folder.folder.absolute(), settings) for row in rows]

    def watch(self, catalog: Catalog, out: Path, settings: Settings) -> RewriteWatch:
        """Return one who sees how far other processes are that `run` the same, after the same checks."""
        return RewriteWatch(self._folder(catalog, out, settings), catalog)

    def run(self, catalog: Catalog, out: Path, settings: Settings, how: How) -> RewriteReport:
        """Rewrite every video and write catalog.csv and failures.csv.

        Any number of processes may do so at once, on one machine or on several that share the folder: they share the
        videos in batches, each stays until all are done, and the folder ends with the same bytes as after one process.
        Outputs that an earlier run finished are recognised by its journal without decoding; an output whose source has
        changed is made again. A folder with other settings or foreign files, or in which others are at work on another
        list of videos, is refused. Each finished output is journalled at once.
        """
        folder = self._folder(catalog, out, settings)
        n_done, failures = 0, None
        while failures is None:  # once, unless others take this process for dead and begin anew
            with folder.join(catalog.rows) as session:
                n_done += self._work(_Work(folder, session, settings), how)
                failures = folder.close(session, catalog)
        n_kept = len(catalog.rows) - n_done - len(failures)
        return RewriteReport(n_done, n_kept, failures, folder.catalog_path)

    def _work(self, work: "_Work[Settings]", how: How) -> int:
        """Work until every video of the session is done, by anyone; return how many were done here."""
        n_done = 0
        with progress(self.name, work.n_videos, n_done=len(work.known), quiet=how.quiet) as advance:
            while work.session.pending():
                with stream_jobs(
                    self.name,
                    work.tasks(advance),
                    self.rewrite,
                    n_jobs=how.n_jobs,
                    key=_video_id,
                    workspace=work.out,
                    timeout_seconds=how.timeout_seconds,
                ) as outcomes:
                    for _, outcome in outcomes:
                        work.keep(outcome, advance)
                        n_done += outcome.failure is None
                if work.session.pending():  # others have the rest; should they die, it can be claimed
                    time.sleep(POLL_SECONDS)
        return n_done

    def _folder(self, catalog: Catalog, out: Path, settings: Settings) -> OutputFolder:
        self.check(catalog, settings)
        return OutputFolder(out, self.name, asdict(settings))  # type: ignore[call-overload]


class _Work(Generic[Settings]):
    """What is left to do in a session, claimed as it is needed."""

    def __init__(self, folder: OutputFolder, session: Session, settings: Settings) -> None:
        self.session, self._folder, self._settings = session, folder, settings
        # Absolute, for worker processes that stand in another folder.
        self.out = folder.folder.absolute()
        self.n_videos = len(session.rows)
        self.known = {row.video_id for row in session.rows} & folder.records.keys()
        """Ids that count as done from the start."""

    def tasks(self, advance: Advance) -> Iterator[Task[Settings]]:
        """Yield the videos that have no finished output yet, batch by batch, until others have all the rest."""
        while (batch := self.session.claim()) is not None:
            advance(sum(row.video_id not in self.known for row in self.session.done_elsewhere()))
            todo = [row for row in batch.rows if not self._is_kept(row, batch)]
            self.session.finish(batch)
            yield from (Task(row, self.out, self._settings) for row in todo)

    def keep(self, outcome: Outcome[Record], advance: Advance) -> None:
        """Note what became of a task."""
        self.session.keep(outcome)
        advance(outcome.key not in self.known)

    def _is_kept(self, row: CatalogRow, batch: Batch) -> bool:
        """Tell whether a finished output is there, made by whoever had the batch before or in an earlier run."""
        record = batch.records.pop(row.video_id, None) or self._folder.records.get(row.video_id)
        if record is None or not self._folder.is_done(record, row.path):
            return False
        batch.records[row.video_id] = record
        return True


def _video_id(task: Task[Any]) -> str:
    return task.row.video_id
