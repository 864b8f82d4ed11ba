"""A store at an address, before any of its numbers are fetched: its manifest, its layout, its videos."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsar.errors import InputError, MissingError
from fsar.pipeline.share.address import Address
from fsar.pipeline.share.contents import Contents
from fsar.pipeline.share.download import Download, read_together
from fsar.pipeline.share.kinds import Kind, kind_of
from fsar.pipeline.share.names import below, check_names
from fsar.pipeline.share.transport import Transport, open_transport
from fsar.pipeline.store.disk import FileEntry
from fsar.pipeline.store.format.files import MANIFEST_FILE, StoreFiles
from fsar.pipeline.store.format.layout import VideoRow
from fsar.pipeline.store.journal.manifest import read_manifest

LATEST_FILE = "latest.json"
"""Beside the versions of a pushed store: which one is the newest."""
MAX_BYTES = 256 << 20
MAX_POINTER_BYTES = 64 << 10


@dataclass(frozen=True)
class Upstream:
    """What is known of a store at an address."""

    address: Address
    """Where it was asked for, pinned to what was found there."""
    folder: str
    """Location of the folder that holds the store's files (and, beside them, its parts)."""
    transport: Transport
    identity: str
    """sha256 of the manifest."""
    documents: dict[str, bytes]
    """The files of the kind's `opening`, each as the manifest has it."""
    entries: dict[str, FileEntry]
    """Every file that the manifest names."""
    contents: Contents

    @property
    def name(self) -> str:
        """The store's name, which its format is told by."""
        return self.address.name

    @property
    def kind(self) -> Kind:
        """A store, or a pack of frames."""
        return kind_of(self.name)

    @property
    def videos(self) -> Sequence[VideoRow]:
        """Its rows, in order."""
        return self.contents.videos

    @property
    def n_bytes(self) -> int:
        """Size of all its files."""
        return sum(entry.n_bytes for entry in self.entries.values()) + len(self.documents[MANIFEST_FILE])

    def location(self, name: str) -> str:
        """Return where a file is."""
        return f"{self.folder}/{self.address.quoted(below(self.name, name))}"

    def download(self, name: str, files: StoreFiles | None) -> Download:
        """Return how to fetch a file into a copy, or to read it for its hash alone."""
        return Download(self.location(name), self.entries[name], files.locate(name) if files else None)


def open_upstream(address: Address) -> Upstream:
    """Ask for the store at an address: one round trip for a plain folder, two for one that was pushed.

    Raises:
        FileNotFoundError: there is no store.
        InputError: it is damaged or hostile, or another one than the address is pinned to.
    """
    address.require_store_name()
    transport = open_transport(address)
    folders = [address.parent, f"{address.location}/{address.pin}"] if address.pin else [address.parent]
    plain, *pushed, (latest,) = _ask(transport, address, folders, [f"{address.location}/{LATEST_FILE}"])
    if plain[0] is not None and address.pin in ("", _sha256(plain[0])):
        return _checked(address, address.parent, transport, plain)
    identity = address.pin or _latest(latest, address)
    folder = f"{address.location}/{identity}"
    found = pushed[0] if pushed else _ask(transport, address, [folder], [])[0] if identity else [None]
    if found[0] is not None:
        return _checked(address.pinned(identity), folder, transport, found)
    if plain[0] is not None:
        raise InputError(f"{address}: the store there is another now, sha256={_sha256(plain[0])}")
    shelf = Address(address.scheme, address.parent)
    raise MissingError(
        f"{address}: no finished store is there (no {MANIFEST_FILE}); `fsar-store list {shelf}` shows what is"
    )


def _ask(transport: Transport, address: Address, folders: list[str], others: list[str]) -> list[list[bytes | None]]:
    """Return the documents of a store in each folder and some other small files, all asked for at once."""
    names = [address.quoted(below(address.name, name)) for name in kind_of(address.name).opening]
    locations = [f"{folder}/{name}" for folder in folders for name in names]
    found = read_together(transport, [*locations, *others], max_bytes=MAX_BYTES)
    n = len(names)
    groups = [found[n * at : n * (at + 1)] for at in range(len(folders))]
    return [*groups, found[n * len(folders) :]]


def _latest(pointer: bytes | None, address: Address) -> str:
    """Return the identity that latest.json names."""
    if pointer is None:
        return ""
    identity = read_pointer(pointer, str(address)).get("identity")
    if not isinstance(identity, str) or len(identity) != 64 or set(identity) - set("0123456789abcdef"):
        raise InputError(f"{address}: its {LATEST_FILE} names no identity")
    return identity


def read_pointer(data: bytes, source: str) -> dict[str, Any]:
    """Return the content of latest.json."""
    try:
        value = json.loads(data) if len(data) <= MAX_POINTER_BYTES else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{source}: its {LATEST_FILE} is damaged")
    return value


def _checked(address: Address, folder: str, transport: Transport, documents: list[bytes | None]) -> Upstream:
    """Return the store, once its documents agree with its manifest and with each other."""
    identity = _sha256(documents[0] or b"")
    if address.pin and identity != address.pin:
        raise InputError(f"{address}: the manifest there has another sha256, {identity}")
    kind = kind_of(address.name)
    found = {name: data for name, data in zip(kind.opening, documents, strict=False) if data is not None}
    lacking = [name for name in kind.opening if name not in found]
    if lacking:
        raise InputError(f"{address}: {lacking[0]} is missing, the {kind.noun} there is incomplete")
    with tempfile.TemporaryDirectory(prefix="fsar-") as scratch:
        files = kind.files(Path(scratch) / address.name)
        for name, data in found.items():
            files.locate(name).parent.mkdir(parents=True, exist_ok=True)
            files.locate(name).write_bytes(data)
        try:
            entries = read_manifest(files)
            check_names(files, entries)
            for name in kind.opening[1:]:
                if entries.get(name) != FileEntry.of([found[name]]):
                    raise InputError(f"{name} is not what the manifest names: it has changed, or is just changing")
            contents = kind.read(files)
        except InputError as error:
            raise InputError(f"{address}: {str(error).replace(scratch + '/', '')}") from None
    return Upstream(address.pinned(identity), folder, transport, identity, found, entries, contents)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
