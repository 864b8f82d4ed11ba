"""Stores on web servers, by the standard library alone: ranges, redirects, retries left to the caller."""

import http.client
import netrc
import os
import re
import socket
import ssl
import threading
import time
import weakref
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from fsar.errors import InputError
from fsar.pipeline.share.address import Address
from fsar.pipeline.share.transport import BLOCK_BYTES, Body, NotThereError, TransientError, Upload, register_transport
from fsar.pipeline.share.upload import finish_each, put_each, sizes_of_each
from fsar.pipeline.store.format.files import StoreFiles

TIMEOUT_SECONDS = 30.0
"""Longest silence of a server."""
PACE_SECONDS, PACE_BYTES = 60.0, 60 << 10
"""A connection that brings fewer bytes than this in that time has stalled, though it is not silent."""
MAX_REDIRECTS = 5
SMALL_BODY_BYTES, REST_SECONDS = 16 << 10, 1.0
"""An answer that nobody wants is read to its end, to keep the connection, if it is no larger and takes no longer."""
MAX_LISTING_BYTES = 16 << 20
MAX_RETRY_AFTER_SECONDS = 60.0
ALLOW_HTTP = "FSAR_ALLOW_HTTP"
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
Headers = Mapping[str, str]


@register_transport("https", "http")
class HttpTransport:
    """GET and PUT over connections that stay open and serve whoever is next."""

    def __init__(self, address: Address, *, headers: Headers | None = None) -> None:
        """Talk to the servers of one address.

        Args:
            address: its query goes with every request to its own host.
            headers: sent to the address's own host only, e.g. Authorization.
        """
        self._host = _origin(address.location)
        self._query, self._headers = address.query, dict(headers or _credentials(address.location))
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)
        _refuse_plain(address.location)

    @contextmanager
    def get(self, location: str, *, start: int = 0, resume: str = "") -> Iterator[Body]:
        """Open an object. A weak validator is no proof of equal bytes, so it is not given away."""
        headers = {"Range": f"bytes={start}-", "If-Range": resume} if start and resume else {}
        with self._request("GET", location, headers) as response:
            if response.status == 416:
                raise TransientError(f"{location}: the server does not give the rest of it")
            self._check(response, location, (200, 206))
            first, n_bytes = _extent(response, location, asked=start if headers else 0)
            tag = response.headers.get("ETag") or ""
            validator = tag if tag.startswith('"') else ""
            yield Body(first, n_bytes, validator, _blocks(response, location))

    def children(self, location: str) -> list[str]:
        """Return the names in the page that a server shows for a folder."""
        with self._request("GET", location + "/", {}) as response:
            if response.status in (403, 404):
                raise InputError(
                    f"{location} is not listed by its server: name a store in it, or let the server list folders "
                    "(nginx: autoindex on)"
                )
            self._check(response, location, (200,))
            page = b"".join(_capped(_blocks(response, location), MAX_LISTING_BYTES, location))
        links = _Links()
        links.feed(page.decode("utf-8", "replace"))
        return _names(location, links.found)

    def size(self, location: str) -> int | None:
        """Return the size that the server tells."""
        with self._request("HEAD", location, {}) as response:
            if response.status in (404, 410):
                return None
            self._check(response, location, (200, 204))
            length = response.headers.get("Content-Length", "")
            return int(length) if length.isdecimal() else None

    def put(self, location: str, source: Path | bytes, *, replace: bool = False) -> None:
        """Write an object by PUT, as WebDAV servers take it; folders are made by MKCOL."""
        if not replace and self.size(location) is not None:  # not every server honours If-None-Match
            raise FileExistsError(f"{location} exists")
        headers = {} if replace else {"If-None-Match": "*"}
        for attempt in range(2):
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            with _opened(source) as body:
                sent = {**headers, "Content-Length": str(size)}
                with self._request("PUT", location, sent, body=body) as response:
                    status = response.status
                    response.read()
            if status in (404, 409) and attempt == 0:
                self._make_folders(location)
                continue
            break
        if status in (404, 409):  # others are making the same folders at this moment
            raise TransientError(f"{location}: its folder cannot be made ({status})")
        if status == 412:
            raise FileExistsError(f"{location} exists")
        if status == 405:
            raise InputError(f"{location}: this server takes no files (WebDAV and object stores do)")
        if not 200 <= status < 300:
            raise _failure(status, location, 0.0)

    def sizes(self, locations: Sequence[str]) -> list[int | None]:
        """Return the sizes of several objects."""
        return sizes_of_each(self, locations)

    def put_many(self, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
        """Write several objects at once."""
        put_each(self, uploads, advance)

    def finish(self, uploads: Sequence[Upload], files: StoreFiles) -> None:
        """Write the last objects of a version in their order."""
        finish_each(self, uploads)

    def _make_folders(self, location: str) -> None:
        parts = urlsplit(location)
        folders = parts.path.strip("/").split("/")[:-1]
        for depth in range(1, len(folders) + 1):
            path = "/" + "/".join(folders[:depth]) + "/"
            with self._request("MKCOL", urlunsplit((parts.scheme, parts.netloc, path, "", "")), {}) as response:
                response.read()  # 405: it is there

    @contextmanager
    def _request(
        self, method: str, location: str, headers: Headers, *, body: Any = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the answer to a request, redirects followed; the connection is kept if the answer was read whole."""
        url = location + (f"?{self._query}" if self._query else "")
        for _ in range(MAX_REDIRECTS + 1):
            connection, response = self._answer(method, url, location, headers, body)
            target = response.headers.get("Location") if response.status in REDIRECTS else None
            if target is None:
                try:
                    yield response
                finally:
                    self._give_back(url, connection, response)
                return
            connection.close()
            if method not in ("GET", "HEAD"):
                raise InputError(f"{location}: the server wants it elsewhere ({response.status}): use that address")
            url = _redirected(url, target, location)
        raise OSError(f"{location}: more than {MAX_REDIRECTS} redirects")

    def _answer(
        self, method: str, url: str, location: str, headers: Headers, body: Any
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        parts = urlsplit(url)
        path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        sent = {"User-Agent": "fsar", "Accept-Encoding": "identity", **headers}
        if _origin(url) == self._host:
            sent |= self._headers
        connection, is_fresh = self._connection(url)
        try:
            connection.request(method, path, body=body, headers=sent)
            return connection, connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            if not is_fresh and body is None and not isinstance(error, TimeoutError):
                return self._answer(method, url, location, headers, body)  # the server had closed it meanwhile
            raise _lost(error, location) from error

    def _connection(self, url: str) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection that nobody uses, and whether it is new."""
        with self._lock:
            idle = self._idle.get(_origin(url))
            if idle:
                return idle.pop(), False
        return _connect(url), True

    def _give_back(self, url: str, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        """Keep a connection whose answer was read whole for the next request; close any other."""
        is_small = response.length is not None and response.length <= SMALL_BODY_BYTES
        if is_small and not response.isclosed() and connection.sock is not None:
            with suppress(OSError, http.client.HTTPException):
                _read_rest(response, connection.sock)  # the page of a 404: cheaper than another handshake
        if not response.isclosed() or response.will_close or connection.sock is None:
            response.close()
            connection.close()
            return
        with self._lock:
            self._idle.setdefault(_origin(url), []).append(connection)

    def _check(self, response: http.client.HTTPResponse, location: str, expected: tuple[int, ...]) -> None:
        if response.status not in expected:
            raise _failure(response.status, location, _retry_after(response))
        coding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise InputError(f"{location}: the server sends it compressed ({coding[:20]!r}) though it was asked not to")


def _close_all(idle: dict[str, list[http.client.HTTPConnection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
    if parts.scheme == "http":
        if proxy and not is_loopback(host):
            raise InputError(f"http through a proxy is not supported: use https for {host}")
        return _Plain(host, port or 80, timeout=TIMEOUT_SECONDS)
    context = ssl.create_default_context()
    if proxy:
        via = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        tunnel = _Secure(via.hostname or "", via.port or 8080, timeout=TIMEOUT_SECONDS, context=context)
        tunnel.set_tunnel(host, port or 443)
        return tunnel
    return _Secure(host, port or 443, timeout=TIMEOUT_SECONDS, context=context)


class _Plain(http.client.HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Secure(http.client.HTTPSConnection):
    pass


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').lower()}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine by its very name."""
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _refuse_plain(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or "") and os.environ.get(ALLOW_HTTP) != "1":
        raise InputError(
            f"{parts.scheme}://{parts.hostname} is not encrypted: use https, or say --allow-http (or {ALLOW_HTTP}=1) "
            "where all who could listen may"
        )


def _redirected(url: str, target: str, location: str) -> str:
    """Return where a redirect leads. Raises OSError for a way out of https, or to something that is no web server."""
    new = urljoin(url, target)
    before, after = urlsplit(url), urlsplit(new)
    if after.scheme not in ("https", "http") or not after.hostname or "@" in after.netloc:
        raise OSError(f"{location}: redirected to something that is no web address")
    if after.scheme == "http" and before.scheme == "https":
        raise OSError(f"{location}: redirected from https to http ({after.hostname}), which is refused")
    if is_loopback(after.hostname) and not is_loopback(before.hostname or ""):
        raise OSError(f"{location}: redirected to this very machine, which is refused")
    _refuse_plain(new)
    return urlunsplit((after.scheme, after.netloc, quote(after.path, safe="/%:=@+,;!~$&'()*"), after.query, ""))


def _credentials(location: str) -> dict[str, str]:
    """Return the Authorization header for a host from .netrc, over https or to this machine alone."""
    parts = urlsplit(location)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        return {}
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        entry = netrc.netrc(path).authenticators(parts.hostname or "")
    except FileNotFoundError:
        return {}
    except (netrc.NetrcParseError, OSError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
    if entry is None:
        return {}
    return {"Authorization": "Basic " + b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()}


def _extent(response: http.client.HTTPResponse, location: str, *, asked: int) -> tuple[int, int | None]:
    """Return the first byte that comes and the size of the whole."""
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != asked:
            raise TransientError(f"{location}: the server gives another part of it than was asked for")
        return asked, None if found[3] == "*" else int(found[3])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() and len(length) < 20 else None


def _blocks(response: http.client.HTTPResponse, location: str) -> Iterator[bytes]:
    since, n_bytes = time.monotonic(), 0
    while True:
        try:
            block = response.read1(BLOCK_BYTES)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _lost(error, location) from error
        if not block:
            if response.length:  # the connection ended before what was announced
                raise TransientError(f"{location}: the connection ended early")
            with suppress(Exception):
                response.read()  # marks it as read whole, so that the connection is kept
            return
        yield block
        n_bytes += len(block)
        now = time.monotonic()
        if now - since > PACE_SECONDS:
            if n_bytes < PACE_BYTES:
                raise TransientError(f"{location}: the server has stalled ({n_bytes} bytes in {PACE_SECONDS:.0f} s)")
            since, n_bytes = now, 0


def _read_rest(response: http.client.HTTPResponse, connection: socket.socket) -> None:
    """Read what is left of a small answer, but not for long: a server that trickles would hold us up for hours."""
    until = time.monotonic() + REST_SECONDS
    connection.settimeout(REST_SECONDS)
    while response.length and time.monotonic() < until:
        if not response.read1(SMALL_BODY_BYTES):
            return
    if not response.length:
        response.read()  # marks it as read whole
        connection.settimeout(TIMEOUT_SECONDS)


def _capped(blocks: Iterator[bytes], n_bytes: int, location: str) -> Iterator[bytes]:
    total = 0
    for block in blocks:
        total += len(block)
        if total > n_bytes:
            raise InputError(f"{location}: longer than {n_bytes} bytes")
        yield block


def _lost(error: BaseException, location: str) -> OSError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return OSError(f"{location}: its certificate is not valid ({error.verify_message})")
    if isinstance(error, TimeoutError):
        return TransientError(f"{location}: no answer for {TIMEOUT_SECONDS:.0f} s")
    if isinstance(error, socket.gaierror):
        return TransientError(f"{location}: no such host, or no network")
    if isinstance(error, OSError) and error.strerror:
        return TransientError(f"{location}: {error.strerror}")
    return TransientError(f"{location}: the connection was lost ({type(error).__name__})")


def _failure(status: int, location: str, retry_after_seconds: float) -> OSError:
    if status in (404, 410):
        return NotThereError(f"{location} is not there")
    if status in (401, 403):
        return PermissionError(f"{location}: access denied ({status}); credentials are taken from .netrc")
    if status == 507:
        return OSError(f"{location}: the server has no room")
    if status in BUSY:
        return TransientError(
            f"{location}: the server is busy or broken ({status})", retry_after_seconds=retry_after_seconds
        )
    return OSError(f"{location}: the server answers {status}")


def _retry_after(response: http.client.HTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return min(float(text[:9]), MAX_RETRY_AFTER_SECONDS)
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[Any]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file:
        yield file


class _Links(HTMLParser):
    """Collects the targets of links in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for key, value in attrs if tag == "a" and key == "href" and value]


def _names(location: str, links: list[str]) -> list[str]:
    """Return the links that lead to direct children of a folder, as names."""
    base = urlsplit(location + "/")
    names = set()
    for link in links:
        target = urlsplit(urljoin(location + "/", link))
        rest = target.path.removeprefix(base.path)
        if target.netloc != base.netloc or not target.path.startswith(base.path) or target.query:
            continue
        if rest and "/" not in rest.rstrip("/") and rest != "/":
            names.add(unquote(rest))
    return sorted(names)
