"""Stored numbers on their way into other files: checked first, or a copy would make damage look intact."""

from collections.abc import Collection, Mapping
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.store.disk import file_entry
from fsar.pipeline.store.format.files import METADATA_KEY, StoreFiles
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.journal.records import chunk_key, read_record, record_entries


def refuse_damage(files: StoreFiles, record: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise InputError unless the files `names` are as a record says."""
    entries = record_entries(record)
    for name in names:
        wanted = entries.get(name)
        if wanted is None or file_entry(files.locate(name), wanted.n_bytes) != wanted:
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
