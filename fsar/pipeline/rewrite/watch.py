"""How far the processes are that rewrite videos into one folder, seen by one that does not take part."""

from pathlib import Path

from fsar.pipeline.catalog.catalog import Catalog
from fsar.pipeline.rewrite.folder import LOCK, OutputFolder, read_failures
from fsar.pipeline.rewrite.record import read_records
from fsar.pipeline.rewrite.report import RewriteReport
from fsar.pipeline.rewrite.session import free_worker, read_results, result_names, sessions
from fsar.pipeline.store.journal.claims import free_claims_of


class RewriteWatch:
    """Counts the finished videos of a catalog; each look reads what is new since the last one.

    What an earlier run lists as failed is not done: it is tried again.
    """

    def __init__(self, folder: OutputFolder, catalog: Catalog) -> None:
        folder.check()
        self._folder, self._ids = folder, {row.video_id for row in catalog.rows}
        kept = (row for row in catalog.rows if folder.is_done(folder.records.get(row.video_id), row.path))
        self._done = {row.video_id for row in kept}
        self.n_before = len(self._done)
        self._read: set[tuple[Path, str]] = set()
        self._tables_before = _signature(folder.catalog_path)

    def n_done(self) -> int:
        """Return how many videos have their output, or failed in the runs that are watched."""
        for session in sessions(self._folder.work):
            new = [name for name in result_names(session) if (session, name) not in self._read]
            records, failures = read_results(session, new)
            self._done |= self._ids & {record.video_id for record in records}
            self._done |= self._ids & {failure.video_id for failure in failures}
            self._read |= {(session, name) for name in new}
        if self.is_closed():
            failed = {failure.video_id for failure in read_failures(self._folder.failures_path)}
            self._done |= self._ids & (failed | read_records(self._folder.journal_path).keys())
        return len(self._done)

    def is_closed(self) -> bool:
        """Return whether the tables have been written since this began."""
        return _signature(self._folder.catalog_path) != self._tables_before

    def free(self, worker: str) -> None:
        """Free what a worker held that has ended: batches, and the right to begin or end a session."""
        free_claims_of(self._folder.work / LOCK, worker)
        for session in sessions(self._folder.work):
            free_worker(session, worker)

    def report(self) -> RewriteReport:
        """Return what the processes did, once they have ended."""
        failures = [each for each in read_failures(self._folder.failures_path) if each.video_id in self._ids]
        n_new = len(self._ids) - self.n_before - len(failures)
        return RewriteReport(n_new, self.n_before, failures, self._folder.catalog_path)


def _signature(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_size
