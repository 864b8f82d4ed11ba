"""Put a store where others can read it: PREFIX/NAME/IDENTITY/NAME, the manifest last, then the pointer to it.

PREFIX/ssv2.zarr/latest.json                     which version is the newest; the only object that is replaced
PREFIX/ssv2.zarr/63ab…/ssv2.zarr/store.json …    one version, complete once its manifest is there
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fsar.errors import InputError
from fsar.pipeline.share.address import Address, shared_suffixes
from fsar.pipeline.share.download import Progress, read_small, with_patience
from fsar.pipeline.share.kinds import Kind, kind_of
from fsar.pipeline.share.names import below
from fsar.pipeline.share.outgoing import Outgoing
from fsar.pipeline.share.transport import Transport, Upload, open_transport
from fsar.pipeline.share.upload import put_all
from fsar.pipeline.share.upstream import LATEST_FILE, MAX_BYTES
from fsar.pipeline.store.format.files import MANIFEST_FILE, StoreFiles


@dataclass(frozen=True)
class PushReport:
    """What a push did."""

    address: str
    """Pinned to what was pushed: what to give to others."""
    identity: str
    n_files: int
    """Sent now."""
    n_bytes: int
    n_kept: int
    """Files that were there already."""
    n_relative: int
    """Videos whose absolute path was made relative."""


def destination(address: Address, store: Path) -> Address:
    """Return the address that a store gets: below a prefix under its own name, or under the name that was given.

    Raises:
        InputError: another format's suffix, or another name for an HDF5 store, whose files hold its name.
    """
    if not address.name.endswith(shared_suffixes()):
        return address.child(store.name)
    if not address.name.endswith(store.suffix):
        raise InputError(f"{store} cannot be pushed as {address.name}: name it NAME{store.suffix}")
    if store.suffix == ".h5" and address.name != store.name:
        raise InputError(f"the files of {store} hold its name: push it as {store.name}, or rename and seal it first")
    return address


def plan_push(store: Path, address: Address) -> tuple[Address, Outgoing]:
    """Return where a store would go and what would be sent; raises what `push` raises, but for damage."""
    if address.pin:
        raise InputError(f"{address}: what is pushed decides the identity, leave #sha256=... out")
    kind = kind_of(store.name)
    files = kind.files(store)
    kind.identity(files)
    return destination(address, store), kind.leaving(files)


def push(
    store: Path, address: Address, *, progress: Progress | None = None, check: Progress | None = None
) -> PushReport:
    """Verify a store and put it at an address; interrupted, the same call goes on.

    Args:
        store: a sealed store, or a finished pack of frames, on this disk.
        address: a prefix such as s3://bucket/features, below which the store gets its own name.
        progress: makes a context in which bytes on their way are counted.
        check: the same for the bytes that are verified first.

    Raises:
        InputError: the store is damaged, not sealed, or a partial copy.
        OSError: the place cannot be written.
    """
    kind = kind_of(store.name)
    files = kind.files(store)
    identity_here = kind.identity(files)
    _refuse_damage(kind, files, check)
    target, leaving = plan_push(store, address)
    transport, root = open_transport(target), f"{target.location}/{leaving.identity}"
    uploads = [_upload(target, files, leaving, root, name) for name in leaving.entries]
    manifest = _upload(target, files, leaving, root, MANIFEST_FILE)
    present = read_small(transport, manifest.location, max_bytes=MAX_BYTES)
    sent: list[Upload] = []
    if present is None:
        sent = put_all(transport, uploads, progress)
        _refuse_change(kind, files, identity_here)
    elif present != manifest.source:
        raise InputError(f"{manifest.location} has another content than its folder's name says: somebody changed it")
    _finish(transport, target, leaving, [manifest] if present is None else [], files)
    n_bytes = sum(item.n_bytes for item in sent)
    pinned = str(target.pinned(leaving.identity))
    return PushReport(pinned, leaving.identity, len(sent), n_bytes, len(uploads) - len(sent), leaving.n_relative)


def _finish(
    transport: Transport, target: Address, leaving: Outgoing, manifest: list[Upload], files: StoreFiles
) -> None:
    """Make the version complete, and the pointer show it."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    pointer = json.dumps({"identity": leaving.identity, "name": target.name, "pushed": now}, indent=2) + "\n"
    latest = Upload(f"{target.location}/{LATEST_FILE}", pointer.encode(), len(pointer), replace=True)
    with_patience(lambda: transport.finish([*manifest, latest], files))


def _upload(target: Address, files: StoreFiles, leaving: Outgoing, root: str, name: str) -> Upload:
    source = leaving.sources[name]
    n_bytes = len(source) if isinstance(source, bytes) else leaving.entries[name].n_bytes
    return Upload(f"{root}/{target.quoted(below(target.name, name))}", source, n_bytes)


def _refuse_damage(kind: Kind, files: StoreFiles, check: Progress | None) -> None:
    if check is None:
        result = kind.verify(files, None)
    else:
        with check(len(files.names())) as advance:
            result = kind.verify(files, advance)
    if result.problems:
        first = result.problems[0]
        raise InputError(
            f"{files.path} is not pushed, {len(result.problems)} of its files are wrong (first: {first.file}: "
            f"{first.what}): see `fsar-store verify {files.path}`"
        )


def _refuse_change(kind: Kind, files: StoreFiles, identity: str) -> None:
    """Raise InputError where somebody changed the store while it was on its way: its manifest must not follow."""
    if kind.identity(files) != identity:
        raise InputError(f"{files.path} was changed while it was being pushed: push it again")
