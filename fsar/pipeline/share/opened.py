"""Open a store by its address: whole chunks of it come into the cache when they are first read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fsar.errors import InputError
from fsar.pipeline.packs.layout import SUFFIX
from fsar.pipeline.share import cache
from fsar.pipeline.share.address import Address, is_address, parse_address
from fsar.pipeline.share.download import Progress
from fsar.pipeline.share.upstream import Upstream, open_upstream
from fsar.pipeline.store import FeatureStore
from fsar.pipeline.store import open_store as open_local
from fsar.pipeline.store.format.files import StoreFiles


def open_store(
    store: str | Path | Address, *, allow_unsealed: bool = False, progress: Progress | None = None
) -> FeatureStore:
    """Return a store for reading: one on this disk by its path, one elsewhere by its address.

    Args:
        store: NAME.zarr, NAME.h5, or an address: https://, file://, s3://, gs://, az://, hf://datasets/…,
            with #sha256=IDENTITY for exactly one content.
        allow_unsealed: also open a store on this disk that is unfinished.
        progress: makes a context in which fetched bytes are counted; nothing is shown without it.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is damaged, hostile, another one than the address is pinned to, or not sealed.
        OSError: the network fails, or the cache cannot be written.
    """
    if isinstance(store, str) and is_address(store):
        store = parse_address(store)
    if isinstance(store, Address):
        return _open_address(store, progress)
    return open_local(store, allow_unsealed=allow_unsealed)


def _open_address(address: Address, progress: Progress | None) -> "RemoteFeatureStore":
    address.require_store_name()
    if address.name.endswith(SUFFIX):
        raise InputError(f"{address} is a pack of frames: `fsar-store pull {address}` copies it here, to be read there")
    files = cache.find(address.pin, address.name)
    upstream = _Lazily(lambda: open_upstream(address))
    if files is None:
        files = cache.enter(upstream.get())
        address = upstream.get().address
    cache.touch(files)
    return RemoteFeatureStore(files, address, upstream, progress)


class RemoteFeatureStore(FeatureStore):
    """A store at an address, read through the cache. Pickling it reopens the same content."""

    def __init__(self, files: StoreFiles, address: Address, upstream: "_Lazily", progress: Progress | None) -> None:
        self._remote, self._upstream, self._progress = address, upstream, progress
        super().__init__(files, provide=self._fetch)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self._remote,)

    @property
    def address(self) -> str:
        """The address, pinned to this content, without its query."""
        return str(self._remote)

    @property
    def identity(self) -> str:
        """The sha256 of the manifest."""
        return self._remote.pin

    def _fetch(self, names: Sequence[str]) -> None:
        cache.provide(self.files, self._upstream.get(), names, self._progress)


class _Lazily:
    """Something that is asked for over the network, once, when it is needed."""

    def __init__(self, make: Callable[[], Upstream]) -> None:
        self._make = make
        self._made: Upstream | None = None

    def get(self) -> Upstream:
        """Return it."""
        if self._made is None:
            self._made = self._make()
        return self._made
