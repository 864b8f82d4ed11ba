"""Where a shared store is: SCHEME://PLACE/NAME.zarr, perhaps pinned to one content by #sha256=IDENTITY."""

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urlsplit

from fsar.errors import InputError, unknown_name
from fsar.pipeline.packs.layout import SUFFIX
from fsar.pipeline.store import list_formats

SCHEMES = ("https", "http", "file", "s3", "gs", "az", "hf")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PIN = re.compile(r"sha256=([0-9a-f]{64})")


@dataclass(frozen=True)
class Address:
    """A parsed address. `str()` of it is safe to show and to keep: it never holds the query."""

    scheme: str
    location: str
    """Scheme, host and path, without a slash at the end."""
    query: str = ""
    """What follows `?`, such as an access signature: sent with every request, never shown, never written."""
    pin: str = ""
    """The identity that the store must have; empty: whatever is there."""

    @property
    def name(self) -> str:
        """Last part of the path: the store's name."""
        return unquote(self.location.rpartition("/")[2])

    @property
    def parent(self) -> str:
        """Location of the folder that the store lies in."""
        return self.location.rpartition("/")[0]

    def pinned(self, identity: str) -> "Address":
        """Return the address of exactly this content."""
        return replace(self, pin=identity)

    def child(self, *names: str) -> "Address":
        """Return the address of something below this one, without the pin."""
        path = "/".join(self.quoted(name) for name in names)
        return replace(self, location=f"{self.location}/{path}", pin="")

    def quoted(self, name: str) -> str:
        """Return a relative name as this scheme writes it: URLs escape characters, keys of object stores do not."""
        return quote(name, safe="/@+=,~!$'()*:;") if self.scheme in ("https", "http", "file", "hf") else name

    def require_store_name(self) -> None:
        """Raise InputError unless the address names a store."""
        if not self.name.endswith(shared_suffixes()):
            raise InputError(
                f"{self} names no store: an address ends in NAME{' or NAME'.join(shared_suffixes())}; "
                f"`fsar-store list {self}` shows what is there"
            )

    def __str__(self) -> str:
        return f"{self.location}#sha256={self.pin}" if self.pin else self.location


def shared_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all that can lie at an address: stores, and packs of frames."""
    return (*list_formats(), SUFFIX)


def is_address(text: object) -> bool:
    """Return whether a text is an address, not a path."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def parse_address(text: str) -> Address:
    """Return the address that a text names.

    Raises:
        InputError: unknown scheme, a user or password in it, something else than `sha256=` behind `#`, or a path that
            is empty, climbs or holds control characters. No message repeats more of the text than its scheme and host.
    """
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise unknown_name("scheme of an address", scheme, SCHEMES)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise InputError(f"this {scheme} address holds control characters")
    rest, _, fragment = text[len(scheme) + 3 :].partition("#")
    path, _, query = rest.partition("?")
    host = path.partition("/")[0]
    if "@" in host or ":" in host.rpartition("@")[0]:
        raise InputError(
            f"this {scheme} address holds a user or password: leave it out; credentials are taken from the "
            "environment, from profiles and from .netrc"
        )
    _check_host(scheme, host)
    _check_path(scheme, host, path)
    pin = _PIN.fullmatch(fragment)
    if fragment and not pin:
        raise InputError(f"{scheme}://{path}: behind # stands sha256= and 64 digits from 0 to f, got {fragment[:80]!r}")
    return Address(scheme, f"{scheme}://{path.rstrip('/')}", query, pin[1] if pin else "")


def _check_host(scheme: str, host: str) -> None:
    if scheme == "file":
        if host:
            raise InputError(f"a file address has three slashes, file:///folder/NAME.zarr, got host {host!r}")
    elif not host:
        raise InputError(f"this {scheme} address names no host or bucket")
    elif scheme in ("http", "https"):
        try:
            valid = urlsplit(f"//{host}").hostname is not None and urlsplit(f"//{host}").port != 0
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f"{host!r} in this {scheme} address is no host")


def _check_path(scheme: str, host: str, path: str) -> None:
    parts = unquote(path.partition("/")[2].rstrip("/")).split("/")
    if any(part in ("..", ".") or "\\" in part or "\0" in part for part in parts):
        raise InputError(f"the path of {scheme}://{host}/... must not hold '..', '.' or a backslash")
    if "" in parts[1:] or (parts == [""] and scheme == "file"):
        raise InputError(f"the path of {scheme}://{host}/... holds an empty part")
