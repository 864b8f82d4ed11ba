"""Stores on the command line: a path on this disk, or an address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.errors import InputError

if TYPE_CHECKING:
    from fsar.pipeline.share import Address
    from fsar.pipeline.share.download import Advance, Progress
    from fsar.pipeline.store import FeatureStore

    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

MEGABYTE = 1_000_000


def looks_like_address(text: str) -> bool:
    """Return whether a text is an address rather than a path, without importing what reads addresses."""
    return "://" in text


class StoreType(ParamType):
    """A store: `Path` for one on this disk, `Address` for one elsewhere."""

    name = "STORE"

    def __init__(self, *, path: bool = True, address: bool = True) -> None:
        self._path, self._address = path, address

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path or an Address."""
        if not isinstance(value, str):
            return value
        if not looks_like_address(value):
            if not self._path:
                self.fail("expected an address: https://, file://, s3://, gs://, az:// or hf://datasets/", param, ctx)
            return Path(value)
        from fsar.pipeline.share import parse_address

        try:
            address = parse_address(value)
        except InputError as error:
            self.fail(str(error), param, ctx)
        if not self._address:
            self.fail(
                f"a store is only written on this disk: `fsar-store pull {address}` copies one here, "
                "`fsar-store push` puts one there",
                param,
                ctx,
            )
        return address


STORE = StoreType()
LOCAL_STORE = StoreType(address=False)
ADDRESS = StoreType(path=False)


def open_any(store: "Path | Address", *, quiet: bool = False, allow_unsealed: bool = False) -> "FeatureStore":
    """Return the store at a path or an address; what is fetched from there shows its progress unless `quiet`."""
    from fsar.pipeline.share import open_store

    return open_store(store, allow_unsealed=allow_unsealed, progress=byte_progress("fetch", quiet=quiet))


def byte_progress(label: str, *, quiet: bool) -> "Progress":
    """Return a maker of progress lines that count megabytes."""

    @contextmanager
    def counting(n_bytes: int) -> "Iterator[Advance]":
        from fsar.progress import progress

        with progress(label, -(-n_bytes // MEGABYTE), unit="MB", quiet=quiet) as advance:
            done = shown = 0

            def count(n: int) -> None:
                nonlocal done, shown
                done += n
                whole = -(-done // MEGABYTE) if done >= n_bytes else done // MEGABYTE
                if whole > shown:
                    advance(whole - shown)
                    shown = whole

            yield count

    return counting
