"""Files that somebody else's manifest names: whether a store has such files, and where they lie."""

from collections.abc import Collection
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.share.kinds import kind_of
from fsar.pipeline.store.format.files import MANIFEST_FILE, StoreFiles
from fsar.pipeline.store.format.names import checked_name, refuse_collisions

MAX_NAMES = 1_000_000


def check_names(files: StoreFiles, names: Collection[str]) -> None:
    """Raise InputError for a name that no store has, for names that one disk would mix up, and for far too many."""
    if len(names) > MAX_NAMES:
        raise InputError(f"the manifest names {len(names)} files, a store has at most {MAX_NAMES}")
    for name in names:
        if not files.owns(checked_name(name)) or name == MANIFEST_FILE:
            raise InputError(f"the manifest names {name[:80]!r}, which is no file of a store")
    refuse_collisions(names, "the manifest")
    folders = {name[:at] for name in names for at, character in enumerate(name) if character == "/"}
    if clash := sorted(folders & set(names)):
        raise InputError(f"the manifest names {clash[0]!r} as a file and as a folder")


def below(store_name: str, name: str) -> str:
    """Return where a file lies relative to the folder that its store is in: `x.zarr/zarr.json`, `x.h5.parts/…`."""
    return kind_of(store_name).files(Path(store_name)).locate(name).as_posix()
