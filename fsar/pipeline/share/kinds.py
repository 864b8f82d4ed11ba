"""What can lie at an address: a feature store, or a pack of frames. Push, pull, list and verify ask its kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fsar.errors import InputError
from fsar.files import sha256_file
from fsar.pipeline.packs import layout as packs
from fsar.pipeline.share.card import dataset_card, pack_card
from fsar.pipeline.share.contents import Contents, FeatureContents, PackContents
from fsar.pipeline.share.outgoing import Outgoing, outgoing, outgoing_pack
from fsar.pipeline.store import open_store
from fsar.pipeline.store.format.files import (
    JOURNAL,
    MANIFEST_FILE,
    METADATA_KEY,
    STORE_FILE,
    VIDEOS_FILE,
    StoreFiles,
    read_store,
)
from fsar.pipeline.store.partial import refuse_partial
from fsar.pipeline.store.verify import Verification, verify

METADATA_FILE = f"{JOURNAL}/{METADATA_KEY}.json"
Advance = Callable[[int], None]


class Kind(Protocol):
    """What push, pull, list and verify must know of the things that they carry."""

    @property
    def noun(self) -> str:
        """What people call it."""

    @property
    def opening(self) -> tuple[str, ...]:
        """What it is opened by, asked for at once: the manifest first, the record of the metadata last."""

    def files(self, path: Path) -> StoreFiles:
        """Return the files of the one at `path`, whether or not they exist."""

    def read(self, files: StoreFiles) -> Contents:
        """Return what the documents of `opening` say; raises InputError where they do not agree."""

    def identity(self, files: StoreFiles) -> str:
        """Return the sha256 of the manifest; raises InputError for one that is unfinished or a partial copy."""

    def verify(self, files: StoreFiles, advance: Advance | None) -> Verification:
        """Compare every file with the manifest."""

    def leaving(self, files: StoreFiles) -> Outgoing:
        """Return what is pushed of it."""

    def card(self, files: StoreFiles, manifest: str) -> str:
        """Return the card of a repository for one whose manifest goes to that location."""


class FeatureStores:
    """NAME.zarr and NAME.h5."""

    noun = "store"
    opening = (MANIFEST_FILE, STORE_FILE, VIDEOS_FILE, METADATA_FILE)

    def files(self, path: Path) -> StoreFiles:
        """Return the files of the store at `path`."""
        return StoreFiles.at(path)

    def read(self, files: StoreFiles) -> FeatureContents:
        """Return layout and rows."""
        return FeatureContents(*read_store(files), files.format)

    def identity(self, files: StoreFiles) -> str:
        """Return the sha256 of the manifest."""
        identity = open_store(files.path).identity
        refuse_partial(files, "push it")
        return identity

    def verify(self, files: StoreFiles, advance: Advance | None) -> Verification:
        """Compare every file with the manifest."""
        return verify(files.path, advance=advance)

    def leaving(self, files: StoreFiles) -> Outgoing:
        """Return the files, without the paths that only mean something here."""
        return outgoing(files)

    def card(self, files: StoreFiles, manifest: str) -> str:
        """Return the card."""
        return dataset_card(files, manifest)


class FramePacks:
    """NAME.frames."""

    noun = "pack"
    opening = (MANIFEST_FILE, packs.PACK_FILE, VIDEOS_FILE, METADATA_FILE)

    def files(self, path: Path) -> StoreFiles:
        """Return the files of the pack at `path`."""
        return packs.pack_files(path)

    def read(self, files: StoreFiles) -> PackContents:
        """Return layout and rows."""
        return PackContents(*packs.read_pack(files))

    def identity(self, files: StoreFiles) -> str:
        """Return the sha256 of the manifest."""
        packs.read_pack(files)  # says what is wrong
        if not files.locate(MANIFEST_FILE).exists():
            raise InputError(f"{files.path} is not finished: run the command that made it again")
        refuse_partial(files, "push it")
        return sha256_file(files.locate(MANIFEST_FILE))

    def verify(self, files: StoreFiles, advance: Advance | None) -> Verification:
        """Compare every file with the manifest, every frame with its index."""
        from fsar.pipeline.packs.verify import verify_pack

        return verify_pack(files.path, advance=advance)

    def leaving(self, files: StoreFiles) -> Outgoing:
        """Return the files as they are."""
        return outgoing_pack(files)

    def card(self, files: StoreFiles, manifest: str) -> str:
        """Return the card."""
        return pack_card(files, manifest)


def kind_of(name: str) -> Kind:
    """Return the kind of something by its name; what has no known suffix is left to stores to refuse."""
    return FramePacks() if name.endswith(packs.SUFFIX) else FeatureStores()
