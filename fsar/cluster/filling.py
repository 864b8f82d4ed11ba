"""Work that all workers share: what is left of it tells a journal on the disk, and every worker can do it."""

from typing import Protocol

from fsar.cluster.engine import Task
from fsar.pipeline.store.format.files import CLAIMS, StoreFiles
from fsar.pipeline.store.journal.claims import free_claims_of
from fsar.pipeline.store.journal.manifest import is_sealed
from fsar.pipeline.store.journal.records import stored_rows


class Journal(Protocol):
    """What workers leave behind as they go on."""

    def n_done(self) -> int:
        """Return how many items are finished."""
        ...

    def is_closed(self) -> bool:
        """Return whether the end is written, too."""
        ...

    def free(self, worker: str) -> None:
        """Free what a worker held that has ended."""
        ...


class StoreJournal:
    """Of a feature store, or of a pack of frames."""

    def __init__(self, files: StoreFiles) -> None:
        self._files = files

    def n_done(self) -> int:
        """Return how many videos are committed."""
        return sum(stored_rows(self._files).values())

    def is_closed(self) -> bool:
        """Return whether it is sealed."""
        return is_sealed(self._files)

    def free(self, worker: str) -> None:
        """Free the chunks that a worker has claimed."""
        free_claims_of(self._files.folder(CLAIMS), worker)


class Filling:
    """The work of filling one place with a number of items."""

    def __init__(self, journal: Journal, n_items: int, *, until_closed: bool = False) -> None:
        self._journal, self.n_items, self._until_closed = journal, n_items, until_closed

    def n_done(self) -> int:
        """Return how many items are finished."""
        return self._journal.n_done()

    def n_left(self) -> int:
        """Return how many are not."""
        return self.n_items - self.n_done()

    def is_left(self, task: Task) -> bool:
        """Return whether an item is not finished, or the end not written."""
        return self.n_left() > 0 or (self._until_closed and not self._journal.is_closed())

    def ended(self, task: Task) -> None:
        """Free what a worker held."""
        self._journal.free(task.name)
