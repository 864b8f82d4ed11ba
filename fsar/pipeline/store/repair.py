"""Make the master file of a store anew: where it is lost, or leads to other parts since the store was renamed."""

import sys

from fsar.pipeline.store.disk import FileEntry
from fsar.pipeline.store.format.files import CLAIMS, METADATA_KEY, StoreFiles, read_store
from fsar.pipeline.store.journal.claims import metadata_claim
from fsar.pipeline.store.journal.damage import intact_tables
from fsar.pipeline.store.journal.manifest import is_sealed
from fsar.pipeline.store.journal.publish import redo
from fsar.pipeline.store.journal.records import metadata_entries
from fsar.pipeline.store.journal.seal import publish_metadata


def mend_master(files: StoreFiles) -> None:
    """Write the master file anew if it is lost or leads elsewhere; nothing where there is no store or nothing wrong.

    A lost master takes its text tables with it; a warning says so.
    """
    if not _needs_mending(files):
        return
    with metadata_claim(files.folder(CLAIMS)):
        redo(files, METADATA_KEY)
        if _needs_mending(files):
            _write_anew(files)


def _needs_mending(files: StoreFiles) -> bool:
    return files.exists() and (files.lacks_master() or not files.format.leads_home(files.path))


def _write_anew(files: StoreFiles) -> None:
    layout, videos = read_store(files)
    lost, recorded = files.lacks_master(), metadata_entries(files)
    tables = {} if lost else intact_tables(files)
    contents = files.format.metadata_files(files.path, layout, len(videos), tables)
    if lost and any(recorded.get(name) != FileEntry.of(data) for name, data in contents.items()):
        sys.stderr.write(
            f"warning: {files.path} was missing and is made anew; the text tables that were in it are lost, "
            "fsar-prep text makes them again\n"
        )
    publish_metadata(files, contents, sealed=is_sealed(files))
