"""Whole chunks of one array, straight from their files."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fsar.errors import InputError
from fsar.files import open_plain
from fsar.pipeline.store.format.files import StoreFiles
from fsar.pipeline.store.format.layout import ArraySpec, Layout
from fsar.pipeline.store.journal.records import record_entries

MAX_METADATA_BYTES = 16 << 20
"""What a chunk's file may hold beside the numbers."""


def stored_chunk(files: StoreFiles, layout: Layout, spec: ArraySpec, index: int, offset: int) -> np.ndarray[Any, Any]:
    """Return chunk `index` of an array, padding included: (chunk rows, *tail), mapped read-only.

    `offset` is where the numbers begin in its file, see `offset_of`.
    """
    path = files.locate(files.format.chunk_file(spec, index))
    shape = (layout.chunk_rows, *spec.tail)
    try:
        with open_plain(path) as file:
            if os.fstat(file.fileno()).st_size < offset + layout.chunk_rows * spec.row_bytes:
                raise InputError(f"{path} is cut short: run `fsar-store verify {files.path}`")
            return np.memmap(file, spec.numpy_dtype, "r", offset, shape)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `fsar-store verify {files.path}`") from None


def offset_of(spec: ArraySpec, record: Mapping[str, Any]) -> int:
    """Return the first byte of an array in its file of a chunk, as the chunk's record says."""
    offset: int = record["offsets"].get(spec.name, 0)
    return offset


def refuse_misfit(files: StoreFiles, layout: Layout, index: int, record: Mapping[str, Any]) -> None:
    """Raise InputError unless the rows and the sizes of files in a chunk's record are ones that the layout allows."""
    rows, entries = range(*record["rows"]), record_entries(record)
    if rows.start != index * layout.chunk_rows or len(rows) > layout.chunk_rows:
        raise InputError(f"{files.path} is damaged: its chunk {index} has rows {rows.start} to {rows.stop - 1}")
    sizes = {spec.name: layout.chunk_rows * spec.row_bytes for spec in layout.arrays().values()}
    most = sum(sizes.values()) + MAX_METADATA_BYTES
    for spec in layout.arrays().values():
        file = files.format.chunk_file(spec, index)
        end = offset_of(spec, record) + sizes[spec.name]
        if file not in entries or not end <= entries[file].n_bytes <= most:
            raise InputError(f"{files.path} is damaged: the record of chunk {index} gives {file} an impossible size")


def read_column(
    files: StoreFiles, layout: Layout, n_videos: int, name: str, records: Mapping[int, Mapping[str, Any]]
) -> np.ndarray[Any, Any]:
    """Return a whole small array (N, *tail); rows that no record of a chunk covers have the fill value."""
    spec = layout.arrays()[name]
    column = np.full((n_videos, *spec.tail), spec.fill, spec.numpy_dtype)
    for index, record in records.items():
        refuse_misfit(files, layout, index, record)
        rows = range(*record["rows"])
        if rows.start >= n_videos:  # the store has grown since it was opened
            continue
        chunk = stored_chunk(files, layout, spec, index, offset_of(spec, record))[: len(rows)]
        column[rows.start : rows.stop] = chunk[: n_videos - rows.start]
    return column
