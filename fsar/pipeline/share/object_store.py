"""Stores in object stores: s3://, gs:// and az://, by obstore, with credentials from the environment and profiles."""

import configparser
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsar.errors import InputError
from fsar.pipeline.share.address import Address
from fsar.pipeline.share.http_transport import ALLOW_HTTP, is_loopback
from fsar.pipeline.share.transport import BLOCK_BYTES, Body, NotThereError, TransientError, Upload, register_transport
from fsar.pipeline.share.upload import finish_each, put_each, sizes_of_each
from fsar.pipeline.store.format.files import StoreFiles

ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURITE_BLOB_STORAGE_URL",
)
TIMEOUT = {"timeout": "120s", "connect_timeout": "30s"}
RETRIES = {"max_retries": 2}
"""The rest of the patience is ours."""
MULTIPART_BYTES = 64 << 20
_STATUS = re.compile(r"\b([45]\d\d)\b")


@register_transport("s3", "gs", "az")
class ObjectStoreTransport:
    """Whole objects of one bucket or container."""

    def __init__(self, address: Address) -> None:
        self._root = "/".join(address.location.split("/", 3)[:3])
        if address.query:
            raise InputError(f"{address}: an address of an object store has no query; see its environment variables")
        self._store = _open_bucket(address.scheme, self._root)

    @contextmanager
    def get(self, location: str, *, start: int = 0, resume: str = "") -> Iterator[Body]:
        """Open an object."""
        import obstore

        options: dict[str, Any] = {"range": {"offset": start}, "if_match": resume} if start and resume else {}
        try:
            result = obstore.get(self._store, self._key(location), options=options or None)  # type: ignore[arg-type]
        except Exception as error:
            problem = _translated(error, location)
            if not options or isinstance(problem, NotThereError | PermissionError):
                raise problem from None
            with self.get(location) as body:  # it has changed, or the server knows no ranges: from its beginning then
                yield body
            return
        meta = result.meta
        yield Body(start if options else 0, int(meta["size"]), str(meta["e_tag"] or ""), _blocks(result, location))

    def children(self, location: str) -> list[str]:
        """Return the names below a prefix."""
        import obstore

        prefix = self._key(location)
        try:
            found = obstore.list_with_delimiter(self._store, prefix or None)
        except Exception as error:
            raise _translated(error, location) from None
        names = [item["path"].rpartition("/")[2] for item in found["objects"]]
        return sorted([*names, *(path.rstrip("/").rpartition("/")[2] + "/" for path in found["common_prefixes"])])

    def size(self, location: str) -> int | None:
        """Return the size of an object."""
        import obstore

        try:
            return int(obstore.head(self._store, self._key(location))["size"])
        except Exception as error:
            problem = _translated(error, location)
            if isinstance(problem, NotThereError):
                return None
            raise problem from None

    def put(self, location: str, source: Path | bytes, *, replace: bool = False) -> None:
        """Write an object; object stores show it when it is whole."""
        import obstore

        if not replace and self.size(location) is not None:  # not every server honours "create only"
            raise FileExistsError(f"{location} exists")
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        try:
            obstore.put(self._store, self._key(location), source, use_multipart=size > MULTIPART_BYTES)
        except Exception as error:
            raise _translated(error, location) from None

    def sizes(self, locations: Sequence[str]) -> list[int | None]:
        """Return the sizes of several objects."""
        return sizes_of_each(self, locations)

    def put_many(self, uploads: Sequence[Upload], advance: Callable[[int], None]) -> None:
        """Write several objects at once."""
        put_each(self, uploads, advance)

    def finish(self, uploads: Sequence[Upload], files: StoreFiles) -> None:
        """Write the last objects of a version in their order."""
        finish_each(self, uploads)

    def _key(self, location: str) -> str:
        return location.removeprefix(self._root).strip("/")


def _open_bucket(scheme: str, root: str) -> Any:
    try:
        from obstore import store
    except ImportError:
        raise InputError(f"{scheme} addresses need the package obstore: pip install 'fsar[remote]'") from None
    options = {**TIMEOUT, "allow_http": True} if _may_be_plain() else TIMEOUT
    common: dict[str, Any] = {"client_options": options, "retry_config": RETRIES}
    try:
        if scheme == "s3":
            return store.S3Store.from_url(root, **_s3_profile(), **common)
        return (store.GCSStore if scheme == "gs" else store.AzureStore).from_url(root, **common)
    except Exception as error:
        raise InputError(
            f"{root}: {type(error).__name__}; check the environment variables of the object store"
        ) from None


def _may_be_plain() -> bool:
    """Return whether the endpoint that the environment names may be spoken to without encryption."""
    endpoints = [os.environ.get(name, "") for name in ENDPOINTS]
    hosts = [urlsplit(endpoint).hostname or "" for endpoint in endpoints if endpoint.startswith("http://")]
    return os.environ.get(ALLOW_HTTP) == "1" or (bool(hosts) and all(is_loopback(host) for host in hosts))


def _s3_profile() -> dict[str, Any]:
    """Return what ~/.aws says of the profile, where the environment itself holds no key."""
    named = {"region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""}
    named["endpoint"] = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if "AWS_ACCESS_KEY_ID" not in os.environ:
        profile = os.environ.get("AWS_PROFILE", "default")
        keys = _section("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", profile)
        config = _section("AWS_CONFIG_FILE", "~/.aws/config", profile if profile == "default" else f"profile {profile}")
        merged = {**config, **keys}
        named["region"] = named["region"] or merged.get("region", "")
        named["endpoint"] = named["endpoint"] or merged.get("endpoint_url", "")
        names = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key"}
        names |= {"aws_session_token": "session_token"}
        named |= {ours: merged[theirs] for theirs, ours in names.items() if theirs in merged}
    return {key: value for key, value in named.items() if value}


def _section(variable: str, default: str, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    path = Path(os.environ.get(variable) or default).expanduser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from None
    return dict(parser[name]) if parser.has_section(name) else {}


def _blocks(result: Any, location: str) -> Iterator[bytes]:
    try:
        for block in result.stream(min_chunk_size=BLOCK_BYTES):
            yield bytes(block)
    except Exception as error:
        raise _translated(error, location) from None


def _translated(error: Exception, location: str) -> Exception:
    """Return an error of ours; the library's own text may hold signatures and is left out."""
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError) or kind == "NotFoundError":
        return NotThereError(f"{location} is not there")
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(f"{location}: access denied; credentials are taken from the environment and profiles")
    status = _STATUS.search(str(error))
    if status and status[1] in ("401", "403"):
        return PermissionError(f"{location}: access denied ({status[1]}); credentials are taken from the environment")
    if status and status[1] == "404":
        return NotThereError(f"{location} is not there")
    if status and status[1][0] == "4" and status[1] not in ("408", "425", "429"):
        return OSError(f"{location}: the server answers {status[1]}")
    return TransientError(
        f"{location}: the object store does not answer as it should ({status[1] if status else kind})"
    )
