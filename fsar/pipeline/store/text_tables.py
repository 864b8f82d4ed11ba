"""Read and write the text tables of a store."""

from fsar.errors import InputError, unknown_name
from fsar.pipeline.store.format.files import CLAIMS, METADATA_KEY, StoreFiles, read_store
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.journal.claims import metadata_claim
from fsar.pipeline.store.journal.intact import intact_tables
from fsar.pipeline.store.journal.journal import redo
from fsar.pipeline.store.journal.seal import is_sealed, publish_metadata


def read_table(files: StoreFiles, name: str) -> TextTable:
    """Return a text table.

    Raises:
        InputError: there is none of that name (the nearest names are given), or it is damaged.
    """
    tables = files.format.read_tables(files.path)
    if name not in tables:
        raise unknown_name("text table", name, tables)
    return tables[name]


def write_table(files: StoreFiles, table: TextTable, *, overwrite: bool) -> None:
    """Add a text table as one step; a sealed store stays sealed.

    Raises:
        InputError: the store has another table of that name and `overwrite` is off, or its tables are damaged.
    """
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
