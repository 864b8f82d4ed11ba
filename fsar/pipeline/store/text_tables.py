"""Add text tables to a store."""

from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.store.format.files import CLAIMS, METADATA_KEY, StoreFiles, read_store
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.journal.claims import metadata_claim
from fsar.pipeline.store.journal.damage import intact_tables
from fsar.pipeline.store.journal.manifest import is_sealed
from fsar.pipeline.store.journal.publish import redo
from fsar.pipeline.store.journal.seal import publish_metadata
from fsar.pipeline.store.partial import refuse_partial


def write_text(path: str | Path, table: TextTable, *, overwrite: bool = False) -> None:
    """Add a text table to the store at `path` as one step; a sealed store stays sealed.

    Raises:
        FileNotFoundError: there is no store.
        InputError: it has another table of that name and `overwrite` is off, or its tables are damaged.
    """
    files = StoreFiles.at(path)
    read_store(files)  # says what is wrong before anything is made
    refuse_partial(files, "add text to it")
    with metadata_claim(files.folder(CLAIMS)):
        redo(files, METADATA_KEY)
        tables = intact_tables(files)
        if table.name in tables and not overwrite:
            if tables[table.name].same_as(table):
                return
            raise InputError(f"{files.path} has another text table {table.name!r}: overwrite it or rename yours")
        tables[table.name] = table
        layout, videos = read_store(files)
        contents = files.format.metadata_files(files.path, layout, len(videos), tables)
        publish_metadata(files, contents, sealed=is_sealed(files))
