"""The seam between stores and the places they lie in: four verbs on whole objects, one class for each kind of place."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fsar.errors import InputError
from fsar.pipeline.share.address import Address
from fsar.pipeline.store.format.files import StoreFiles

BLOCK_BYTES = 256 << 10


class TransientError(OSError):
    """Something that may be over in a moment: a busy server, a lost connection, a stall."""

    def __init__(self, message: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class NotThereError(FileNotFoundError):
    """There is no such object."""


@dataclass(frozen=True)
class Body:
    """The content of an object, from `start` on."""

    start: int
    """First byte that comes; 0 where a server does not know ranges or the object has changed."""
    n_bytes: int | None
    """Size of the whole object, as far as it was said."""
    validator: str
    """Tells this state of the object from others: for `resume` in a later `get`. Empty: there is none."""
    blocks: Iterator[bytes]


@dataclass(frozen=True)
class Upload:
    """One object to write."""

    location: str
    source: Path | bytes
    n_bytes: int
    replace: bool = False
    """Whether an object that is there may be replaced."""


class Transport(Protocol):
    """Reads and writes objects of one scheme. Threads may share it.

    Locations are those of `Address`. Errors are `NotThereError`, `TransientError`, PermissionError, other OSErrors and
    InputError; their messages name locations, never queries or credentials.
    """

    def get(self, location: str, *, start: int = 0, resume: str = "") -> AbstractContextManager[Body]:
        """Open an object, from `start` on if it is still in the state `resume`."""
        ...

    def children(self, location: str) -> list[str]:
        """Return the unescaped names in a folder; those of folders end in a slash. Empty where there is none."""
        ...

    def size(self, location: str) -> int | None:
        """Return the size of an object in bytes, None where there is none."""
        ...

    def sizes(self, locations: Sequence[str]) -> list[int | None]:
        """Return the sizes of several objects."""
        ...

    def put(self, location: str, source: Path | bytes, *, replace: bool = False) -> None:
        """Write an object so that it is whole or absent, as far as the place allows.

        Raises:
            FileExistsError: there is one, `replace` is off, and the place can tell.
        """
        ...

    def put_many(self, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
        """Write several objects, of which nobody must see any particular one first."""
        ...

    def finish(self, uploads: Sequence[Upload], files: StoreFiles) -> None:
        """Write the last objects of a version, in their order; `files` are those of the store here."""
        ...


_TRANSPORTS: dict[str, Callable[[Address], Transport]] = {}


def register_transport(*schemes: str) -> Callable[[Callable[[Address], Transport]], Callable[[Address], Transport]]:
    """Make a transport known by the schemes of its addresses."""

    def add(factory: Callable[[Address], Transport]) -> Callable[[Address], Transport]:
        for scheme in schemes:
            if scheme in _TRANSPORTS:
                raise ValueError(f"scheme {scheme!r} is taken")
            _TRANSPORTS[scheme] = factory
        return factory

    return add


def open_transport(address: Address) -> Transport:
    """Return what reads and writes at an address."""
    if address.scheme not in _TRANSPORTS:
        raise InputError(f"{address}: nothing reads {address.scheme} addresses")
    return _TRANSPORTS[address.scheme](address)
