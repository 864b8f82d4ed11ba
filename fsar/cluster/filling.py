"""A store that workers fill together: what is left tells its journal."""

from pathlib import Path

from fsar.cluster.engine import Task
from fsar.pipeline.store.format.files import CLAIMS, StoreFiles
from fsar.pipeline.store.journal.claims import free_claims_of
from fsar.pipeline.store.journal.manifest import is_sealed
from fsar.pipeline.store.journal.records import stored_rows


class Filling:
    """The work of filling one store; every worker can do what is left."""

    def __init__(self, path: Path, n_videos: int, *, until_sealed: bool = False) -> None:
        self._files, self.n_items, self._until_sealed = StoreFiles.at(path), n_videos, until_sealed

    def n_done(self) -> int:
        """Return how many videos are committed."""
        return sum(stored_rows(self._files).values())

    def n_left(self) -> int:
        """Return how many are not."""
        return self.n_items - self.n_done()

    def is_left(self, task: Task) -> bool:
        """Return whether a video is not committed."""
        return self.n_left() > 0 or (self._until_sealed and not is_sealed(self._files))

    def ended(self, task: Task) -> None:
        """Free the claims of a worker that has ended."""
        free_claims_of(self._files.folder(CLAIMS), task.name)
