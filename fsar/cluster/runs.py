"""Work of which every worker has a part of its own: it is done when the file is there that comes last."""

from collections.abc import Sequence
from pathlib import Path

from fsar.cluster.engine import Task


class Runs:
    """One run for each worker."""

    def __init__(self, results: Sequence[Path]) -> None:
        self._results = results
        self.n_items = len(results)

    def n_done(self) -> int:
        """Return how many runs have their result."""
        return sum(result.exists() for result in self._results)

    def n_left(self) -> int:
        """Return how many have none."""
        return self.n_items - self.n_done()

    def is_left(self, task: Task) -> bool:
        """Return whether this worker's run has none."""
        return not self._results[task.index].exists()

    def ended(self, task: Task) -> None:
        """Nothing: a run is held by nobody."""
