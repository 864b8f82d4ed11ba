"""Rows on their way into another store: compared with their record first, or a copy would make damage look intact."""

from typing import Any

import numpy as np

from fsar.pipeline.store.journal.damage import refuse_damage
from fsar.pipeline.store.journal.records import read_chunk_record
from fsar.pipeline.store.reader import FeatureStore

Array = np.ndarray[Any, Any]


class CheckedRows:
    """Reads rows of a sealed store; every file is compared with its record before its numbers are first given away."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._checked: set[str] = set()

    def read(self, name: str, rows: Array) -> Array:
        """Return rows of any array by its full name (features/<tap>, status, …): (R, *tail).

        Raises:
            InputError: a file with these rows is not as it was written; or what `FeatureStore.read_array` raises.
        """
        store = self._store
        spec = store.layout.arrays()[name]
        store.fetch([name], rows)
        for index in np.unique(rows // store.layout.chunk_rows).tolist():
            file = store.files.format.chunk_file(spec, index)
            if file not in self._checked:
                n_rows = len(store.layout.chunk_range(index, store.n_videos))
                refuse_damage(store.files, read_chunk_record(store.files, index, n_rows), [file])
                self._checked.add(file)
        return store.read_array(name, rows)
