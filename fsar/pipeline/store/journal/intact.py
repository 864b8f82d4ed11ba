"""Stored numbers on their way into other files: checked first, or a copy would make damage look intact."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fsar.errors import InputError
from fsar.pipeline.store.disk import file_entry
from fsar.pipeline.store.format.files import METADATA_KEY, StoreFiles
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.journal.journal import chunk_key, read_chunk_record, read_record, record_entries

if TYPE_CHECKING:
    from fsar.pipeline.store.reader import FeatureStore

Array = np.ndarray[Any, Any]


def refuse_damage(files: StoreFiles, record: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise InputError unless the files `names` are as a record says."""
    entries = record_entries(record)
    for name in names:
        if file_entry(files.locate(name)) != entries.get(name):
            raise InputError(f"{files.locate(name)} is damaged or missing: run `fsar-store verify {files.path}`")


def refuse_damaged_chunk(files: StoreFiles, index: int, n_rows: int) -> None:
    """Raise InputError unless the first `n_rows` rows of a chunk lie in intact files; nothing where there are none."""
    if n_rows:
        record = read_record(files, chunk_key(index, n_rows))
        refuse_damage(files, record, record["files"])


def intact_tables(files: StoreFiles) -> dict[str, TextTable]:
    """Return the text tables, to write them into another file. Raises InputError when they are damaged."""
    tables = files.format.read_tables(files.path)
    refuse_damage(files, read_record(files, METADATA_KEY), files.format.extra_names())
    return tables


class IntactRows:
    """Reads rows of a sealed store; every file is compared with its record before its numbers are first given away."""

    def __init__(self, store: "FeatureStore") -> None:
        self._store = store
        self._checked: set[str] = set()

    def read(self, name: str, rows: Array) -> Array:
        """Return rows of any array by its full name (features/<tap>, status, …): (R, *tail).

        Raises:
            InputError: a file with these rows is not as it was written; or what `FeatureStore.read_array` raises.
        """
        store = self._store
        spec = store.layout.arrays()[name]
        for index in np.unique(rows // store.layout.chunk_rows).tolist():
            file = store.files.format.chunk_file(spec, index)
            if file not in self._checked:
                n_rows = len(store.layout.chunk_range(index, store.n_videos))
                refuse_damage(store.files, read_chunk_record(store.files, index, n_rows), [file])
                self._checked.add(file)
        return store.read_array(name, rows)
