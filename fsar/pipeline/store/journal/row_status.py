"""What became of each row: done, failed or missing, and the small columns that say so."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.format.layout import Layout, pending_chunks
from fsar.pipeline.store.journal.chunk_rows import read_column
from fsar.pipeline.store.journal.manifest import failures_in
from fsar.pipeline.store.journal.records import read_chunk_record

Array = np.ndarray[Any, Any]


class RowStates:
    """States of the N rows of a store at the moment it was opened, read on first use."""

    def __init__(self, files: StoreFiles, layout: Layout, n_videos: int, stored: Mapping[int, int]) -> None:
        self._files, self._layout, self._n_videos, self._stored = files, layout, n_videos, stored
        self._columns: dict[str, Array] = {}

    def column(self, name: str) -> Array:
        """Return a small array whole, (N, *tail), read-only; rows that are not stored have its fill value."""
        if name not in self._columns:
            column = read_column(self._files, self._layout, self._n_videos, name, self._records)
            column.flags.writeable = False
            self._columns[name] = column
        return self._columns[name]

    def failures(self) -> list[tuple[int, str, str]]:
        """Return (row, reason, message) of the videos that could not be encoded, in row order."""
        return failures_in(self._records.values())

    def failure_of(self, row: int) -> tuple[str, str] | None:
        """Return (reason, message) of a failed row, None for any other."""
        return self._failure_of.get(row)

    def missing(self) -> Array:
        """Return the rows that are not committed, int64 ascending."""
        pending = pending_chunks(self._layout, self._n_videos, self._stored)
        return np.concatenate([np.arange(0), *(np.array(chunk.rows) for chunk in pending)])

    @cached_property
    def _records(self) -> dict[int, dict[str, Any]]:
        return {index: read_chunk_record(self._files, index, n_rows) for index, n_rows in self._stored.items()}

    @cached_property
    def _failure_of(self) -> dict[int, tuple[str, str]]:
        return {row: (reason, message) for row, reason, message in self.failures()}
